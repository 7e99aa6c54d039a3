"""Experiment files; each holds only what differs from the defaults of its detector."""
