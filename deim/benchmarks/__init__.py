"""Measurements of speed, beside those of others."""
