"""Comparisons with other implementations: speed, memory and numerical agreement."""
