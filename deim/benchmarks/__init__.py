"""Measurements beside the code of others: of speed, and of how exactly it does the same."""
