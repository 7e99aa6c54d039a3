"""Procedural data sets: rendered images of machined parts."""
