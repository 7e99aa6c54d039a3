"""VT-ADL in JAX: find and locate defects in images after learning from good images alone."""

__version__ = "0.1.0"
