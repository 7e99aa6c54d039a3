"""ResNet-18, ResNet-50 and WideResNet-50-2, up to stride 16 or 32, as frozen feature extractors.

He et al., 2016; Zagoruyko and Komodakis, 2016; torchvision's form, with the stride in a
bottleneck's 3 × 3 convolution. Batch norms are folded into the convolutions before them. By
default the features are those of PatchCore (Roth et al., 2022); others read the stages. The user
provides the weights in a file, which `load` converts.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vtadl_jax.networks.folding import fold_layers, weights_of_variant
from vtadl_jax.networks.frozen_vit import PIXELS
from vtadl_jax.ops.resize import bilinear_matrix

STEM_WIDTH, NORM_EPSILON = 64, 1e-5
SIDE_MULTIPLE = 16
PRECISION = jax.lax.Precision.HIGHEST


@dataclasses.dataclass(frozen=True)
class Resnet:
    """Blocks of the stages that are computed. bottleneck: three convolutions, the outer ones 1 × 1;
    inner: width of the first stage's inner convolutions. fourth: blocks of the fourth stage."""

    blocks: tuple[int, ...]
    bottleneck: bool
    inner: int = 64
    fourth: int = 2

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each stage's output."""
        return tuple(64 * 2**i * (4 if self.bottleneck else 1) for i in range(len(self.blocks)))

    def whole(self) -> "Resnet":
        """Returns the network with its fourth stage."""
        return dataclasses.replace(self, blocks=(*self.blocks[:3], self.fourth))


@dataclasses.dataclass(frozen=True)
class Reading:
    """Which stages' outputs become features, and how.

    stages: numbers from 1, growing; the grid is the first one's. pool: average each over 3 × 3
    places. resize: of the later ones to the grid, 'bilinear' or 'nearest'.
    """

    stages: tuple[int, ...] = (2, 3)
    pool: bool = True
    resize: str = "bilinear"

    @property
    def stride(self) -> int:
        """Pixels between places of the grid."""
        return 2 ** (self.stages[0] + 1)

    def width(self, resnet: Resnet) -> int:
        return sum(resnet.widths[stage - 1] for stage in self.stages)


RESNETS = {
    "resnet18": Resnet((2, 2, 2), False),
    "resnet50": Resnet((3, 4, 6), True, fourth=3),
    "wide_resnet50_2": Resnet((3, 4, 6), True, 128, 3),
}


PATCHCORE = Reading()


class Conv(NamedTuple):
    """A convolution of the file: its name there, kernel [k, k, in, out] and stride."""

    name: str
    shape: tuple[int, int, int, int]
    stride: int


def _convs(resnet: Resnet, stage: int, number: int) -> list[Conv]:
    """Returns the convolutions of a block in order; the shortcut's, if there is one, is last."""
    root, width = f"layer{stage + 1}.{number}", resnet.widths[stage]
    before = resnet.widths[stage - 1] if stage else STEM_WIDTH
    before = width if number else before
    inner, stride = resnet.inner * 2**stage, 2 if stage and not number else 1
    if resnet.bottleneck:
        found = [
            Conv(f"{root}.conv1", (1, 1, before, inner), 1),
            Conv(f"{root}.conv2", (3, 3, inner, inner), stride),
            Conv(f"{root}.conv3", (1, 1, inner, width), 1),
        ]
    else:
        found = [
            Conv(f"{root}.conv1", (3, 3, before, width), stride),
            Conv(f"{root}.conv2", (3, 3, width, width), 1),
        ]
    if stride > 1 or before != width:
        found.append(Conv(f"{root}.downsample.0", (1, 1, before, width), stride))
    return found


def _blocks(resnet: Resnet) -> Iterator[tuple[int, list[Conv]]]:
    for stage, count in enumerate(resnet.blocks):
        for number in range(count):
            yield stage, _convs(resnet, stage, number)


def weight_shapes(resnet: Resnet) -> dict[str, tuple[int, ...]]:
    """Returns the kernel's shape of each layer, by its name in the file."""
    shapes: dict[str, tuple[int, ...]] = {"conv1": (7, 7, 3, STEM_WIDTH)}
    return shapes | {conv.name: conv.shape for _, convs in _blocks(resnet) for conv in convs}


def empty_weights(resnet: Resnet) -> dict[str, dict[str, jax.Array]]:
    """Returns zeros in the shapes of the weights."""
    return {
        name: {"kernel": jnp.zeros(shape), "bias": jnp.zeros(shape[-1])}
        for name, shape in weight_shapes(resnet).items()
    }


