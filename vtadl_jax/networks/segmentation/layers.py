"""Layers that the segmentation networks share: convolution, batch norm, upsampling; no network.

A network is a table of its layers, under the names of its authors' PyTorch code, and a function
that applies them. The table gives the initial weights, their number and the reading of files.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from vtadl_jax.ops.transposed_conv import transposed_conv

NORM_EPSILON, NORM_MOMENTUM = 1e-5, 0.1  # momentum: the share of the new batch, as in PyTorch
CHANNELS = 3  # of every network's input


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer with weights: name, as its authors' code has it; channels in and out; side of its
    kernel. kind: 'conv', 'up' (transposed convolution of stride 2) or 'norm'."""

    name: str
    kind: Literal["conv", "up", "norm"]
    inputs: int
    outputs: int
    size: int = 3


def conv(name: str, inputs: int, outputs: int, size: int = 3) -> Layer:
    """Describes a size × size convolution with bias."""
    return Layer(name, "conv", inputs, outputs, size)


def up(name: str, inputs: int, outputs: int) -> Layer:
    """Describes a 3 × 3 transposed convolution of stride 2 that doubles the sides."""
    return Layer(name, "up", inputs, outputs)


def norm(name: str, channels: int) -> Layer:
    """Describes a batch norm."""
    return Layer(name, "norm", channels, channels)


@dataclasses.dataclass(frozen=True)
class Network:
    """A segmentation network.

    layers: those with weights, in the order of the authors' code. apply: (forward, images
    [B, H, W, 3]) → logits [B, H, W, 1]. multiple: both sides of an image must be multiples of it.
    vgg: names of the convolutions that an ImageNet VGG16 can start, in its order; vgg_norms: of the
    batch norms after them.
    """

    layers: tuple[Layer, ...]
    apply: Callable[["Forward", jax.Array], jax.Array]
    multiple: int
    vgg: tuple[str, ...] = ()
    vgg_norms: tuple[str, ...] = ()


def key_of(name: str) -> str:
    """Returns a layer's key in trees of weights; dots separate the levels of a tree's paths."""
    return name.replace(".", "_")


def init(network: Network, key: jax.Array) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns initial (params, stats): He normal kernels, zero biases, norms of mean 0, variance 1.

    The published code has PyTorch's default, kernels of a third of this variance.
    """
    params, stats = {}, {}
    for i, layer in enumerate(network.layers):
        if layer.kind == "norm":
            params[key_of(layer.name)] = {
                "scale": jnp.ones(layer.outputs),
                "bias": jnp.zeros(layer.outputs),
            }
            stats[key_of(layer.name)] = {
                "mean": jnp.zeros(layer.outputs),
                "var": jnp.ones(layer.outputs),
            }
            continue
        taps = layer.size**2 / (4 if layer.kind == "up" else 1)  # that an output pixel sees
        shape = (layer.size, layer.size, layer.inputs, layer.outputs)
        draw = jax.random.normal(jax.random.fold_in(key, i), shape)
        params[key_of(layer.name)] = {
            "kernel": (2 / (taps * layer.inputs)) ** 0.5 * draw,
            "bias": jnp.zeros(layer.outputs),
        }
    return params, stats


def apply(
    network: Network,
    params: dict[str, Any],
    stats: dict[str, Any],
    images,
    *,
    train: bool = False,
    axis: Any = None,
    dtype: Any = jnp.float32,
):
    """Returns (logits [B, H, W], new stats); the stats are the old ones unless `train`.

    images: [B, H, W, 3], normalized. train: normalize by the batch's moments; axis: as in
    `Parallel`. dtype: of the convolutions; norms and logits are float32 or wider.
    """
    forward = Forward(params, stats, train, axis, dtype)
    logits = network.apply(forward, images)[..., 0]
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), {**stats, **forward.updates}


@dataclasses.dataclass
class Forward:
    """One pass through a network: its weights, and the running statistics that it updates.

    Methods take the names of layers and x: [B, H, W, C].
    """

    params: dict[str, Any]
    stats: dict[str, Any]
    train: bool = False
    axis: Any = None
    dtype: Any = jnp.float32
    updates: dict[str, Any] = dataclasses.field(default_factory=dict)

    def conv(self, name: str, x, normed: bool = False):
        """Applies a convolution of stride 1, zeros beyond the border.

        normed: whether a batch norm follows at once. It takes the bias away again: the gradient is
        zero, and rounding noise in its place would become full steps of Adam.
        """
        layer = self.params[key_of(name)]
        bias = jax.lax.stop_gradient(layer["bias"]) if normed and self.train else layer["bias"]
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            layer["kernel"].astype(self.dtype),
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y + bias.astype(self.dtype)

    def up(self, name: str, x):
        """Applies a 3 × 3 transposed convolution of stride 2; returns twice the sides.

        PyTorch's padding 1 and output padding 1: the first row and column of the full result go.
        """
        layer = self.params[key_of(name)]
        full = transposed_conv(x.astype(self.dtype), layer["kernel"].astype(self.dtype), 2, 0)
        return full[:, 1:, 1:] + layer["bias"].astype(self.dtype)

    def norm(self, name: str, x):
        """Applies a batch norm, in float32 or wider."""
        layer, running = self.params[key_of(name)], self.stats[key_of(name)]
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        mean, var = running["mean"], running["var"]
        if self.train:
            mean, var, count = batch_moments(x, self.axis)
            self.updates[key_of(name)] = updated(running, mean, var, count)
        return (x - mean) * (jax.lax.rsqrt(var + NORM_EPSILON) * layer["scale"]) + layer["bias"]

    def conv_norm_relu(self, conv: str, norm: str, x):
        """Applies convolution, batch norm and ReLU."""
        return jax.nn.relu(self.norm(norm, self.conv(conv, x, normed=True)))


def batch_moments(x, axis: Any = None):
    """Returns mean and biased variance [C] of x [B, H, W, C], and the count of values of each.

    axis: name of the mapped axes that the batch is spread over, or None.
    """

    def mean_of(values):
        mean = values.mean((0, 1, 2))
        return mean if axis is None else jax.lax.pmean(mean, axis)

    count = x.size // x.shape[-1] * (1 if axis is None else jax.lax.psum(1, axis))
    mean = mean_of(x)
    return mean, mean_of(jnp.square(x - mean)), count


def updated(running: dict[str, Any], mean, var, count: int) -> dict[str, Any]:
    """Returns the running statistics after a batch. PyTorch normalizes by the biased variance
    (1 / n) but stores the unbiased one (1 / (n - 1))."""
    new = {"mean": mean, "var": var * (count / max(count - 1, 1))}
    return {
        name: ((1 - NORM_MOMENTUM) * old + NORM_MOMENTUM * new[name]).astype(old.dtype)
        for name, old in running.items()
    }
