"""Restricts maps, means and samples to the pixels that are inspected (`data.regions`).

`inspecting` sets the pixels for the operations that are traced within it; without it, every
operation here is the plain one. Cells of a coarser grid are inspected if one of their pixels is.
"""

import contextvars
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_inside: contextvars.ContextVar[Any] = contextvars.ContextVar("inside", default=None)


def inspecting(function: Callable) -> Callable:
    """Returns (inside, *args) → function(*args), traced for the pixels `inside`, bool [B, H, W].

    [1, H, W] is for all images; in numpy it is a constant of the program.
    """

    @functools.wraps(function)
    def traced(inside, *args):
        token = _inside.set(inside)
        try:
            return function(*args)
        finally:
            _inside.reset(token)

    return traced


def inside_of(shape: tuple[int, ...]) -> Any:
    """Returns which cells of a grid are inspected, bool [N or 1, h, w] for `shape` (N, h, w).

    N is a multiple of the number of images: several grids of each, all images of one first. None
    outside of `inspecting`.
    """
    inside = _inside.get()
    if inside is None:
        return None
    if inside.shape[1:] != tuple(shape[1:]):
        rows, columns = (_cells(n, m) for n, m in zip(inside.shape[1:], shape[1:], strict=True))
        xp = np if isinstance(inside, np.ndarray) else jnp
        inside = xp.einsum("uh,bhw,vw->buv", rows, inside.astype(np.float32), columns) > 0
    if inside.shape[0] == 1 or inside.shape[0] == shape[0]:
        return inside
    return jnp.tile(inside, (shape[0] // inside.shape[0], 1, 1))


def _cells(pixels: int, cells: int) -> np.ndarray:
    """Returns which pixels of a side are in which cell, [cells, pixels] float32 of 0 and 1."""
    first = np.floor(np.arange(pixels) * cells / pixels).astype(int)
    last = np.minimum(np.ceil((np.arange(pixels) + 1) * cells / pixels).astype(int) - 1, cells - 1)
    cell = np.arange(cells)[:, None]
    return ((cell >= first) & (cell <= last)).astype(np.float32)


def only_inside(maps):
    """Returns maps [B, h, w] with the lowest value inside each in place of those outside."""
    inside = inside_of(maps.shape)
    if inside is None:
        return maps
    highest = jnp.finfo(maps.dtype).max
    lowest = jnp.where(inside, maps, highest).min((1, 2), keepdims=True)
    return jnp.where(inside, maps, lowest)


def mean_inside(values):
    """Returns the mean of each map inside, [B, h, w] → [B]."""
    inside = inside_of(values.shape)
    if inside is None:
        return values.mean((1, 2))
    return jnp.where(inside, values, 0).sum((1, 2)) / inside.sum((1, 2))


def top_mean_inside(maps, fraction: float):
    """Returns the mean of each map's largest values, a fraction of those inside: [B, h, w] → [B].

    At least one value counts.
    """
    flat = only_inside(maps).reshape(maps.shape[0], -1)
    most = max(1, int(fraction * flat.shape[1]))
    highest = jax.lax.top_k(flat, most)[0]
    inside = inside_of(maps.shape)
    if inside is None:
        return highest.mean(-1)
    count = jnp.clip((fraction * inside.sum((1, 2))).astype(jnp.int32), 1, most)
    chosen = jnp.arange(most) < count[:, None]
    return jnp.where(chosen, highest, 0).sum(-1) / count


def places_inside(key, batch: int, count: int, height: int, width: int):
    """Draws positions in maps [batch, height, width], row by row: int32 [batch, count].

    Each is inside; one may be drawn twice.
    """
    inside = inside_of((batch, height, width))
    if inside is None:
        return jax.random.randint(key, (batch, count), 0, height * width)
    total = inside.sum((1, 2))
    ranks = jax.random.randint(key, (batch, count), 0, total[:, None])
    return _of_rank(inside, ranks)


def common_places(key, batch: int, count: int, height: int, width: int):
    """Draws positions as `places_inside`: the same ones for all images if all is inspected."""
    if _inside.get() is not None:
        return places_inside(key, batch, count, height, width)
    places = jax.random.randint(key, (count,), 0, height * width)
    return jnp.broadcast_to(places, (batch, count))


def every_place_inside(values):
    """Returns values [B, h, w, D] as rows [B, h·w, D]; those inside again in place of others."""
    batch, height, width, dim = values.shape
    rows = values.reshape(batch, -1, dim)
    inside = inside_of((batch, height, width))
    if inside is None:
        return rows
    total = jnp.broadcast_to(inside.sum((1, 2)), (batch,))
    ranks = jnp.arange(height * width) % total[:, None]
    return jnp.take_along_axis(rows, _of_rank(inside, ranks)[..., None], axis=1)


def _of_rank(inside, ranks):
    """Returns the positions [B, n] of the cells inside that have these ranks, from 0."""
    flat = jnp.broadcast_to(inside.reshape(inside.shape[0], -1), (len(ranks), inside[0].size))
    counts = jnp.cumsum(flat, -1)
    return jax.vmap(lambda c, r: jnp.searchsorted(c, r + 1))(counts, ranks).astype(jnp.int32)


def restored_outside(images, recon):
    """Returns a reconstruction [B, H, W, C] with the image's own pixels outside, and by how much
    means over the image are to be multiplied to be means inside, [B]; 1 outside of `inspecting`."""
    inside = inside_of(images.shape[:3])
    if inside is None:
        return recon, 1.0
    pixels = inside.shape[1] * inside.shape[2]
    return jnp.where(inside[..., None], recon, images), pixels / inside.sum((1, 2))
