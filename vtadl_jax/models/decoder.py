"""Reconstruction vector and decoder: all tokens → R^512 → image (paper §III, thesis §6.3.2)."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vtadl_jax.errors import UserError
from vtadl_jax.models.detector import ALONE, Layout
from vtadl_jax.models.parts import map_parts
from vtadl_jax.ops.blocks import blocked_transposed_conv, merge_blocks, split_columns
from vtadl_jax.ops.dense import weight_product
from vtadl_jax.ops.transposed_conv import transposed_conv

NUM_LAYERS = 5
BASE_SIDE = 8
FIRST_BLOCKED = 2  # the layer from whose output on a TPU keeps pixels in blocks
NORM_EPSILON, NORM_MOMENTUM = 1e-5, 0.9


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


def check_widths(features: Sequence[int]) -> None:
    """Raise UserError unless there is a width for each hidden layer of the decoder."""
    if len(features) != NUM_LAYERS - 1:
        raise UserError(
            f"model.decoder.features {tuple(features)}: give the widths of the {NUM_LAYERS - 1} "
            "hidden layers"
        )


class WideDense(nn.Module):
    """A linear layer whose weight dwarfs its input, and stays where it lies.

    x: [B, D]. Returns [B, features].
    """

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, layout: Layout = ALONE):
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        product = layout.where_the_weight_lies(
            lambda x: weight_product(x, kernel, jnp.dtype(self.dtype)), x
        )
        return product.astype(self.dtype) + bias.astype(self.dtype)


def tap_geometry(stride: int) -> tuple[int, int]:
    """(kernel side, padding) with which a transposed convolution multiplies sides exactly."""
    return (2 * stride, stride // 2) if stride > 1 else (3, 1)


class UpParams(nn.Module):
    """The parameters of a transposed convolution with size × size taps, as a dict."""

    channels: int
    features: int
    size: int
    stride: int
    use_bias: bool

    @nn.compact
    def __call__(self):
        size = self.size
        # Every output pixel sees (size / stride)² taps of each channel: that is the fan-in.
        fan_in = self.channels * (size / self.stride) ** 2
        init = nn.initializers.normal((2 / fan_in) ** 0.5)
        params = {"kernel": self.param("kernel", init, (size, size, self.channels, self.features))}
        if self.use_bias:
            params["bias"] = self.param("bias", nn.initializers.zeros, (self.features,))
        return params


class NormParams(nn.Module):
    """The parameters of a BatchNorm and its running (mean, variance), as variables to update."""

    features: int

    @nn.compact
    def __call__(self):
        shape = (self.features,)
        params = {
            "scale": self.param("scale", nn.initializers.ones, shape),
            "bias": self.param("bias", nn.initializers.zeros, shape),
        }
        running = (
            self.variable("batch_stats", "mean", jnp.zeros, shape),
            self.variable("batch_stats", "var", jnp.ones, shape),
        )
        return params, running


def batch_moments(x, features: int, axis):
    """Mean and variance of a batch over all axes but channels, float32 [features], in one pass.

    x: [B, h, w, features·p], where p neighbouring lanes are pixels of one channel; `axis`: as in
    `Layout`.
    """
    x = x.astype(jnp.float32)

    def sums(values):
        return values.sum((0, 1, 2)).reshape(features, -1).sum(-1)

    means = jnp.stack([sums(x), sums(jnp.square(x))]) * (features / x.size)
    mean, square = means if axis is None else jax.lax.pmean(means, axis)
    return mean, jnp.maximum(square - jnp.square(mean), 0)


def normalize(x, moments, scale, bias):
    """BatchNorm in float32 with given moments, then ReLU. x: [B, h, w, C·p], the rest: [C]."""
    mean, variance = moments
    factor = jax.lax.rsqrt(variance + NORM_EPSILON) * scale
    pixels = x.shape[-1] // len(scale)
    mean, factor, bias = (jnp.repeat(v, pixels) for v in (mean, factor, bias))
    return nn.relu((x.astype(jnp.float32) - mean) * factor + bias)


def up_layer(x, up, stride: int, block: tuple[int, int], blocked: bool):
    """One transposed convolution of a map in blocks of pixels; returns (map, its blocks)."""
    kernel, padding = up["kernel"].astype(x.dtype), tap_geometry(stride)[1]
    if blocked:
        x = blocked_transposed_conv(x, kernel, stride, padding, block)
        block = (block[0] * stride, block[1] * stride)
    else:
        x = transposed_conv(x, kernel, stride, padding)
    if "bias" in up:
        x = x + jnp.repeat(up["bias"].astype(x.dtype), block[0] * block[1])
    return x, block


def upsample(
    x, ups, norms, running, *, strides: Sequence[int], blocked: bool, dtype, axis=None, parts=1
):
    """The five layers on a map [B, h, w, C]; ups and norms: a dict of parameters each.

    running: (mean, variance) a norm, or None in training, where moments are the batch's (`axis` as
    in `Layout`). Returns the image before its tanh, [B, H, W, C'], and the moments that
    each norm used. `blocked` keeps the last layers' maps as blocks of pixels (`ops/blocks.py`),
    the TPU's form; `parts` works on so many parts of the batch in turn. The numbers are the same.
    """
    block, moments = (1, 1), list[tuple]()
    for i, stride in enumerate(strides):
        in_blocks = blocked and i >= FIRST_BLOCKED
        before = None if i == 0 else (moments[-1], norms[i - 1])

        def layer(x, i=i, stride=stride, block=block, before=before, in_blocks=in_blocks):
            if before is not None:
                x = normalize(x, before[0], **before[1])
            x, block = up_layer(x.astype(dtype), ups[i], stride, block, in_blocks)
            # A grid of 128 columns at 512²: all lanes, see `merge_blocks`.
            return split_columns(x, block, stride) if blocked and i == FIRST_BLOCKED else x

        with jax.named_scope(f"layer{i}"):
            x = map_parts(layer, parts)(x)
            if i < len(norms):
                features = len(norms[i]["scale"])
                moments.append(running[i] if running else batch_moments(x, features, axis))
        if in_blocks:
            block = (block[0] * stride, 1 if i == FIRST_BLOCKED else block[1] * stride)
    return (merge_blocks(x, block) if blocked else x), moments


class Decoder(nn.Module):
    """Tokens → reconstruction vector → image in [-1, 1].

    tokens: [B, N, D]. Returns [B, H, W, channels] float32. Five transposed convolutions, BatchNorm
    (float32) and ReLU between, tanh last. `features` are the widths of the four hidden layers;
    `pool`: the vector is of the tokens' mean, not of them all; `parts` as in `map_parts`, in
    training. norm_statistics: 'global', of the whole batch, or 'device', of the share that lies
    here, which spares eight small exchanges a step.
    """

    shape: DecoderShape
    features: Sequence[int]
    channels: int = 3
    pool: bool = False
    parts: int = 1
    norm_statistics: str = "global"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens, train: bool, layout: Layout = ALONE):
        flat = tokens.mean(1) if self.pool else tokens.reshape(len(tokens), -1)
        vector = WideDense(self.shape.vector_dim, dtype=self.dtype, name="vector")(flat, layout)
        x = vector.reshape(len(tokens), *self.shape.base, self.shape.channels)
        widths = (self.shape.channels, *self.features, self.channels)
        ups = [
            UpParams(
                widths[i],
                widths[i + 1],
                tap_geometry(stride)[0],
                stride,
                i == NUM_LAYERS - 1,
                name=f"up{i}",
            )()
            for i, stride in enumerate(self.shape.strides)
        ]
        norms, variables = zip(
            *(NormParams(width, name=f"norm{i}")() for i, width in enumerate(self.features)),
            strict=True,
        )
        running = None if train else [tuple(v.value for v in pair) for pair in variables]
        form = functools.partial(
            upsample,
            strides=self.shape.strides,
            dtype=self.dtype,
            axis=layout.axis if self.norm_statistics == "global" else None,
            parts=self.parts if train else 1,
        )
        x, moments = jax.lax.platform_dependent(
            x,
            ups,
            norms,
            running,
            tpu=functools.partial(form, blocked=True),
            default=functools.partial(form, blocked=False),
        )
        if train and not self.is_initializing():
            for old, new in zip(jax.tree.leaves(variables), jax.tree.leaves(moments), strict=True):
                old.value = NORM_MOMENTUM * old.value + (1 - NORM_MOMENTUM) * new
        return jnp.tanh(x.astype(jnp.float32))
