"""Reconstruction vector and decoder: all tokens → R^512 → image (paper §III, thesis §6.3.2)."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vtadl_jax.errors import UserError
from vtadl_jax.networks.microbatch import map_microbatches
from vtadl_jax.networks.parallel import SINGLE_DEVICE, Parallel
from vtadl_jax.ops.blocks import blocked_transposed_conv, merge_blocks, split_columns
from vtadl_jax.ops.dense import weight_product
from vtadl_jax.ops.platform import by_platform
from vtadl_jax.ops.transposed_conv import transposed_conv
from vtadl_jax.options import LARGEST_SIZE, option

NUM_LAYERS = 5
BASE_SIDE = 8
FIRST_BLOCKED = 2  # on a TPU the outputs of this layer and later ones keep pixels in blocks
NORM_EPSILON, NORM_MOMENTUM = 1e-5, 0.9


@dataclasses.dataclass(frozen=True)
class ConvDecoderOptions:
    """Options of the reconstruction vector and the transposed convolutions."""

    vector_dim: int = option(
        512, "length of the reconstruction vector", at_least=1, limit=LARGEST_SIZE
    )
    features: tuple[int, ...] = option(
        (64, 64, 32, 16), "channels of the four hidden layers", at_least=1, limit=LARGEST_SIZE
    )
    norm_statistics: str = option(
        "global",
        "of batch norm, over the whole batch; 'device': over each device's share, as is common "
        "with pmap: results then depend on the number of devices",
        choices=("global", "device"),
    )


@dataclasses.dataclass(frozen=True)
class DecoderOptions(ConvDecoderOptions):
    """Options of the decoder of encoded tokens."""

    sees: str = option(
        "vector",
        "what an image is decoded from: a vector projected from all tokens; 'mean': from their "
        "mean; 'tokens': no vector, a linear layer makes each token the pixels of its patch",
        choices=("vector", "mean", "tokens"),
    )


@dataclasses.dataclass(frozen=True)
class DecoderShape:
    """Sizes of the decoder between reconstruction vector and image.

    base: (h, w) of the map that the vector is reshaped to; channels: of that map, so the vector's
    length is h·w·channels; strides: of the five transposed convolutions, their product is the
    factor between base and image.
    """

    base: tuple[int, int]
    channels: int
    strides: tuple[int, ...]

    @property
    def vector_dim(self) -> int:
        return self.base[0] * self.base[1] * self.channels


def plan_decoder(image_size: tuple[int, int], vector_dim: int) -> DecoderShape:
    """Chooses base and strides for an image size (H, W); 512² gives 8×8×8 and 4·2·2·2·2.

    The factor is the power of two that divides both sides and whose base area is nearest to 8×8.
    The vector's length is `vector_dim`, or the next smaller multiple of the base area. Raises
    UserError if the base has more pixels than the vector has values.
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


def check_decoder(options: ConvDecoderOptions, parallel: str) -> None:
    """Raises UserError unless `features` matches the number of layers and the step supports
    `norm_statistics`."""
    features = options.features
    if len(features) != NUM_LAYERS - 1:
        raise UserError(
            f"model.decoder.features {tuple(features)}: give the widths of the {NUM_LAYERS - 1} "
            "hidden layers"
        )
    if options.norm_statistics == "device" and parallel != "pmap":
        raise UserError(
            "model.decoder.norm_statistics 'device' needs a step mapped over the devices: "
            "use --config.train.parallel=pmap, or 'global'"
        )


class WideDense(nn.Module):
    """A linear layer whose weight is far larger than its input and stays sharded.

    x: [B, D]. Returns [B, features].
    """

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, parallel: Parallel = SINGLE_DEVICE):
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        product = parallel.apply_sharded(
            lambda x: weight_product(x, kernel, jnp.dtype(self.dtype)), x
        )
        return product.astype(self.dtype) + bias.astype(self.dtype)


def tap_geometry(stride: int) -> tuple[int, int]:
    """Returns (kernel side, padding) for an output of exactly stride times the input's sides."""
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
        # Fan-in: every output pixel sees (size / stride)² taps of each channel.
        fan_in = self.channels * (size / self.stride) ** 2
        init = nn.initializers.normal((2 / fan_in) ** 0.5)
        params = {"kernel": self.param("kernel", init, (size, size, self.channels, self.features))}
        if self.use_bias:
            params["bias"] = self.param("bias", nn.initializers.zeros, (self.features,))
        return params


