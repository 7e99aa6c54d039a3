"""Exact searches of SPADE: the nearest images, and the nearest vector for each place of a map.

Neighbours are found by matrix products, |q - b|² = |q|² - 2 q·b + |b|², whose memory is bounded:
the bank is taken block by block, with a running best. Their distances are then taken from
differences, as the expansion cancels where q is near b.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vtadl_jax.ops.platform import split_by_size

SHIFT = 1e-6  # added to every component of a difference by the published program
HUNDRED = 100  # vectors that it takes at once; it leaves out what is over
EXACT = jax.lax.Precision.HIGHEST
LEAST_BLOCK = 256  # vectors of the bank, before queries are divided, too


def nearest_images(vectors, bank, count, neighbours: int):
    """Returns the distances to the nearest vectors, ascending, and their indices: [B, K] each.

    vectors: [B, D]. bank: [M, D] float32, of which the first `count` are valid, at least K. Of
    equal distances the smaller index comes first.
    """
    centre = bank.sum(0) / count  # unused entries are zero
    queries, rows = vectors - centre, bank - centre
    closeness = 2 * jnp.matmul(queries, rows.T, precision=EXACT) - jnp.square(rows).sum(-1)
    closeness = jnp.where(jnp.arange(len(bank)) < count, closeness, -jnp.inf)
    _, index = jax.lax.top_k(closeness, neighbours)
    offsets = queries[:, None] - rows[index]
    return jnp.sqrt(jnp.square(offsets).sum(-1)), index


def nearest_vectors(queries, bank, memory: int, shift: float = 0.0):
    """Returns the Euclidean distance of each query to the nearest vector of the bank, [Q] float32.

    queries: [Q, D], bank: [M, D] float32. memory: bytes of the products that exist at once. shift:
    added to every component of the difference bank - query.
    """
    count, size = len(queries), len(bank)
    rows, block = block_sizes(count, size, memory)
    centre = bank.mean(0)
    centred, others = queries - centre, bank - centre
    centred = jnp.pad(centred, ((0, -count % rows), (0, 0))).reshape(-1, rows, bank.shape[1])
    norms = jnp.pad(jnp.square(others).sum(-1), (0, -size % block), constant_values=jnp.inf)
    others = jnp.pad(others, ((0, -size % block), (0, 0))).reshape(-1, block, bank.shape[1])
    starts = jnp.arange(len(others)) * block

    def nearest_of(some):
        def step(best, part):
            vectors, norms, start = part
            closeness = 2 * jnp.matmul(some, vectors.T, precision=EXACT) - norms
            index = closeness.argmax(-1)
            value = jnp.take_along_axis(closeness, index[:, None], 1)[:, 0]
            nearer = value > best[0]  # of equal ones the first
            return (jnp.where(nearer, value, best[0]), jnp.where(nearer, start + index, best[1])), 0

        start = (jnp.full(rows, -jnp.inf), jnp.zeros(rows, starts.dtype))
        return jax.lax.scan(step, start, (others, norms.reshape(-1, block), starts))[0][1]

    index = jax.lax.map(nearest_of, centred).reshape(-1)[:count]
    return jnp.sqrt(jnp.square(bank[index] - queries + shift).sum(-1))


def block_sizes(queries: int, vectors: int, memory: int) -> tuple[int, int]:
    """Returns how many queries and vectors of a bank are multiplied at once: nearly equal parts,
    whose products take at most `memory` bytes (but at least one product, 4 bytes)."""
    products = max(1, memory // 4) if split_by_size() else queries * vectors
    rows = max(1, min(queries, products // min(vectors, LEAST_BLOCK)))
    rows = -(-queries // -(-queries // rows))
    block = max(1, min(vectors, products // rows))
    return rows, -(-vectors // -(-vectors // block))


def level_distances(level, gallery, memory: int, published: bool = False):
    """Returns the distance of each place of a map to the nearest vector of the gallery: [h, w].

    level: [h, w, C]. gallery: the maps of the neighbours, [K, h, w, C]; any place may match any
    other. published: as the published program: vectors in the order (neighbour, column, row) are
    cut to a whole number of hundreds, and every component of a difference is shifted by 1e-6.
    """
    channels = level.shape[-1]
    queries = level.reshape(-1, channels)
    if not published:
        found = nearest_vectors(queries, gallery.reshape(-1, channels), memory)
    else:
        bank = gallery.swapaxes(1, 2).reshape(-1, channels)
        bank = bank[: len(bank) // HUNDRED * HUNDRED]
        found = nearest_vectors(queries, bank, memory, SHIFT)
    return found.reshape(level.shape[:2])


def level_distances_reference(
    level: np.ndarray, gallery: np.ndarray, published: bool = False
) -> np.ndarray:
    """Computes `level_distances` from its definition, one place at a time, float64."""
    level, gallery = np.asarray(level, np.float64), np.asarray(gallery, np.float64)
    bank = [
        gallery[k, row, column]
        for k in range(len(gallery))
        for column in range(gallery.shape[2])
        for row in range(gallery.shape[1])
    ]
    if published:
        bank = bank[: len(bank) - len(bank) % HUNDRED]
    found = np.empty(level.shape[:2])
    for row, column in np.ndindex(*found.shape):
        offsets = np.array(bank) - level[row, column] + (SHIFT if published else 0)
        found[row, column] = np.sqrt(np.square(offsets).sum(1)).min()
    return found
