"""Compile studies: a step is lowered from shapes alone, compiled by XLA, analysed and reported.

Needs no target device, no data and no state. See `vtadl_jax/compile.py` for the command.
"""
