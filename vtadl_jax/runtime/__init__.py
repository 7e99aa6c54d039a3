"""Devices, processes, signals, caches, profiles and the console: no model, no data."""
