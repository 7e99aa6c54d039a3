"""Parts that the pyramidal auto-encoder and PIADE share: pooling, join and decoder.

Mishra et al., 2020 (both). Maps are [B, h, w, C]; where the published networks reinterpret memory
they do so channel first, so `join` goes through that order.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from vtadl_jax.errors import UserError
from vtadl_jax.networks.named_layers import ForwardPass, Layer

SIDE = 8  # of the map that the decoder starts from
# Transposed convolutions (outputs, kernel, stride, padding), by the image's side.
DECODERS: dict[int, tuple[tuple[int, int, int, int], ...]] = {
    28: ((16, 5, 1, 1), (32, 5, 1, 0), (32, 6, 1, 0), (32, 6, 1, 0), (3, 5, 1, 0)),
    # Not printed: that of 28 with a larger last kernel.
    32: ((16, 5, 1, 1), (32, 5, 1, 0), (32, 6, 1, 0), (32, 6, 1, 0), (3, 9, 1, 0)),
    120: ((16, 3, 2, 1), (32, 3, 2, 1), (32, 4, 2, 0), (3, 4, 2, 1)),
    # Not printed: each layer doubles the sides.
    **{
        SIDE * 2**n: (*((min(16 * 2**i, 32), 4, 2, 1) for i in range(n - 1)), (3, 4, 2, 1))
        for n in range(3, 7)
    },
}


def check_side(image_size: tuple[int, int]) -> int:
    """Returns the image's side. Raises UserError if there is no decoder for it."""
    height, width = image_size
    if height != width or height not in DECODERS:
        sides = sorted(DECODERS)
        near = min(sides, key=lambda side: abs(side - max(image_size)))
        raise UserError(
            f"image_size {height}x{width}: the decoder makes squares of side "
            f"{', '.join(map(str, sides))}: use {near, near}"
        )
    return height


def decoder_table(side: int, channels: int) -> dict[str, Layer]:
    """Returns the decoder's layers for a first map of `channels`."""
    found, layers = {}, DECODERS[side]
    for i, (features, kernel, _, _) in enumerate(layers):
        found[f"decoder.{3 * i}"] = Layer("up", (kernel, kernel, channels, features))
        if i < len(layers) - 1:
            found[f"decoder.{3 * i + 1}"] = Layer("norm", (features,))
        channels = features
    return found


def decode(forward: ForwardPass, x, side: int, activation: str):
    """Returns images [B, side, side, 3] from maps [B, 8, 8, C]. activation: 'tanh', 'sigmoid'."""
    layers = DECODERS[side]
    for i, (_, _, stride, padding) in enumerate(layers):
        x = forward.up(f"decoder.{3 * i}", x, stride, padding)
        if i < len(layers) - 1:
            x = forward.keep(f"decoder{i}", forward.norm_relu(f"decoder.{3 * i + 1}", x))
    x = jnp.tanh(x) if activation == "tanh" else jax.nn.sigmoid(x)
    return forward.keep("recon", x)


def joined_channels(values: int, what: str) -> int:
    """Returns the channels of the joined map of so many values. Raises UserError for a remainder.

    what: the options that decide it.
    """
    if values % SIDE**2:
        raise UserError(
            f"{what}: the joined map has {values} values, which {SIDE}x{SIDE} does not divide: use "
            "a larger model.backbone.width, or an even number of encoders"
        )
    return values // SIDE**2


def join(features, vectors: list[jax.Array]):
    """Joins a map [B, h, w, C] and vectors [B, n] and reads them as a map [B, 8, 8, ·].

    The values in order, channel first, the map's before the vectors': at 4 × 4, four maps one after
    the other become one of 8 × 8.
    """
    flat = [channel_first(features), *vectors]
    return (
        jnp.concatenate(flat, -1).reshape(features.shape[0], -1, SIDE, SIDE).transpose(0, 2, 3, 1)
    )


def channel_first(x):
    """Returns the values of maps [B, h, w, C] in channel-first order, [B, C·h·w]."""
    return x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)


@functools.cache
def pooling_matrix(size_in: int, size_out: int) -> np.ndarray:
    """Returns the weights of PyTorch's adaptive average pooling along an axis, [out, in] float64.

    Output i averages the inputs from ⌊i·in / out⌋ to ⌈(i + 1)·in / out⌉; more outputs than inputs
    repeat them.
    """
    matrix = np.zeros((size_out, size_in))
    for i in range(size_out):
        start, end = i * size_in // size_out, -(-(i + 1) * size_in // size_out)
        matrix[i, start:end] = 1 / (end - start)
    return matrix


def adaptive_average_pool(x, size: int):
    """Averages x [B, h, w, C] to [B, size, size, C], as torch.nn.AdaptiveAvgPool2d."""
    if size == 1:
        return x.mean((1, 2), keepdims=True)
    if x.shape[1:3] == (size, size):
        return x
    rows, columns = (jnp.asarray(pooling_matrix(n, size), x.dtype) for n in x.shape[1:3])
    precision = jax.lax.Precision.HIGHEST
    return jnp.einsum("uh,bhwc,vw->buvc", rows, x, columns, precision=precision)
