"""Takes a random window of each image of a batch, inside a compiled step."""

from typing import Any

import jax
from jax import lax


def random_windows(keys: jax.Array, batch: Any, size: tuple[int, int]) -> Any:
    """Returns the batch with a window of each image, and the same one of its mask.

    keys: one for each image. batch: 'image' uint8 [B, h, w, C], 'mask' [B, h, w] if there is one,
    and 'extent' int32 [B, 2], the (height, width) of the part to take windows of, from the top left
    and at least `size`; all other entries stay as they are, without 'extent'. size: (H, W). All
    places inside the extent are equally likely.
    """

    def place(key, extent):
        room = extent - jax.numpy.asarray(size) + 1
        return jax.random.randint(key, (2,), 0, jax.numpy.maximum(room, 1))

    places = jax.vmap(place)(keys, batch["extent"])
    found = {name: value for name, value in batch.items() if name != "extent"}

    def window(values, at):
        start = (*at, *[0] * (values.ndim - 2))
        return lax.dynamic_slice(values, start, (*size, *values.shape[2:]))

    for name in ("image", "mask"):
        if name in found:
            found[name] = jax.vmap(window)(found[name], places)
    return found
