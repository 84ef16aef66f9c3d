"""Formats of annotation tools: how each is recognized and read."""
