"""EfficientNet-lite0 up to a sixteenth of the image's size, as a frozen extractor of features.

Tan and Le, 2019; the lite variant of TensorFlow's authors has ReLU6 and no squeeze-and-excitation.
Batch norms are folded into the convolutions before them, so that a layer is a kernel and a bias.
Its weights come from a file of the user's: `weights/efficientnet.py`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vtadl_jax.ops.depthwise import depthwise_conv
from vtadl_jax.ops.resize import bilinear_matrix

STEM_WIDTH = 32
PIXEL_MEAN, PIXEL_SPREAD = 127.0, 128.0  # of the images that it was trained on
GRID_STRIDE = 8  # pixels from one place of its features to the next
SIDE_MULTIPLE = 16
NUM_FEATURES = 24 + 40 + 112
PRECISION = jax.lax.Precision.HIGHEST


class Block(NamedTuple):
    """An inverted bottleneck: width before, factor of its expansion, taps, stride, width after."""

    width_in: int
    expansion: int
    size: int
    stride: int
    width: int


def _blocks() -> tuple[Block, ...]:
    found, width = [], STEM_WIDTH
    for repeats, expansion, size, stride, after in (
        (1, 1, 3, 1, 16),
        (2, 6, 3, 2, 24),
        (2, 6, 5, 2, 40),
        (3, 6, 3, 2, 80),
        (3, 6, 5, 1, 112),
    ):
        for i in range(repeats):
            found.append(Block(width, expansion, size, stride if i == 0 else 1, after))
            width = after
    return tuple(found)


BLOCKS = _blocks()
TAPS = (2, 4, 10)  # the last blocks at a quarter, an eighth and a sixteenth of the image's size


def weight_shapes() -> dict[str, tuple[int, ...]]:
    """Name of each layer → the shape of its kernel; its bias has the length of the last axis."""
    shapes: dict[str, tuple[int, ...]] = {"stem": (3, 3, 3, STEM_WIDTH)}
    for i, block in enumerate(BLOCKS):
        inner = block.width_in * block.expansion
        if block.expansion > 1:
            shapes[f"expand{i}"] = (block.width_in, inner)
        shapes[f"depthwise{i}"] = (block.size, block.size, inner)
        shapes[f"project{i}"] = (inner, block.width)
    return shapes


def empty_weights() -> dict[str, dict[str, jax.Array]]:
    """Zeros in the shape of the weights."""
    return {
        name: {"kernel": jnp.zeros(shape), "bias": jnp.zeros(shape[-1])}
        for name, shape in weight_shapes().items()
    }


def image_features(weights, images):
    """images: uint8 [B, H, W, 1 or 3], sides multiples of 16 → [B, H / 8, W / 8, 176] float32.

    Three levels side by side: the finest averaged, the coarsest interpolated.
    """
    x = (images.astype(jnp.float32) - PIXEL_MEAN) / PIXEL_SPREAD
    x = jnp.broadcast_to(x, (*x.shape[:-1], 3))
    x = _stem(weights["stem"], x)
    levels = []
    for i, block in enumerate(BLOCKS):
        x = _bottleneck(weights, i, block, x)
        if i in TAPS:
            levels.append(x)
    fine, middle, coarse = levels
    batch, height, width, channels = fine.shape
    fine = fine.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))
    rows, columns = (
        bilinear_matrix(n // 2, n).astype(np.float32) for n in (height // 2, width // 2)
    )
    coarse = jnp.einsum("uh,bhwc,vw->buvc", rows, coarse, columns, precision=PRECISION)
    return jnp.concatenate([fine, middle, coarse], -1)


def _stem(layer, x):
    x = jax.lax.conv_general_dilated(
        x,
        layer["kernel"],
        (2, 2),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=PRECISION,
    )
    return jax.nn.relu6(x + layer["bias"])


def _bottleneck(weights, i: int, block: Block, x):
    before = x
    if block.expansion > 1:
        x = jax.nn.relu6(_pointwise(weights[f"expand{i}"], x))
    layer = weights[f"depthwise{i}"]
    x = jax.nn.relu6(depthwise_conv(x, layer["kernel"], block.stride) + layer["bias"])
    x = _pointwise(weights[f"project{i}"], x)
    return x + before if block.stride == 1 and block.width_in == block.width else x


def _pointwise(layer, x):
    return jnp.matmul(x, layer["kernel"], precision=PRECISION) + layer["bias"]
