"""Tests of vtadl_jax.export."""