class NormParams(nn.Module):
    """The parameters of a BatchNorm, and its running (mean, variance) as flax variables."""

    features: int

    @nn.compact
    def __call__(self):
        shape = (self.features,)
        params = {
            "scale": self.param("scale", nn.initializers.ones, shape),
            "bias": self.param("bias", nn.initializers.zeros, shape),
        }
        running = (
            self.variable("stats", "mean", jnp.zeros, shape),
            self.variable("stats", "var", jnp.ones, shape),
        )
        return params, running


def batch_moments(x, features: int, axis):
    """Returns mean and variance over all axes but channels, float32 [features], in one pass.

    x: [B, h, w, features·p], where p neighbouring lanes are pixels of one channel; `axis`: as in
    `Parallel`.
    """
    x = x.astype(jnp.float32)

    def sums(values):
        return values.sum((0, 1, 2)).reshape(features, -1).sum(-1)

    means = jnp.stack([sums(x), sums(jnp.square(x))]) * (features / x.size)
    mean, square = means if axis is None else jax.lax.pmean(means, axis)
    return mean, jnp.maximum(square - jnp.square(mean), 0)


def normalize(x, moments, scale, bias):
    """Applies BatchNorm in float32 with given moments, then ReLU.

    x: [B, h, w, C·p]; moments, scale, bias: [C].
    """
    mean, variance = moments
    factor = jax.lax.rsqrt(variance + NORM_EPSILON) * scale
    pixels = x.shape[-1] // len(scale)
    mean, factor, bias = (jnp.repeat(v, pixels) for v in (mean, factor, bias))
    return nn.relu((x.astype(jnp.float32) - mean) * factor + bias)


def up_layer(x, up, stride: int, block: tuple[int, int], blocked: bool):
    """Applies one transposed convolution to a map of pixel blocks; returns (map, its block)."""
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
    x,
    ups,
    norms,
    running,
    *,
    strides: Sequence[int],
    blocked: bool,
    dtype,
    axis=None,
    microbatches=1,
):
    """Applies the five layers to a map [B, h, w, C].

    ups, norms: one dict of parameters per layer. running: (mean, variance) per norm, or None in
    training, which uses the batch's moments (`axis` as in `Parallel`). blocked: keep the maps of
    the last layers as blocks of pixels (`ops/blocks.py`), the TPU's implementation. microbatches:
    as in `map_microbatches`. Neither changes the result. Returns the image before its tanh,
    [B, H, W, C'], and the moments that each norm used.
    """
    block, moments = (1, 1), list[tuple]()
    for i, stride in enumerate(strides):
        in_blocks = blocked and i >= FIRST_BLOCKED
        before = None if i == 0 else (moments[-1], norms[i - 1])

        def layer(x, i=i, stride=stride, block=block, before=before, in_blocks=in_blocks):
            if before is not None:
                x = normalize(x, before[0], **before[1])
            x, block = up_layer(x.astype(dtype), ups[i], stride, block, in_blocks)
            # At 512² the grid then has 128 columns, which fill all lanes; see `merge_blocks`.
            return split_columns(x, block, stride) if blocked and i == FIRST_BLOCKED else x

        with jax.named_scope(f"layer{i}"):
            x = map_microbatches(layer, microbatches)(x)
            if i < len(norms):
                features = len(norms[i]["scale"])
                moments.append(running[i] if running else batch_moments(x, features, axis))
        if in_blocks:
            block = (block[0] * stride, 1 if i == FIRST_BLOCKED else block[1] * stride)
    return (merge_blocks(x, block) if blocked else x), moments


class Decoder(nn.Module):
    """Decoder: tokens → reconstruction vector → image in [-1, 1].

    tokens: [B, N, D]. Returns [B, H, W, channels] float32. Five transposed convolutions with
    BatchNorm (float32) and ReLU between them, and a final tanh. features: widths of the four hidden
    layers. pool: project the mean of the tokens instead of all of them. microbatches: as in
    `map_microbatches`, in training. norm_statistics: 'global', over the whole batch, or 'device',
    over this device's share, which saves eight small collectives per step.
    """

    shape: DecoderShape
    features: Sequence[int]
    channels: int = 3
    pool: bool = False
    microbatches: int = 1
    norm_statistics: str = "global"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens, train: bool, parallel: Parallel = SINGLE_DEVICE):
        flat = tokens.mean(1) if self.pool else tokens.reshape(tokens.shape[0], -1)
        vector = WideDense(self.shape.vector_dim, dtype=self.dtype, name="vector")(flat, parallel)
        x = vector.reshape(tokens.shape[0], *self.shape.base, self.shape.channels)
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
            axis=parallel.axis if self.norm_statistics == "global" else None,
            microbatches=self.microbatches if train else 1,
        )
        x, moments = by_platform(
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
