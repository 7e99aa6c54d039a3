"""Benchmarks of our code against peers in one process: `python -m vtadl_jax.benchmarks.<name>`.

A benchmark prints ratios and writes JSON; tests check that the peers compute the same results.
"""
