"""Reconstruction vector and decoder: all tokens → R^512 → image (paper §III, thesis §6.3.2)."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vtadl_jax.errors import UserError
from vtadl_jax.ops.transposed_conv import transposed_conv

NUM_LAYERS = 5
BASE_SIDE = 8


@dataclasses.dataclass(frozen=True)
class DecoderShape:
    """How the decoder climbs from the reconstruction vector to the image.

    base: (h, w) of the map that the vector is viewed as; channels: its depth, so that h·w·channels
    is the vector's length; strides: of the five transposed convolutions, their product the factor
    between base and image.
    """

    base: tuple[int, int]
    channels: int
    strides: tuple[int, ...]

    @property
    def vector_dim(self) -> int:
        return self.base[0] * self.base[1] * self.channels


def plan_decoder(image_size: tuple[int, int], vector_dim: int) -> DecoderShape:
    """Choose base and strides for an image size (H, W); 512² gives 8×8×8 and 4·2·2·2·2.

    The factor is the power of two dividing both sides whose base area is nearest to 8×8. The
    vector is `vector_dim` long, or the next smaller multiple of the base area. Raises UserError
    where the base holds more pixels than the vector has values.
    """
    height, width = image_size
    exponents = [t for t in range(11) if height % 2**t == 0 and width % 2**t == 0]

    def distance(t):  # of the base area from 8×8, on a log scale; ties go to the finer base
        ratio = (height * width / 4**t) / BASE_SIDE**2
        return max(ratio, 1 / ratio)

    t = min(exponents, key=distance)
    base = (height >> t, width >> t)
    if base[0] * base[1] > vector_dim:
        raise UserError(
            f"image_size {height}x{width}: the decoder would start at {base[0]}x{base[1]}, more "
            f"pixels than the reconstruction vector has values ({vector_dim}): use sides that "
            f"divide by a larger power of two, or a larger model.decoder.vector_dim"
        )
    strides = tuple(2 ** (t // NUM_LAYERS + (i < t % NUM_LAYERS)) for i in range(NUM_LAYERS))
    return DecoderShape(base, vector_dim // (base[0] * base[1]), strides)


class TransposedConv(nn.Module):
    """A transposed convolution that multiplies both sides by `stride` exactly.

    Kernel 2·stride with padding stride/2; 3×3 with padding 1 where the stride is 1. x [B, H, W, C].
    """

    features: int
    stride: int
    use_bias: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        size, padding = (2 * self.stride, self.stride // 2) if self.stride > 1 else (3, 1)
        # Every output pixel sees (size / stride)² taps of each channel: that is the fan-in.
        fan_in = x.shape[-1] * (size / self.stride) ** 2
        kernel = self.param(
            "kernel",
            nn.initializers.normal((2 / fan_in) ** 0.5),
            (size, size, x.shape[-1], self.features),
        )
        y = transposed_conv(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, padding)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            y = y + bias.astype(self.dtype)
        return y


class Decoder(nn.Module):
    """Tokens → reconstruction vector → image in [-1, 1].

    tokens: [B, N, D]. Returns [B, H, W, channels] float32. Five transposed convolutions, BatchNorm
    (over the global batch, float32) and ReLU between, tanh last. `features` are the widths of the
    four hidden layers.
    """

    shape: DecoderShape
    features: Sequence[int]
    channels: int = 3
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens, train: bool):
        flat = tokens.reshape(len(tokens), -1)
        vector = nn.Dense(self.shape.vector_dim, dtype=self.dtype, name="vector")(flat)
        x = vector.reshape(len(tokens), *self.shape.base, self.shape.channels)
        for i, (width, stride) in enumerate(
            zip((*self.features, self.channels), self.shape.strides, strict=True)
        ):
            last = i == NUM_LAYERS - 1
            x = TransposedConv(width, stride, use_bias=last, dtype=self.dtype, name=f"up{i}")(x)
            if not last:
                norm = nn.BatchNorm(
                    use_running_average=not train, momentum=0.9, dtype=self.dtype, name=f"norm{i}"
                )
                x = nn.relu(norm(x))
        return jnp.tanh(x.astype(jnp.float32))
