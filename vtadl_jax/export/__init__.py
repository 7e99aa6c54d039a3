"""Exports trained runs for other programs."""
