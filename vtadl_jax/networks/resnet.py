"""ResNets that are trained further: all four stages, with batch norms; no classifier.

He et al., 2016, in torchvision's form. Beside torchvision's: without the max-pool, which keeps maps
twice as large, and with squeeze-and-excitation (Hu et al., 2018) after the stem and each stage.
`frozen_resnet.py` is for features that nothing trains.
"""

import dataclasses
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from vtadl_jax.networks import named_layers
from vtadl_jax.networks.named_layers import ForwardPass, Layer, Params, Table
from vtadl_jax.options import LARGEST_SIZE, option

PREFIX = "resnet."  # of the names of layers that are in torchvision's file, too


@dataclasses.dataclass(frozen=True)
class BackboneOptions:
    """Options of the ResNet before the pyramid."""

    width: int = option(
        64,
        "channels of the stem; a stage has twice those of the one before",
        at_least=1,
        limit=LARGEST_SIZE,
    )
    blocks: tuple[int, ...] = option(
        (), "blocks of the four stages; empty: as published", at_least=1, limit=64, counts=(0, 4)
    )
    trained: bool = option(
        True, "train it further; False: weights and running statistics stay as they are"
    )


@dataclasses.dataclass(frozen=True)
class Resnet:
    """A ResNet's sizes. bottleneck: blocks of three convolutions, the outer ones 1 × 1. squeeze:
    reduction of squeeze-and-excitation, 0 without."""

    width: int = 64
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    bottleneck: bool = False
    max_pool: bool = False
    squeeze: int = 0

    @property
    def title(self) -> str:
        """Its name among torchvision's, by its blocks."""
        names: dict[tuple[tuple[int, ...], bool], str] = {
            ((2, 2, 2, 2), False): "ResNet-18",
            ((3, 4, 6, 3), False): "ResNet-34",
            ((3, 4, 6, 3), True): "ResNet-50",
        }
        name = names.get((self.blocks, self.bottleneck), "a ResNet")
        return name if self.width == 64 else f"{name} of width {self.width}"

    def features(self, stage: int) -> int:
        """Returns the channels of a stage's output, 1 to 4; of the stem for 0."""
        if stage == 0:
            return self.width
        return self.width * 2 ** (stage - 1) * (4 if self.bottleneck else 1)

    def sides(self, height: int, width: int) -> tuple[int, int]:
        """Returns the sides of the last stage's map."""
        for _ in range(5 if self.max_pool else 4):
            height, width = -(-height // 2), -(-width // 2)
        return height, width

    def table(self) -> dict[str, Layer]:
        """Returns the layers of torchvision's file, their names with `PREFIX` before them."""
        stem = {"conv1": Layer("conv", (7, 7, 3, self.width), False)}
        stem["bn1"] = Layer("norm", (self.width,))
        found = {f"{PREFIX}{name}": layer for name, layer in stem.items()}
        for stage, number, _ in self._blocks():
            found |= self._block_table(stage, number)
        return found

    def squeeze_table(self) -> dict[str, Layer]:
        """Returns the layers of squeeze-and-excitation, which are in no file."""
        found: dict[str, Layer] = {}
        for stage in range(5 if self.squeeze else 0):
            channels = self.features(stage)
            hidden = max(channels // self.squeeze, 1)
            found[f"se{stage + 1}.fc.0"] = Layer("dense", (channels, hidden), False)
            found[f"se{stage + 1}.fc.2"] = Layer("dense", (hidden, channels), False)
        return found

    def _blocks(self) -> Iterator[tuple[int, int, int]]:
        """Yields (stage, number, stride) of each block."""
        for stage, count in enumerate(self.blocks, 1):
            for number in range(count):
                yield stage, number, 2 if stage > 1 and not number else 1

    def _block_table(self, stage: int, number: int) -> dict[str, Layer]:
        root, out = f"{PREFIX}layer{stage}.{number}", self.features(stage)
        inner = self.width * 2 ** (stage - 1)
        before = out if number else self.features(stage - 1)
        kernels = [(3, before, out), (3, out, out)]
        if self.bottleneck:
            kernels = [(1, before, inner), (3, inner, inner), (1, inner, out)]
        found = {}
        for i, (side, inputs, outputs) in enumerate(kernels, 1):
            found[f"{root}.conv{i}"] = Layer("conv", (side, side, inputs, outputs), False)
            found[f"{root}.bn{i}"] = Layer("norm", (outputs,))
        if before != out or (stage > 1 and not number):
            found[f"{root}.downsample.0"] = Layer("conv", (1, 1, before, out), False)
            found[f"{root}.downsample.1"] = Layer("norm", (out,))
        return found

    def apply(self, forward: ForwardPass, images):
        """Returns the last stage's map.

        images: [B, H, W, 3]. Returns [B, h, w, features(4)] with the sides of `sides`.
        """
        x = forward.norm_relu(f"{PREFIX}bn1", forward.conv(f"{PREFIX}conv1", images, 2))
        x = forward.keep("stem", max_pool(x) if self.max_pool else x)
        x = self._excite(forward, 0, x)
        for stage, number, stride in self._blocks():
            x = self._block(forward, f"{PREFIX}layer{stage}.{number}", x, stride)
            if number == self.blocks[stage - 1] - 1:
                x = self._excite(forward, stage, forward.keep(f"layer{stage}", x))
        return x

    def _block(self, forward: ForwardPass, root: str, x, stride: int):
        count = 3 if self.bottleneck else 2
        strided = 2 if self.bottleneck else 1  # the 3 × 3 convolution, in torchvision's form
        h = x
        for i in range(1, count + 1):
            h = forward.norm(
                f"{root}.bn{i}", forward.conv(f"{root}.conv{i}", h, stride if i == strided else 1)
            )
            h = jax.nn.relu(h) if i < count else h
        if f"{root}.downsample.0" in forward.params:
            # A 1 × 1 convolution of stride 2 sees every second pixel.
            x = forward.conv(f"{root}.downsample.0", x[:, ::stride, ::stride])
            x = forward.norm(f"{root}.downsample.1", x)
        return jax.nn.relu(h + x)

    def _excite(self, forward: ForwardPass, stage: int, x):
        if not self.squeeze:
            return x
        name = f"se{stage + 1}"
        hidden = jax.nn.relu(forward.dense(f"{name}.fc.0", x.mean((1, 2))))
        weight = jax.nn.sigmoid(forward.dense(f"{name}.fc.2", hidden))
        return forward.keep(name, x * weight[:, None, None])


def max_pool(x):
    """Returns the largest of each 3 × 3 window of stride 2, padded by one. x: [B, h, w, C]."""
    return jax.lax.reduce_window(
        x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0))
    )


def load(arrays: Mapping[str, np.ndarray], table: Table, title: str) -> tuple[Params, Params]:
    """Returns (parameters, running statistics) of torchvision's state dict, without its classifier.

    Raises UserError that names the arrays that do not fit.
    """
    return named_layers.load(arrays, table, PREFIX, title)
