"""What XLA makes of a step: lowered from shapes alone, compiled, read and written down.

No device of the target is needed, no data and no state: see `vtadl_jax/compile.py` for the command.
"""
