"""One file an experiment; each holds only what differs from default.py."""
