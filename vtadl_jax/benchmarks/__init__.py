"""Ours beside its peers in one process: `python -m vtadl_jax.benchmarks.<what>`, JSON out.

A benchmark prints ratios and asserts nothing; tests check that the peers compute the same.
"""
