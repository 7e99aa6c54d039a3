"""Max pooling of 2 × 2 pixels that remembers where each maximum was, and the unpooling back there.

As PyTorch's `MaxPool2d(2, 2, return_indices=True)` and `MaxUnpool2d(2, 2)`. Of equal values the
first counts, in the order of reading; after a ReLU many windows are tied at zero, and another
choice gives another image. The gradient goes to that one pixel.
"""

import jax
import jax.numpy as jnp

WINDOW = ((0, 0), (0, 1), (1, 0), (1, 1))  # (row, column) of a window's pixels, as read


def max_pool_places(x):
    """Returns the maxima of 2 × 2 windows and their places, 0 to 3 in `WINDOW`.

    x: [B, H, W, C] with even sides. Returns (maxima [B, H/2, W/2, C] of x's type, places uint8).
    Without an array of windows: on a CPU four strided views are compared in one loop. NaN is the
    maximum of its window.
    """
    best, place = x[:, ::2, ::2], jnp.zeros((), jnp.uint8)
    for i, (row, column) in enumerate(WINDOW[1:], 1):
        value = x[:, row::2, column::2]
        better = (value > best) | jnp.isnan(value)
        best, place = jnp.where(better, value, best), jnp.where(better, jnp.uint8(i), place)
    return best, jnp.broadcast_to(place, best.shape)


def max_pool(x):
    """Returns the maxima of 2 × 2 windows, [B, H/2, W/2, C]. x: [B, H, W, C] with even sides."""
    return max_pool_places(x)[0]


def max_unpool(x, places):
    """Puts each value at its place of a 2 × 2 window, zeros elsewhere.

    x: [B, h, w, C]; places: uint8 [B, h, w, C]. Returns [B, 2h, 2w, C].
    """
    batch, height, width, channels = x.shape
    window = jnp.arange(4, dtype=jnp.uint8).reshape(2, 1, 2, 1)
    here = places[:, :, None, :, None] == window
    spread = jnp.where(here, x[:, :, None, :, None], jnp.zeros((), x.dtype))
    return spread.reshape(batch, 2 * height, 2 * width, channels)


def flat_positions(places):
    """Returns PyTorch's index of each maximum: row · W + column in the pooled map, int32."""
    _, height, width, _ = places.shape
    rows = 2 * jnp.arange(height)[:, None, None] + places // 2
    columns = 2 * jnp.arange(width)[:, None] + places % 2
    return (rows * (2 * width) + columns).astype(jnp.int32)


def max_pool_places_reference(x):
    """Computes `max_pool_places` window by window."""
    batch, height, width, channels = x.shape
    maxima = jnp.zeros((batch, height // 2, width // 2, channels), x.dtype)
    places = jnp.zeros(maxima.shape, jnp.uint8)
    for row in range(height // 2):
        for column in range(width // 2):
            window = x[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            window = window.reshape(batch, 4, channels)
            first = jnp.argmax(jax.lax.stop_gradient(window), 1)  # the first of equal ones
            value = jnp.take_along_axis(window, first[:, None], 1)[:, 0]
            maxima = maxima.at[:, row, column].set(value)
            places = places.at[:, row, column].set(first.astype(jnp.uint8))
    return maxima, places


def max_unpool_reference(x, places):
    """Computes `max_unpool` by scattering values to PyTorch's flat positions."""
    batch, height, width, channels = x.shape
    flat = jnp.zeros((batch, 4 * height * width, channels), x.dtype)
    index = flat_positions(places).reshape(batch, -1, channels)
    images, layers = jnp.arange(batch)[:, None, None], jnp.arange(channels)
    flat = flat.at[images, index, layers].set(x.reshape(batch, -1, channels))
    return flat.reshape(batch, 2 * height, 2 * width, channels)
