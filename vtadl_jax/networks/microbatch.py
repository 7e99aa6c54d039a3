"""Microbatches: a batch is processed in parts, one after the other. Same result, less memory.

The backward pass recomputes the activations of a part and accumulates gradients over the parts.
Compute statistics of the whole batch between two calls, so that they stay exact.
"""

from collections.abc import Callable

import flax.linen as nn
import jax


def map_microbatches(function: Callable, microbatches: int) -> Callable:
    """Returns `function` of arrays [B, ...], applied to `microbatches` equal parts in sequence."""
    if microbatches == 1:
        return function
    body = jax.checkpoint(lambda xs: function(*xs), prevent_cse=False)
    return lambda *arrays: _merge(jax.lax.map(body, _split(arrays, microbatches)))


def call_microbatches(module: nn.Module, microbatches: int, *arrays, **options):
    """Calls `module(*arrays, **options)` as `map_microbatches`; its variables are all params."""
    if microbatches == 1:
        return module(*arrays, **options)
    body = nn.remat(lambda module, _, xs: (None, module(*xs, **options)), prevent_cse=False)
    scan = nn.scan(body, variable_broadcast="params", split_rngs={"params": False})
    return _merge(scan(module, None, _split(arrays, microbatches))[1])


def _split(arrays, microbatches: int):
    """Splits [B, ...] into [parts, B / parts, ...] with a stride of `parts` rows, so that every
    device holds an equal share of every part."""
    return jax.tree.map(lambda x: x.reshape(-1, microbatches, *x.shape[1:]).swapaxes(0, 1), arrays)


def _merge(arrays):
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), arrays)
