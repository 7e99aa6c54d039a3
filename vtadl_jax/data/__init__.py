"""Images on disk → arrays: the only room that touches image files. No jax, no device, no model."""
