"""Edge strength by direction in the cells of an image: a shape descriptor.

A histogram of oriented gradients without blocks or votes: gradients of a smoothed image are
projected on directions over the full circle, negative projections are set to 0, and each is
averaged in a Gaussian window. Square roots reduce the contrast between strong and weak edges.
"""

import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from vtadl_jax.errors import UserError
from vtadl_jax.ops.filters import difference_matrix, separable
from vtadl_jax.ops.resize import gaussian_matrix

GAIN = 2.0  # of edges relative to grey values


def oriented_edges(images, stride: int, num_orientations: int, sigma: float):
    """Computes the descriptor of images [B, H, W] in [0, 1].

    Returns [B, H / stride, W / stride, 1 + num_orientations] float32: the square root of the local
    grey value, then of each direction's mean edge strength, counter-clockwise from "brighter to the
    right". sigma: of the smoothing, in pixels; a cell's window has a sigma of half a stride. Raises
    UserError if the stride does not divide the sides.
    """
    sides = images.shape[1:]
    if stride < 1 or any(side % stride for side in sides):
        raise UserError(
            f"oriented_edges: sides {tuple(sides)} do not divide by stride {stride}: use a divisor"
        )
    smooth = [gaussian_matrix(n, sigma) for n in sides]
    down, across = (difference_matrix(n, 1) @ s for n, s in zip(sides, smooth, strict=True))
    grey = separable(images, *smooth)
    rows, columns = separable(images, down, smooth[1]), separable(images, smooth[0], across)
    windows = [gaussian_matrix(n, stride / 2)[stride // 2 :: stride] for n in sides]
    edges = [GAIN * jnp.maximum(x * columns + y * rows, 0) for x, y in directions(num_orientations)]
    cells = [separable(channel, *windows) for channel in (grey, *edges)]
    return jnp.sqrt(jnp.maximum(jnp.stack(cells, -1), 0))


def directions(count: int) -> np.ndarray:
    """Returns unit vectors (right, down) at equal angles, [count, 2] float64."""
    angles = 2 * np.pi * np.arange(count) / count
    return np.stack([np.cos(angles), np.sin(angles)], -1)


def oriented_edges_reference(
    images: np.ndarray, stride: int, num_orientations: int, sigma: float
) -> np.ndarray:
    """Computes `oriented_edges` with scipy's filters, float64, image by image."""
    found = []
    for image in np.asarray(images, np.float64):
        grey = ndimage.gaussian_filter(image, sigma, mode="reflect")
        rows, columns = (
            ndimage.correlate1d(grey, [-0.5, 0, 0.5], axis, mode="nearest") for axis in (0, 1)
        )
        edges = [
            GAIN * np.maximum(x * columns + y * rows, 0) for x, y in directions(num_orientations)
        ]
        cells = [
            ndimage.gaussian_filter(c, stride / 2, mode="reflect")[
                stride // 2 :: stride, stride // 2 :: stride
            ]
            for c in (grey, *edges)
        ]
        found.append(np.sqrt(np.maximum(np.stack(cells, -1), 0)))
    return np.stack(found)
