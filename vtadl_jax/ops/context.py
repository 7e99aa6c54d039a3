"""Gathers the context of each grid position, the position itself excluded."""

import jax.numpy as jnp
import numpy as np

DIRECTIONS = 8


def ring_offsets(radius: int) -> tuple[tuple[int, int], ...]:
    """Returns eight (row, column) offsets at `radius`, rounded to grid positions, clockwise."""
    angles = np.arange(DIRECTIONS) * 2 * np.pi / DIRECTIONS
    return tuple((round(radius * np.sin(a)), round(radius * np.cos(a))) for a in angles)


def context_of(features, radii: tuple[int, ...]):
    """Concatenates the features at all ring offsets: [B, h, w, D] → [B, h, w, 8 · len(radii) · D].

    Order: ring, offset, feature. Positions beyond the border are clamped to the nearest one; so a
    position at the border may be part of its own context.
    """
    height, width = features.shape[1:3]
    margin = max(radii)
    padded = jnp.pad(features, ((0, 0), (margin,) * 2, (margin,) * 2, (0, 0)), mode="edge")
    offsets = [offset for radius in radii for offset in ring_offsets(radius)]
    views = [
        padded[:, margin + i : margin + i + height, margin + j : margin + j + width]
        for i, j in offsets
    ]
    return jnp.concatenate(views, axis=-1)


def context_reference(features: np.ndarray, radii: tuple[int, ...]) -> np.ndarray:
    """Computes `context_of` one position after another."""
    batch, height, width, dim = features.shape
    found = np.empty((batch, height, width, len(radii) * DIRECTIONS, dim), features.dtype)
    for row in range(height):
        for column in range(width):
            places = [offset for radius in radii for offset in ring_offsets(radius)]
            for number, (i, j) in enumerate(places):
                near = np.clip(row + i, 0, height - 1), np.clip(column + j, 0, width - 1)
                found[:, row, column, number] = features[:, near[0], near[1]]
    return found.reshape(batch, height, width, -1)


def position_code(height: int, width: int) -> np.ndarray:
    """Returns [height, width, 6] float32: row, column in [-1, 1], and sine and cosine of each."""
    rows, columns = (2 * (np.arange(n) + 0.5) / n - 1 for n in (height, width))
    row, column = np.meshgrid(rows, columns, indexing="ij")
    waves = [f(np.pi * x) for x in (row, column) for f in (np.sin, np.cos)]
    return np.stack([row, column, *waves], -1).astype(np.float32)
