"""ConTNet as a frozen feature extractor: convolutions between windowed Transformer encoders.

A block is batch norm, ReLU, two encoders (each attends within windows of 7 × 7 or 14 × 14 places)
and a convolution, with a shortcut around them. `contnet_layout.py` describes the sizes,
`contnet_load.py` makes the weights from a file. Nothing is trained here.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vtadl_jax.networks.contnet_layout import Block, ContNet, Tap, blocks_of
from vtadl_jax.networks.frozen_vit import PIXELS
from vtadl_jax.networks.layers import layer_norm

NORM_EPSILON = 1e-5  # of the LayerNorms


def image_features(weights, images, net: ContNet, taps: Sequence[Tap], dtype: Any = jnp.float32):
    """Extracts the outputs of blocks, concatenated on the finest one's grid.

    A coarser output's cell is repeated over the finer cells that it covers. images: uint8
    [B, H, W, 1 or 3], sides multiples of 224. dtype: of the operands of products. Returns
    [B, h, w, sum of the taps' widths] float32.
    """
    found = tapped(weights, standardized(images), net, taps, dtype)
    finest = min(tap.stride for tap in taps)
    parts = []
    for tap, x in zip(taps, found, strict=True):
        factor = tap.stride // finest
        parts.append(x.repeat(factor, 1).repeat(factor, 2))
    return jnp.concatenate(parts, -1)


def standardized(images):
    """Returns three channels of ImageNet's mean 0 and deviation 1 of uint8 images [B, H, W, C]."""
    mean, deviation = (np.array(values, np.float32) * 255 for values in PIXELS["imagenet"])
    return (jnp.broadcast_to(images.astype(jnp.float32), (*images.shape[:3], 3)) - mean) / deviation


def tapped(
    weights, pixels, net: ContNet, taps: Sequence[Tap], dtype: Any = jnp.float32
) -> list[jax.Array]:
    """Returns the outputs of the taps' blocks, float32, or float64 for such pixels and dtype.

    pixels: standardized, [B, H, W, 3]. Blocks after the last tap are not computed.
    """
    precise = jnp.dtype(dtype).itemsize >= 4
    with jax.default_matmul_precision("highest" if precise else "default"):
        x = stem(weights, pixels, dtype)
        found: dict[int, jax.Array] = {}
        for position, block in enumerate(blocks_of(net)):
            if position > max(tap.position for tap in taps):
                break
            x = found[position] = apply_block(weights, x, net, block, dtype)
    return [found[tap.position] for tap in taps]


def stem(weights, pixels, dtype: Any):
    """Returns a quarter of the sides: a convolution of stride 2 and a maximum of stride 2."""
    x = _conv(pixels, weights["stem"], 2, dtype)
    padding = ((0, 0), (1, 1), (1, 1), (0, 0))
    lowest = jnp.array(-jnp.inf, x.dtype)
    return jax.lax.reduce_window(x, lowest, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), padding)


def apply_block(weights, x, net: ContNet, block: Block, dtype: Any):
    """Applies a block. The shortcut is its input; in a stage's last block, a 1 × 1 convolution of
    the input after norm and ReLU. x: [B, h, w, inputs]."""
    norm = weights[f"{block.name}.norm"]
    active = jax.nn.relu(x * norm["scale"] + norm["bias"])
    h = active
    for number, window in enumerate(block.windows, 1):
        layers = {
            name: weights[f"{block.name}.ste{number}.{name}"]
            for name in ("position", "qkv", "proj", "fc1", "fc2", "norm1", "norm2")
        }
        h = encode_windows(layers, h, net, block.heads, window, dtype)
    h = _conv(h, weights[f"{block.name}.conv"], block.stride, dtype)
    if not block.last:
        return h + x
    stride = block.stride
    if net.average_down and stride == 2:
        batch, rows, columns, width = active.shape
        active = active.reshape(batch, rows // 2, 2, columns // 2, 2, width).mean((2, 4))
        stride = 1
    return h + _conv(active, weights[f"{block.name}.shortcut"], stride, dtype)


def encode_windows(layers, x, net: ContNet, heads: int, window: int, dtype: Any):
    """Applies a Transformer encoder to each window by itself. x: [B, h, w, C] → the same shape."""
    batch, rows, columns, width = x.shape
    shape = (batch, rows // window, window, columns // window, window, width)
    tokens = x.reshape(shape).swapaxes(2, 3).reshape(-1, window * window, width)
    position, bias = layers["position"], None
    if net.relative:
        bias = position["table"][relative_index(window)].transpose(2, 0, 1)
    else:
        rows_of, columns_of = position["rows"][:, None], position["columns"][None]
        pairs = [jnp.broadcast_to(p, (window, window, width // 2)) for p in (rows_of, columns_of)]
        tokens = tokens + jnp.concatenate(pairs, -1).reshape(-1, width)
    if net.pre_norm:
        h = layer_norm(tokens, layers["norm1"], NORM_EPSILON)
        tokens = tokens + _attend(layers, h, heads, bias, dtype)
        h = layer_norm(tokens, layers["norm2"], NORM_EPSILON)
        tokens = tokens + _mlp(layers, h, dtype)
    else:
        tokens = tokens + _attend(layers, tokens, heads, bias, dtype)
        tokens = layer_norm(tokens, layers["norm1"], NORM_EPSILON)
        tokens = layer_norm(tokens + _mlp(layers, tokens, dtype), layers["norm2"], NORM_EPSILON)
    shape = (*shape[:2], *shape[3:1:-1], *shape[4:])
    return tokens.reshape(shape).swapaxes(2, 3).reshape(x.shape)


def relative_index(window: int) -> np.ndarray:
    """Returns the row of the table for each (query, key) of a window: [window², window²]."""
    row, column = np.divmod(np.arange(window * window), window)
    down, across = (n[:, None] - n + window - 1 for n in (row, column))
    return down * (2 * window - 1) + across


def _attend(layers, tokens, heads: int, bias, dtype):
    """Multi-head attention; logits and softmax are float32, or float64. tokens: [W, N, C]."""
    count, length, width = tokens.shape
    qkv = _dense(tokens, layers["qkv"], dtype).reshape(count, length, 3, heads, width // heads)
    q, k, v = (qkv[:, :, i].astype(dtype) for i in range(3))
    kept = _accumulated(dtype)
    logits = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=kept)
    logits = logits / math.sqrt(width // heads)
    probs = jax.nn.softmax(logits if bias is None else logits + bias, -1).astype(dtype)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", probs, v, preferred_element_type=kept)
    return _dense(mixed.reshape(tokens.shape), layers["proj"], dtype)


def _mlp(layers, tokens, dtype):
    hidden = jax.nn.gelu(_dense(tokens, layers["fc1"], dtype), approximate=False)
    return _dense(hidden, layers["fc2"], dtype)


def _dense(x, layer, dtype):
    product = jnp.matmul(
        x.astype(dtype), layer["kernel"].astype(dtype), preferred_element_type=_accumulated(dtype)
    )
    return product + layer["bias"] if "bias" in layer else product


def _conv(x, layer, stride: int, dtype):
    pad = len(layer["kernel"]) // 2
    return jax.lax.conv_general_dilated(
        x.astype(dtype),
        layer["kernel"].astype(dtype),
        (stride, stride),
        ((pad, pad), (pad, pad)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        preferred_element_type=_accumulated(dtype),
    )


def _accumulated(dtype: Any):
    return jnp.promote_types(dtype, jnp.float32)
