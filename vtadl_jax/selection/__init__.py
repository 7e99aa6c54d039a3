"""Chooses among variants of a method without the answers of a set's test images."""
