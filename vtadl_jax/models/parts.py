"""Working on a batch in parts, one after the other: the same numbers in less memory.

Activations of a part are made again in the backward pass, where gradients accumulate over the
parts. Statistics of the whole batch belong between two calls, so that they stay exact.
"""

from collections.abc import Callable

import flax.linen as nn
import jax


def map_parts(function: Callable, parts: int) -> Callable:
    """`function` of arrays [B, ...] applied to `parts` equal parts of them in turn."""
    if parts == 1:
        return function
    body = jax.checkpoint(lambda xs: function(*xs), prevent_cse=False)
    return lambda *arrays: _merge(jax.lax.map(body, _split(arrays, parts)))


def call_parts(module: nn.Module, parts: int, *arrays, **options):
    """`module(*arrays, **options)` as `map_parts`, for a module that has parameters only."""
    if parts == 1:
        return module(*arrays, **options)
    body = nn.remat(lambda module, _, xs: (None, module(*xs, **options)), prevent_cse=False)
    scan = nn.scan(body, variable_broadcast="params", split_rngs={"params": False})
    return _merge(scan(module, None, _split(arrays, parts))[1])


def _split(arrays, parts: int):
    """[B, ...] → [parts, B / parts, ...]. Every part takes rows from all over the batch, so that
    each device has its share of every part."""
    return jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), arrays)


def _merge(arrays):
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), arrays)
