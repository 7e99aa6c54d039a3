"""Networks as tables of named layers: initialization, application, and loading by PyTorch's names.

A table maps a layer's name to its kind and shape. Parameters are {name: {'kernel', 'bias'}} or, of
a batch norm, {name: {'scale', 'bias'}}; running statistics are {name: {'mean', 'var'}}. The wiring
of a network is a function of a `ForwardPass`, which applies layers by their names.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vtadl_jax.errors import UserError
from vtadl_jax.networks.folding import to_ours
from vtadl_jax.networks.parallel import SINGLE_DEVICE, Parallel
from vtadl_jax.ops.strided_conv import valid_conv
from vtadl_jax.ops.transposed_conv import transposed_conv

NORM_EPSILON, NORM_MOMENTUM = 1e-5, 0.1  # momentum as in PyTorch: the new batch's share
VOTES_DEVIATION = 0.01  # of the capsules' matrices


class Layer(NamedTuple):
    """A layer's kind and the shape of its weight.

    'conv' [k, k, in, out]; 'up', transposed [k, k, in, out]; 'dense' [in, out]; 'norm' [channels];
    'votes' [capsules out, capsules in, dim in, dim out]. bias: of the first three.
    """

    kind: str
    shape: tuple[int, ...]
    bias: bool = True


Table = Mapping[str, Layer]
Params = dict[str, dict[str, Any]]


def count_values(table: Table) -> int:
    """Returns the number of trained values."""
    return sum(
        2 * layer.shape[0]
        if layer.kind == "norm"
        else math.prod(layer.shape) + _features(layer) * layer.bias
        for layer in table.values()
    )


def init(key: jax.Array, table: Table, scheme: str) -> tuple[Params, Params]:
    """Returns initial (parameters, running statistics).

    scheme: 'orthogonal', with gain 1 and biases 0; 'uniform', PyTorch's default: ±1/√fan-in for
    weights and biases, where a transposed convolution counts its outputs; 'he', normal by fan-out
    with biases 0, as torchvision's networks. All kernels come from one draw, which compiles fast.
    """
    weights = [(n, layer) for n, layer in table.items() if layer.kind != "norm"]
    ends = np.cumsum([math.prod(layer.shape) for _, layer in weights])
    keys = jax.random.split(key)
    draw = jax.random.normal(keys[0], (int(ends[-1]) if weights else 0,))
    stats: Params = {}
    params: Params = {}
    for name, layer in table.items():
        if layer.kind == "norm":
            zeros, ones = jnp.zeros(layer.shape), jnp.ones(layer.shape)
            params[name] = {"scale": ones, "bias": zeros}
            stats[name] = {"mean": zeros, "var": ones}
    for (name, layer), end in zip(weights, ends, strict=True):
        normal = draw[int(end) - math.prod(layer.shape) : int(end)].reshape(layer.shape)
        params[name] = {"kernel": _kernel(normal, layer, scheme)}
        if layer.bias and layer.kind != "votes":
            params[name]["bias"] = jnp.zeros(_features(layer))
    if scheme == "uniform":
        _draw_biases(keys[1], table, params)
    return params, stats


def orthogonal(normal):
    """Returns the orthogonal part of a matrix of normal values, as torch.nn.init.orthogonal_.

    normal: [rows, columns]. The shorter side's vectors are orthonormal.
    """
    wide = normal.shape[0] < normal.shape[1]
    q, r = jnp.linalg.qr(normal.T if wide else normal)
    q = q * jnp.where(jnp.diagonal(r) < 0, -1, 1)
    return q.T if wide else q


class ForwardPass:
    """One pass through a network of named layers.

    params, stats: of all layers. dtype: of the operands of products; sums, norms and results are
    float32, or float64 if that is given. train: norms use the batch's statistics, and `stats` then
    holds the updated running ones; fixed: names of layers that keep theirs and are normalized by
    them. kept: intermediate results by name, which `keep` stores for tests and studies.
    """

    def __init__(
        self,
        params: Params,
        stats: Params,
        dtype: Any = jnp.float32,
        train: bool = False,
        parallel: Parallel = SINGLE_DEVICE,
        fixed: frozenset[str] = frozenset(),
    ):
        self.params, self.stats, self.train, self.fixed = params, dict(stats), train, fixed
        self.dtype, self.parallel = jnp.dtype(dtype), parallel
        self.float = jnp.promote_types(self.dtype, jnp.float32)
        self.kept: dict[str, jax.Array] = {}

    def layer(self, name: str) -> dict[str, jax.Array]:
        """Returns a layer's parameters, all-gathered where they are sharded."""
        return self.parallel.gather_params(self.params[name])

    def keep(self, name: str, x: jax.Array) -> jax.Array:
        """Stores x under a name and returns it."""
        self.kept[name] = x
        return x

    def conv(self, name: str, x, stride: int = 1):
        """Convolves x [B, h, w, C] with zeros beyond the border, half the kernel's odd side."""
        layer = self.layer(name)
        x, kernel = x.astype(self.dtype), layer["kernel"].astype(self.dtype)
        pad = len(kernel) // 2
        if stride > 1:
            x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
            return self._biased(valid_conv(x, kernel, stride), layer)
        out = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), ((pad, pad), (pad, pad)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return self._biased(out, layer)

    def up(self, name: str, x, stride: int, padding: int):
        """Applies a transposed convolution to x [B, h, w, C]."""
        layer = self.layer(name)
        kernel = layer["kernel"].astype(self.dtype)
        return self._biased(transposed_conv(x.astype(self.dtype), kernel, stride, padding), layer)

    def dense(self, name: str, x):
        """Applies a linear layer to x [B, D], or the centre tap of a convolution to its one pixel:
        the other taps see zeros only."""
        layer = self.layer(name)
        kernel = layer["kernel"]
        if kernel.ndim == 4:
            kernel = kernel[len(kernel) // 2, kernel.shape[1] // 2]
        return self._biased(x.astype(self.dtype) @ kernel.astype(self.dtype), layer)

    def norm(self, name: str, x, momentum: float = NORM_MOMENTUM):
        """Applies batch norm to x [B, ..., C], as PyTorch: it normalizes by the biased variance
        (1 / n) and stores the unbiased one (1 / (n - 1)).

        momentum: the new batch's share in the running statistics. A layer that is called several
        times updates them at each call.
        """
        layer, axes = self.layer(name), tuple(range(x.ndim - 1))
        if self.train and name not in self.fixed:
            count = x.size // x.shape[-1] * self._devices()
            if count == 1:
                raise UserError(
                    "batch_size 1: batch norm over a single value makes it zero: use 2 or more"
                )
            mean = self._over_devices(x.mean(axes))
            var = self._over_devices(jnp.square(x - mean).mean(axes))
            old, unbiased = self.stats[name], var * (count / (count - 1))
            self.stats[name] = {
                "mean": (1 - momentum) * old["mean"] + momentum * jax.lax.stop_gradient(mean),
                "var": (1 - momentum) * old["var"] + momentum * jax.lax.stop_gradient(unbiased),
            }
        else:
            mean, var = self.stats[name]["mean"], self.stats[name]["var"]
        return (x - mean) * jax.lax.rsqrt(var + NORM_EPSILON) * layer["scale"] + layer["bias"]

    def norm_relu(self, name: str, x, momentum: float = NORM_MOMENTUM):
        """Applies batch norm, then ReLU."""
        return jax.nn.relu(self.norm(name, x, momentum))

    def _biased(self, out, layer):
        out = out.astype(self.float)
        return out + layer["bias"] if "bias" in layer else out

    def _devices(self) -> int:
        return 1 if self.parallel.axis is None else jax.lax.psum(1, self.parallel.axis)

    def _over_devices(self, x):
        return x if self.parallel.axis is None else jax.lax.pmean(x, self.parallel.axis)


def load(
    arrays: Mapping[str, np.ndarray], table: Table, prefix: str, title: str
) -> tuple[Params, Params]:
    """Returns (parameters, running statistics) of a PyTorch state dict, float32.

    table: convolutions and norms, whose names in the file lack `prefix`. title: of the network.
    Raises UserError that names the arrays that are missing, of another shape or not finite.
    """
    params: Params = {}
    stats: Params = {}
    troubles = []
    for name, layer in table.items():
        for group, ours, leaf in _leaves(layer):
            theirs = f"{name.removeprefix(prefix)}.{leaf}"
            shape = layer.shape if ours == "kernel" else (_features(layer),)
            if theirs not in arrays:
                troubles.append(f"{theirs} is missing")
                continue
            array = to_ours(np.asarray(arrays[theirs]), len(shape))
            if array.shape != shape:
                there = list(np.shape(arrays[theirs]))
                troubles.append(f"{theirs} is {there}, a shape of another network")
            elif not np.isfinite(array).all():
                troubles.append(f"{theirs} has values that are not finite")
            else:
                kept = params if group == "params" else stats
                kept.setdefault(name, {})[ours] = np.asarray(array, np.float32)
    if troubles:
        raise UserError(
            f"is not {title} ({'; '.join(troubles[:2])}): give the state dict of torchvision's"
        )
    return params, stats


def _leaves(layer: Layer) -> list[tuple[str, str, str]]:
    """Returns (group, our name, PyTorch's name) of a layer's arrays."""
    if layer.kind == "norm":
        return [
            ("params", "scale", "weight"),
            ("params", "bias", "bias"),
            ("stats", "mean", "running_mean"),
            ("stats", "var", "running_var"),
        ]
    bias = [("params", "bias", "bias")] if layer.bias else []
    return [("params", "kernel", "weight"), *bias]


def _features(layer: Layer) -> int:
    return 0 if layer.kind == "votes" else layer.shape[-1]


def _kernel(normal, layer: Layer, scheme: str):
    """Returns a weight from standard normal values in its shape."""
    if layer.kind == "votes":
        return VOTES_DEVIATION * normal
    if scheme == "orthogonal":
        # PyTorch's matrix has its first axis as rows: outputs, of transposed convolutions inputs.
        rows = -2 if layer.kind == "up" else -1
        moved = jnp.moveaxis(normal, rows, 0)
        return jnp.moveaxis(orthogonal(moved.reshape(len(moved), -1)).reshape(moved.shape), 0, rows)
    if scheme == "he":
        fan_out = math.prod(layer.shape[:-2]) * layer.shape[-1]
        return normal * math.sqrt(2 / fan_out)
    uniform = jax.scipy.special.erf(normal / math.sqrt(2))  # in (-1, 1)
    return uniform / math.sqrt(_fan(layer))


def _fan(layer: Layer) -> int:
    *taps, inputs, outputs = layer.shape
    return math.prod(taps) * (outputs if layer.kind == "up" else inputs)


def _draw_biases(key: jax.Array, table: Table, params: Params) -> None:
    named = [(n, x) for n, x in table.items() if x.kind not in ("norm", "votes") and x.bias]
    for k, (name, layer) in zip(jax.random.split(key, max(len(named), 1)), named, strict=False):
        bound = 1 / math.sqrt(_fan(layer))
        bias = jax.random.uniform(k, (_features(layer),), minval=-bound, maxval=bound)
        params[name]["bias"] = bias
