"""What surrounds a place of a grid, the place itself left out."""

import jax.numpy as jnp
import numpy as np

DIRECTIONS = 8


def ring_offsets(radius: int) -> tuple[tuple[int, int], ...]:
    """(row, column) steps to eight places at `radius`, to the nearest place, clockwise."""
    angles = np.arange(DIRECTIONS) * 2 * np.pi / DIRECTIONS
    return tuple((round(radius * np.sin(a)), round(radius * np.cos(a))) for a in angles)


def surroundings_of(features, radii: tuple[int, ...]):
    """features: [B, h, w, D] → [B, h, w, 8 · len(radii) · D], ring by ring, place by place.

    Beyond the border the nearest place stands in; so at the border itself, a place may be among
    its own surroundings.
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


def surroundings_reference(features: np.ndarray, radii: tuple[int, ...]) -> np.ndarray:
    """`surroundings_of`, one place after another."""
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
    """[height, width, 6] float32: row and column in [-1, 1], and a sine and cosine of each."""
    rows, columns = (2 * (np.arange(n) + 0.5) / n - 1 for n in (height, width))
    row, column = np.meshgrid(rows, columns, indexing="ij")
    waves = [f(np.pi * x) for x in (row, column) for f in (np.sin, np.cos)]
    return np.stack([row, column, *waves], -1).astype(np.float32)
