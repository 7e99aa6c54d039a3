"""Distances to the nearest vectors of a bank, in blocks whose products fit the cache."""

import jax
import jax.numpy as jnp
import numpy as np

from vtadl_jax.ops.platform import split_by_size

BLOCK = 1024  # queries whose distances to the whole bank are in memory at once


def nearest_distances(queries, bank, neighbours: int = 1, squared: bool = False):
    """Returns the mean Euclidean distance to the nearest vectors of a bank, or of its square.

    queries: [Q, D] float32. bank: [M, D] float32, M ≥ neighbours. Returns [Q] float32.
    |q - b|² = |q|² - 2 q·b + |b|² finds the neighbours by one matrix product a block; their
    distances are then taken from differences, since the expansion cancels where q is near b.
    """
    centre = jnp.asarray(bank).mean(0)  # smaller values cancel fewer digits below
    queries, bank = queries - centre, bank - centre
    count = queries.shape[0]
    block = min(BLOCK, count) if isinstance(count, int) else BLOCK  # a symbolic number in exports
    block = block if split_by_size() else count
    num_blocks = (count + block - 1) // block
    padded = jnp.pad(queries, ((0, num_blocks * block - count), (0, 0)))
    norms = jnp.square(bank).sum(-1)

    def of_block(rows):
        products = jnp.matmul(rows, bank.T, precision=jax.lax.Precision.HIGHEST)
        closeness = 2 * products - norms  # |q|² does not change the order
        _, index = jax.lax.top_k(closeness, neighbours)
        found = jnp.square(rows[:, None] - bank[index]).sum(-1)
        return (found if squared else jnp.sqrt(found)).mean(-1)

    found = jax.lax.map(of_block, padded.reshape(num_blocks, block, queries.shape[-1]))
    return found.reshape(num_blocks * block)[:count]


def nearest_distances_reference(
    queries: np.ndarray, bank: np.ndarray, neighbours: int = 1, squared: bool = False
) -> np.ndarray:
    """Returns the result of `nearest_distances` from its definition, in float64."""
    offsets = queries[:, None].astype(np.float64) - bank[None].astype(np.float64)
    distances = np.sort(np.square(offsets).sum(-1), axis=1)[:, :neighbours]
    return (distances if squared else np.sqrt(distances)).mean(1)
