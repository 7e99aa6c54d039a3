"""A fusion boundary for XLA's CPU compiler.

That compiler fuses loops into their consumers greedily: two passes of a separable filter become
one that repeats the first for every tap of the second, and a loop fused into a reduction is no
longer vectorised. `jax.lax.optimization_barrier` is gone before fusion starts. A call that may not
be inlined stays: its arguments and results are arrays in memory.
"""

import functools
from collections.abc import Callable

import jax
from jax.experimental.xla_metadata import set_xla_metadata


def outlined(function: Callable) -> Callable:
    """Returns `function` as a call that is never inlined: no fusion crosses its boundary."""
    call = jax.jit(function)

    @functools.wraps(function)
    def run(*args):
        with set_xla_metadata(inlineable="false"):
            return call(*args)

    return run
