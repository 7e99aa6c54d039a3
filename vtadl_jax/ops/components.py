"""Connected components of a mask, and the strongest of them in a map, with static shapes.

For programs that hold the whole decision (`export/deploy.py`). Not here: the same on the host, for
any number of regions (`evaluation/regions.py`).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class Components(NamedTuple):
    """The K components with the highest peaks, those first; unused rows are 0.

    boxes: [K, 4] int32 (top, left, bottom, right), the last two just outside. areas: [K] int32, in
    pixels. peaks: [K] float32, the largest value. peaks_at: [K, 2] int32 (row, column), the first
    in reading order. means: [K] float32. total: [] int32, of all components, also above K.
    """

    boxes: jax.Array
    areas: jax.Array
    peaks: jax.Array
    peaks_at: jax.Array
    means: jax.Array
    total: jax.Array


def label_components(mask: jax.Array) -> jax.Array:
    """Labels 8-connected components: [H, W] bool → [H, W] int32.

    A label is the index of the component's first pixel in reading order; pixels outside the mask
    have H · W. Each turn takes the lowest label of the neighbourhood and then that pixel's own
    label: labels jump, so that snakes of n pixels take about log n turns.
    """
    height, width = mask.shape
    none = height * width
    own = lax.broadcasted_iota(jnp.int32, mask.shape, 0) * width
    own = jnp.where(mask, own + lax.broadcasted_iota(jnp.int32, mask.shape, 1), none)

    def lowest(labels: jax.Array, axis: int) -> jax.Array:
        margins = [(1, 1) if i == axis else (0, 0) for i in range(2)]
        wide = jnp.pad(labels, margins, constant_values=none)
        before, after = (
            lax.slice_in_dim(wide, k, k + labels.shape[axis], axis=axis) for k in (0, 2)
        )
        return jnp.minimum(labels, jnp.minimum(before, after))

    def turn(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        labels, _ = state
        near = jnp.where(mask, lowest(lowest(labels, 0), 1), none)
        flat = jnp.append(near.reshape(-1), jnp.int32(none))
        found = flat[flat[near]]
        return found, jnp.any(found != labels)

    return lax.while_loop(lambda state: state[1], turn, (own, jnp.any(mask)))[0]


def strongest_components(values: jax.Array, mask: jax.Array, most: int) -> Components:
    """Finds the components of a mask in which the values are highest.

    values: [H, W] float32, finite where mask [H, W] bool is true. most: K, the number of rows.
    Equal peaks are in reading order. Equals `evaluation.regions.find_regions`, its first K.
    """
    height, width = mask.shape
    labels = label_components(mask)
    own = lax.broadcasted_iota(jnp.int32, mask.shape, 0) * width
    own += lax.broadcasted_iota(jnp.int32, mask.shape, 1)
    values = values.astype(jnp.float32)

    def another(state: tuple[Any, jax.Array, Components]) -> bool:
        k, left, _ = state
        return (k < most) & jnp.any(left)

    def turn(state: tuple[Any, jax.Array, Components]) -> tuple[Any, jax.Array, Components]:
        k, left, found = state
        at = jnp.argmax(jnp.where(left, values, -jnp.inf)).astype(jnp.int32)
        row, column = at // width, at % width
        member = labels == labels[row, column]
        area = jnp.sum(member, dtype=jnp.int32)
        # About the peak: values far from 0 beside their spread keep their digits.
        peak = values[row, column]
        mean = peak + jnp.sum(jnp.where(member, values - peak, 0)) / area
        box = [*_ends(member.any(1), height), *_ends(member.any(0), width)]
        rows = (
            jnp.stack([box[0], box[2], box[1], box[3]]),
            area,
            peak,
            jnp.stack([row, column]),
            mean,
        )
        made = [_with_row(old, k, new) for old, new in zip(found[:-1], rows, strict=True)]
        return k + 1, left & ~member, Components._make([*made, found.total])

    empty = Components(
        jnp.zeros((most, 4), jnp.int32),
        jnp.zeros(most, jnp.int32),
        jnp.zeros(most, jnp.float32),
        jnp.zeros((most, 2), jnp.int32),
        jnp.zeros(most, jnp.float32),
        jnp.sum(mask & (labels == own), dtype=jnp.int32),
    )
    return lax.while_loop(another, turn, (jnp.int32(0), mask, empty))[2]


def _with_row(array: jax.Array, k: Any, row: jax.Array) -> jax.Array:
    """Returns the array with another row k."""
    here = jnp.arange(len(array)) == k
    return jnp.where(here.reshape(-1, *[1] * (array.ndim - 1)), row, array)


def _ends(inside: jax.Array, size: Any) -> tuple[jax.Array, jax.Array]:
    """Returns the first true index, and the last one plus 1, as int32."""
    first, last = jnp.argmax(inside), jnp.argmax(inside[::-1])
    return first.astype(jnp.int32), (size - last).astype(jnp.int32)