def image_features(
    weights, images, resnet: Resnet, dtype: Any = jnp.float32, reading: Reading = PATCHCORE
):
    """Extracts the stages that are read, on the grid of the first of them; concatenated.

    PatchCore's: the second and third stage, each averaged over 3 × 3 places (zeros beyond the
    border), the third interpolated to the grid of the second. images: uint8 [B, H, W, 1 or 3],
    sides multiples of 16. dtype: of the convolutions' operands. Returns
    [B, H / stride, W / stride, reading.width(resnet)] float32.
    """
    every = stages(weights, images, resnet, dtype)
    found = [every[stage - 1] for stage in reading.stages]
    found = [local_mean(x) for x in found] if reading.pool else found
    return jnp.concatenate([_resized(x, found[0].shape[1:3], reading.resize) for x in found], -1)


def _resized(x, grid: tuple[int, ...], resize: str):
    """Enlarges [B, h, w, C] to a grid that is a multiple of its own."""
    if x.shape[1:3] == grid:
        return x
    if resize == "nearest":
        times = grid[0] // x.shape[1]
        return jnp.repeat(jnp.repeat(x, times, 1), times, 2)
    rows, columns = (
        bilinear_matrix(m, n).astype(np.float32) for m, n in zip(x.shape[1:3], grid, strict=True)
    )
    return jnp.einsum("uh,bhwc,vw->buvc", rows, x, columns, precision=PRECISION)


def local_mean(x):
    """Returns the mean over 3 × 3 places, with zeros beyond the border. x: [B, h, w, C]."""
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = x[:, :-2] + x[:, 1:-1] + x[:, 2:]
    return (x[:, :, :-2] + x[:, :, 1:-1] + x[:, :, 2:]) / 9


def stages(weights, images, resnet: Resnet, dtype: Any = jnp.float32) -> list[jax.Array]:
    """Returns the outputs of the stages, of strides 4, 8, 16 and 32, float32."""
    mean, deviation = (np.array(values, np.float32) * 255 for values in PIXELS["imagenet"])
    x = jnp.broadcast_to(images.astype(jnp.float32), (*images.shape[:-1], 3))
    return stages_of_pixels(weights, (x - mean) / deviation, resnet, dtype)


def stages_of_pixels(weights, pixels, resnet: Resnet, dtype: Any = jnp.float32) -> list[jax.Array]:
    """Returns `stages` of standardized pixels [B, H, W, 3] float32."""
    x = _conv(pixels, weights["conv1"], 2, dtype)
    x = jax.lax.reduce_window(
        jax.nn.relu(x), -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1),
        ((0, 0), (1, 1), (1, 1), (0, 0)),
    )  # fmt: skip
    outputs: list[jax.Array] = []
    for stage, convs in _blocks(resnet):
        h = shortcut = x
        for conv in convs:
            if "downsample" in conv.name:
                shortcut = _conv(x, weights[conv.name], conv.stride, dtype)
                continue
            h = jax.nn.relu(h) if h is not x else h
            h = _conv(h, weights[conv.name], conv.stride, dtype)
        x = jax.nn.relu(h + shortcut)
        outputs = [*outputs[:stage], x]
    return outputs


def _conv(x, layer, stride: int, dtype):
    pad = len(layer["kernel"]) // 2
    out = jax.lax.conv_general_dilated(
        x.astype(dtype),
        layer["kernel"].astype(dtype),
        (stride, stride),
        ((pad, pad), (pad, pad)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=PRECISION if jnp.dtype(dtype) == jnp.float32 else None,
        preferred_element_type=jnp.float32,
    )
    return out + layer["bias"]


def load(
    arrays: Mapping[str, np.ndarray], name: str, whole: bool = False
) -> dict[str, dict[str, np.ndarray]]:
    """Returns the weights of torchvision's or timm's state dict, batch norms folded, float32.

    whole: with the fourth stage, which else is ignored, as the classifier is. Raises UserError that
    names the arrays that are missing or have another shape, and the network that fits.
    """
    return weights_of_variant(
        lambda variant: _load(arrays, RESNETS[variant].whole() if whole else RESNETS[variant]),
        name,
        RESNETS,
        name,
        f"give the state dict of torchvision's or timm's {name}",
    )


def _load(arrays: Mapping[str, np.ndarray], resnet: Resnet):
    shapes = weight_shapes(resnet)
    found = fold_layers(arrays, shapes, {n: (n, _norm_of(n)) for n in shapes}, NORM_EPSILON)
    more = [f"layer{i + 1}.{count}.conv1.weight" for i, count in enumerate(resnet.blocks)]
    found[1].extend(f"{name} is of a deeper network" for name in more if name in arrays)
    return found


def _norm_of(convolution: str) -> str:
    """Returns the name of the norm after a convolution: bn2 after conv2, downsample.1."""
    if convolution.endswith("downsample.0"):
        return convolution[:-1] + "1"
    root, _, number = convolution.rpartition("conv")
    return f"{root}bn{number}"
