"""Reads and writes other programs' weights: files, names and layouts. Never runs their code."""
