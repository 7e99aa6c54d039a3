"""Reads images from disk into arrays; the only package that opens image files. Imports no jax."""
