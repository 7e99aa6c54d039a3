"""Resizes images as Pillow does, inside a compiled program: bilinear with antialiasing.

The slow twin is `PIL.Image.resize(size, Resampling.BILINEAR)`. Pixels of 8 bits are equal to
Pillow's bit for bit: its weights are fixed-point numbers, which integers give for sides known only
when the program runs, too. Floats are weighed in float32 where Pillow uses float64.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

BITS = 22  # of the fraction of Pillow's fixed-point weights: 32, less 8 of a pixel and 2 spare
UNROLLED = 12  # taps that are written out; more of them run in a loop
Side = Any  # an int, or an int32 scalar of a traced program


class Resampling(NamedTuple):
    """The resampling of one axis.

    size_in: pixels of the axis that is read. size_out: pixels that it is scaled to. offset: where
    the result starts among these; outside, the pixel at the edge is repeated. length: pixels of the
    result. lead: where the axis that is read starts in the array; outside the array, the pixel at
    its edge is repeated. All but `length` may be traced.
    """

    size_in: Side
    size_out: Side
    offset: Side
    length: int
    lead: Side = 0

    @property
    def is_known(self) -> bool:
        """Whether the sides are numbers, so that the weights are constants of the program."""
        sides = (self.size_in, self.size_out, self.offset, self.length, self.lead)
        return all(isinstance(side, int) for side in sides)


def resize_pixels(images: jax.Array, rows: Resampling, columns: Resampling) -> jax.Array:
    """Resizes uint8 [B, h, w, C] → uint8 [B, rows.length, columns.length, C], columns first."""
    for axis, resampling in ((2, columns), (1, rows)):
        total = _weighted_sum(images, axis, resampling, _fixed_point, jnp.int32)
        rounded = (total + (1 << (BITS - 1))) >> BITS
        images = jnp.clip(rounded, 0, 255).astype(jnp.uint8)
    return images


def resize_maps(maps: jax.Array, rows: Resampling, columns: Resampling) -> jax.Array:
    """Resizes float32 [B, h, w] → float32 [B, rows.length, columns.length], columns first."""
    for axis, resampling in ((2, columns), (1, rows)):
        maps = _weighted_sum(maps, axis, resampling, _fraction, jnp.float32)
    return maps


def _weighted_sum(values, axis: int, side: Resampling, normalise, dtype) -> jax.Array:
    """Returns the sums of neighbouring values along an axis by `normalise(weight, sum)`."""
    xp: Any = np if side.is_known else jnp
    positions = xp.clip(xp.arange(side.length) + side.offset, 0, side.size_out - 1)
    first, num_taps = _reach(xp, positions, side)
    limit = values.shape[axis] - 1

    def weight(tap):
        """The weight before normalization, an integer: 2 max(in, out) at the center, linear."""
        away = (2 * (first + tap) + 1) * side.size_out - (2 * positions + 1) * side.size_in
        inside = (first + tap >= 0) & (first + tap < side.size_in)
        largest = 2 * xp.maximum(side.size_in, side.size_out)
        return xp.where(inside, xp.maximum(largest - xp.abs(away), 0), 0)

    def add(tap, total):
        index = xp.clip(xp.clip(first + tap, 0, side.size_in - 1) - side.lead, 0, limit)
        taken = jnp.take(values, jnp.asarray(index, jnp.int32), axis=axis).astype(dtype)
        shape = [1] * values.ndim
        shape[axis] = side.length
        return total + taken * jnp.reshape(normalise(xp, weight(tap), whole), shape).astype(dtype)

    shape = list(values.shape)
    shape[axis] = side.length
    total = jnp.zeros(shape, dtype)
    if side.is_known:
        whole = sum(weight(tap) for tap in range(num_taps))
        used = [tap for tap in range(num_taps) if weight(tap).any()]
        if len(used) <= UNROLLED:
            for tap in used:
                total = add(tap, total)
            return total
        xp = jnp
        first, positions = jnp.asarray(first, jnp.int32), jnp.asarray(positions, jnp.int32)
    whole = lax.fori_loop(
        0, num_taps, lambda tap, s: s + weight(tap), jnp.zeros(side.length, jnp.int32)
    )
    return lax.fori_loop(0, num_taps, add, total)


def _reach(xp, positions, side: Resampling):
    """Returns the first pixel that each position reads, [L], and how many they read."""
    twice = 2 * side.size_out
    support = 2 * xp.maximum(side.size_in, side.size_out)
    first = ((2 * positions + 1) * side.size_in - support + side.size_out) // twice
    num_taps = support // side.size_out + 2  # twice the support of the filter, and its ends
    return first, num_taps


def _fixed_point(xp, weight, whole):
    """Returns weight / whole rounded to `BITS` binary places, by long division in integers."""
    quotient, rest = weight // whole, weight % whole
    for _ in range(BITS):
        rest = 2 * rest
        bit = rest >= whole
        quotient, rest = 2 * quotient + bit, rest - xp.where(bit, whole, 0)
    return quotient + (2 * rest >= whole)


def _fraction(xp, weight, whole):
    return weight.astype(xp.float32) / whole.astype(xp.float32)
