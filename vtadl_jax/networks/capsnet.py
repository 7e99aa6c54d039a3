"""CapsNet with two output capsules, normal and anomalous, and a decoder of the normal one.

Sabour et al., 2017, as Piciarelli, Mishra and Foresti adapted it (2019; chapter 3 of Mishra's
thesis): a convolution with ReLU, a convolution of stride 2 that gives the input capsules, dynamic
routing, three fully connected layers. Plain functions: `init` makes the weights, `apply` runs the
network, `load` reads those of a PyTorch state dict. There is no batch norm and no dropout: training
and evaluation compute the same.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vtadl_jax.errors import UserError
from vtadl_jax.ops.routing import route, squash
from vtadl_jax.ops.strided_conv import valid_conv
from vtadl_jax.options import LARGEST_SIZE, option

NORMAL, ANOMALOUS = 0, 1  # the output capsules
STRIDE = 2  # of the second convolution
CAPSULE_SCALE = 0.01  # standard deviation of the initial weights between capsules


@dataclasses.dataclass(frozen=True)
class NetworkOptions:
    """Sizes of the network and its routing; the defaults are the published ones."""

    kernel_size: int = option(9, "of both convolutions", unit="px", at_least=1, limit=255)
    width: int = option(256, "channels of the first convolution", at_least=1, limit=LARGEST_SIZE)
    capsule_types: int = option(
        32, "input capsules at each position", at_least=1, limit=LARGEST_SIZE
    )
    capsule_dim: int = option(8, "values of an input capsule", at_least=1, limit=LARGEST_SIZE)
    output_dim: int = option(16, "values of an output capsule", at_least=1, limit=LARGEST_SIZE)
    hidden: tuple[int, ...] = option(
        (512, 1024), "units of the decoder's hidden layers", at_least=1, limit=LARGEST_SIZE
    )
    iterations: int = option(3, "of the routing", at_least=1, limit=100)
    stop_gradient: bool = option(
        True, "take the coefficients of the routing as constants in the backward pass"
    )
    layout: str = option(
        "channels",
        "an input capsule: 'channels' of one position, or 'flat', positions of one channel, as "
        "some PyTorch code cuts them",
        choices=("channels", "flat"),
    )


class Outputs(NamedTuple):
    """vectors: [B, 2, output_dim], capsules of `NORMAL` and `ANOMALOUS`. recon: [B, H, W, C] in
    [0, 1], decoded from the normal one."""

    vectors: Any
    recon: Any


def grid_of(image_size: tuple[int, int], options: NetworkOptions) -> tuple[int, int]:
    """Returns the positions (rows, columns) of the input capsules.

    Raises UserError for an image that is too small for two convolutions.
    """
    taps = options.kernel_size
    rows, columns = ((side - 2 * taps + 1) // STRIDE + 1 for side in image_size)
    if min(image_size) < 2 * taps - 1:
        raise UserError(
            f"image_size {image_size}: model.network.kernel_size {taps} needs sides of at least "
            f"{2 * taps - 1}: use a larger image or a smaller kernel"
        )
    return rows, columns


def weight_shapes(
    image_size: tuple[int, int], channels: int, options: NetworkOptions
) -> dict[str, Any]:
    """Returns the shape of every weight, as the tree of `init`.

    Raises UserError as `grid_of`.
    """
    taps, width, dim = options.kernel_size, options.width, options.capsule_dim
    primary = options.capsule_types * dim
    count = options.capsule_types * math.prod(grid_of(image_size, options))
    sizes = (options.output_dim, *options.hidden, math.prod(image_size) * channels)

    def layer(*shape: int) -> dict[str, tuple[int, ...]]:
        return {"kernel": shape, "bias": shape[-1:]}

    return {
        "conv": layer(taps, taps, channels, width),
        "primary": layer(taps, taps, width, primary),
        "capsules": (2, count, dim, options.output_dim),
        "decoder": {
            f"layer{i}": layer(inputs, outputs)
            for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes))
        },
    }


def init(key, image_size: tuple[int, int], channels: int, options: NetworkOptions):
    """Returns the initial weights: uniform in ±1 / √inputs as PyTorch's layers, weights between
    capsules normal."""
    shapes = weight_shapes(image_size, channels, options)

    def layer(key, shapes):
        bound = math.prod(shapes["kernel"][:-1]) ** -0.5
        keys = dict(zip(shapes, jax.random.split(key), strict=True))
        return {
            name: jax.random.uniform(keys[name], shape, minval=-bound, maxval=bound)
            for name, shape in shapes.items()
        }

    keys = iter(jax.random.split(key, 3 + len(shapes["decoder"])))
    return {
        "conv": layer(next(keys), shapes["conv"]),
        "primary": layer(next(keys), shapes["primary"]),
        "capsules": CAPSULE_SCALE * jax.random.normal(next(keys), shapes["capsules"]),
        "decoder": {name: layer(next(keys), part) for name, part in shapes["decoder"].items()},
    }


def apply(params, inputs, options: NetworkOptions, dtype=jnp.float32) -> Outputs:
    """Runs the network. inputs: [B, H, W, C], standardized. dtype: of convolutions and decoder.

    Capsules are float32 at least.
    """
    capsules = input_capsules(params, inputs, options, dtype)
    vectors, _ = route(capsules, params["capsules"], options.iterations, options.stop_gradient)
    recon = decode(params["decoder"], vectors[:, NORMAL], dtype)
    return Outputs(vectors, recon.reshape(inputs.shape))


def input_capsules(params, inputs, options: NetworkOptions, dtype=jnp.float32):
    """Returns the squashed input capsules, [B, I, capsule_dim] float32.

    Capsule i = (type, row, column), its values channels type · capsule_dim + 0, 1, …
    """
    features = jax.nn.relu(conv(params["conv"], inputs, 1, dtype))
    features = _wide(conv(params["primary"], features, STRIDE, dtype))
    batch, rows, columns, _ = features.shape
    if options.layout == "flat":
        capsules = jnp.moveaxis(features, -1, 1)
    else:
        split = (batch, rows, columns, options.capsule_types, options.capsule_dim)
        capsules = features.reshape(split).transpose(0, 3, 1, 2, 4)
    return squash(capsules.reshape(batch, -1, options.capsule_dim))


def conv(layer, x, stride: int, dtype):
    """Applies a convolution without padding, with bias; x: [B, H, W, C]."""
    kernel = layer["kernel"].astype(dtype)
    return valid_conv(x.astype(dtype), kernel, stride) + layer["bias"].astype(dtype)


def decode(params, vectors, dtype=jnp.float32):
    """Reconstructs images from vectors [B, output_dim]: [B, H·W·C] in [0, 1], float32."""
    x = vectors
    for i in range(len(params)):
        layer = params[f"layer{i}"]
        x = jax.nn.relu(x) if i else x
        x = _wide(x.astype(dtype) @ layer["kernel"].astype(dtype)) + layer["bias"]
    return jax.nn.sigmoid(x)


def _wide(x):
    """Returns x in float32, or in float64 if it is."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def load(
    arrays: Mapping[str, np.ndarray],
    image_size: tuple[int, int],
    channels: int,
    options: NetworkOptions,
) -> dict[str, Any]:
    """Returns the weights of a PyTorch state dict, as the tree of `init`, in our layouts.

    Names: conv1, primary and decoder.0, .2, … each with weight and bias, and caps.W [2, I, O, D].
    Raises UserError that names an array that is missing, of another shape or not finite.
    """
    shapes = weight_shapes(image_size, channels, options)

    def find(name: str, axes: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
        if name not in arrays:
            raise UserError(f"{name} is missing: give the state dict of such a CapsNet")
        array = np.asarray(arrays[name])
        theirs = [shape[axes.index(axis)] for axis in range(len(axes))]
        if list(array.shape) != theirs:
            raise UserError(
                f"{name} is {list(array.shape)}, the network here has {theirs}: set model.network, "
                "image_size and data.channels to those of the file"
            )
        if not np.isfinite(array).all():
            raise UserError(f"{name} has values that are not finite: give another file")
        return array.transpose(axes)

    def layer(name: str, axes: tuple[int, ...], shapes: Mapping[str, Any]) -> dict[str, Any]:
        kernel = find(f"{name}.weight", axes, shapes["kernel"])
        return {"kernel": kernel, "bias": find(f"{name}.bias", (0,), shapes["bias"])}

    return {
        "conv": layer("conv1", (2, 3, 1, 0), shapes["conv"]),
        "primary": layer("primary", (2, 3, 1, 0), shapes["primary"]),
        "capsules": find("caps.W", (0, 1, 3, 2), shapes["capsules"]),
        "decoder": {
            name: layer(f"decoder.{2 * i}", (1, 0), part)
            for i, (name, part) in enumerate(shapes["decoder"].items())
        },
    }
