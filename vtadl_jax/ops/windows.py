"""Square windows on a grid: means in them, and their values brought back to its places."""

import jax.numpy as jnp
import numpy as np

from vtadl_jax.ops.filters import separable


def window_starts(side: int, window: int) -> np.ndarray:
    """First places of windows of `window` places along a side, from its start to its end: [n] int.

    Half a window apart or a little more, so that of three in a row the outer two share no place.
    """
    room, half = side - window, -(-window // 2)
    gaps = max(room // half, 1) if room else 0
    return np.arange(gaps + 1) * room // max(gaps, 1)


def mean_matrix(side: int, window: int) -> np.ndarray:
    """[n, side] float64: means in the windows along a side."""
    places = np.arange(side) - window_starts(side, window)[:, None]
    return ((places >= 0) & (places < window)) / window


def return_matrix(side: int, window: int) -> np.ndarray:
    """[side, n] float64: linear between the centres of windows, the nearest one's value beyond."""
    centres = window_starts(side, window) + (window - 1) / 2
    return np.stack([np.interp(np.arange(side), centres, row) for row in np.eye(len(centres))], 1)


def window_means(values, window: int):
    """values: [B, h, w, D] → means [B, n, m, D] float32 in windows of `window` places a side."""
    batch, height, width, dim = values.shape
    flat = jnp.moveaxis(values, -1, 1).reshape(batch * dim, height, width)
    means = separable(flat, *(mean_matrix(side, window) for side in (height, width)))
    return jnp.moveaxis(means.reshape(batch, dim, *means.shape[1:]), 1, -1)


def to_places(values, grid: tuple[int, int], window: int):
    """values: [B, n, m], one a window → [B, h, w] float32, one a place of the grid."""
    return separable(values, *(return_matrix(side, window) for side in grid))
