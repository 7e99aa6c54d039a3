"""Weights that other programs made: their files, their names and layouts. Never runs their code."""
