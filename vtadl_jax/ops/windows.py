"""Square windows on a grid: means over them, and interpolation back to grid positions."""

import jax.numpy as jnp
import numpy as np

from vtadl_jax.ops.filters import separable


def window_starts(side: int, window: int) -> np.ndarray:
    """Returns the first positions of windows of `window` cells that cover a side: [n] int.

    The step is half a window or slightly more, so a window does not overlap the next but one.
    """
    room, half = side - window, -(-window // 2)
    gaps = max(room // half, 1) if room else 0
    return np.arange(gaps + 1) * room // max(gaps, 1)


def mean_matrix(side: int, window: int) -> np.ndarray:
    """Returns the matrix [n, side] float64 of means over the windows along a side."""
    places = np.arange(side) - window_starts(side, window)[:, None]
    return ((places >= 0) & (places < window)) / window


def return_matrix(side: int, window: int) -> np.ndarray:
    """Returns the matrix [side, n] float64 of linear interpolation between window centres.

    Beyond the outermost centres it repeats the nearest value.
    """
    centres = window_starts(side, window) + (window - 1) / 2
    return np.stack([np.interp(np.arange(side), centres, row) for row in np.eye(len(centres))], 1)


def window_means(values, window: int):
    """Averages values [B, h, w, D] over windows of `window` × `window`: [B, n, m, D] float32."""
    batch, height, width, dim = values.shape
    flat = jnp.moveaxis(values, -1, 1).reshape(batch * dim, height, width)
    means = separable(flat, *(mean_matrix(side, window) for side in (height, width)))
    return jnp.moveaxis(means.reshape(batch, dim, *means.shape[1:]), 1, -1)


def to_places(values, grid: tuple[int, int], window: int):
    """Interpolates values per window [B, n, m] to the grid: [B, h, w] float32."""
    return separable(values, *(return_matrix(side, window) for side in grid))
