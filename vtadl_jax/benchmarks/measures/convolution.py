"""Transposed convolutions of both decoders and SSIM, against torch's kernels."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vtadl_jax.benchmarks.measures import Group, progress
from vtadl_jax.benchmarks.measures.torch_variants import LAYOUTS, fastest, in_layout
from vtadl_jax.benchmarks.peers import require_torch
from vtadl_jax.benchmarks.timing import Candidate, compare
from vtadl_jax.detectors.official import DECODER as OFFICIAL_LAYERS
from vtadl_jax.ops.ssim import ssim as our_ssim
from vtadl_jax.ops.transposed_conv import output_side, transposed_conv

Arrays = Sequence[np.ndarray]
Layer = tuple[int, int, int, int, int]  # in, out, kernel, stride, padding
PAPER_LAYERS: tuple[Layer, ...] = (
    (8, 64, 8, 4, 2),
    (64, 64, 4, 2, 1),
    (64, 32, 4, 2, 1),
    (32, 16, 4, 2, 1),
    (16, 3, 4, 2, 1),
)
BASE_SIDE = 8


def transposed_convs(repeats: int, batch: int = 8) -> list[Group]:
    """Measures every layer of the two decoders, from the 8 × 8 map on; value, then gradients."""
    groups = []
    for decoder, layers in (("paper", PAPER_LAYERS), ("official", OFFICIAL_LAYERS)):
        side = BASE_SIDE
        for layer in layers:
            groups += layer_groups(repeats, decoder, layer, side, batch)
            side = output_side(side, *layer[2:])
    return groups


def layer_groups(repeats: int, decoder: str, layer: Layer, side: int, batch: int) -> list[Group]:
    """Measures one layer on a `side` × `side` map: value, then value and both gradients."""
    inputs, outputs, kernel, stride, padding = layer
    out = output_side(side, kernel, stride, padding)
    rng = np.random.default_rng(0)
    arrays = [
        rng.standard_normal(shape, np.float32)
        for shape in (
            (batch, side, side, inputs),
            (kernel, kernel, inputs, outputs),
            (batch, out, out, outputs),
        )
    ]
    multiply_adds = batch * side**2 * kernel**2 * inputs * outputs
    groups = []
    for gradient in (False, True):
        work = "value+gradient" if gradient else "value"
        title = (
            f"transposed convolution, {decoder} decoder, {inputs}→{outputs} {kernel}×{kernel} "
            f"stride {stride}, {side}² → {out}², batch {batch}, {work}"
        )
        progress(title)
        candidates = [
            _our_convolution(arrays, stride, padding, gradient),
            _torch_convolution(arrays, stride, padding, gradient),
        ]
        flops = (3 if gradient else 1) * 2 * multiply_adds
        groups.append(compare(title, candidates, repeats, flops))
    return groups


def _our_convolution(arrays: Arrays, stride: int, padding: int, gradient: bool) -> Candidate:
    x, kernel, g = map(jnp.asarray, arrays)

    @jax.jit
    def value(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array]:
        return (transposed_conv(x, kernel, stride, padding),)

    @jax.jit
    def step(x: jax.Array, kernel: jax.Array, g: jax.Array) -> tuple[jax.Array, ...]:
        function = functools.partial(transposed_conv, stride=stride, padding=padding)
        out, vjp = jax.vjp(function, x, kernel)
        return out, *vjp(g)

    arguments = (x, kernel, g) if gradient else (x, kernel)
    compiled = (step if gradient else value).lower(*arguments).compile()
    memory = compiled.memory_analysis()
    note = f"{memory.temp_size_in_bytes / 2**20:.0f} MiB temporary" if memory else ""
    return Candidate("ours", lambda: compiled(*arguments), list, note)


def _torch_convolution(arrays: Arrays, stride: int, padding: int, gradient: bool) -> Candidate:
    torch = require_torch()
    axes = ((0, 3, 1, 2), (2, 3, 0, 1), (0, 3, 1, 2))
    calls = {}
    for layout in LAYOUTS:
        tensors = [
            in_layout(torch.tensor(array.transpose(order)), layout)
            for array, order in zip(arrays, axes, strict=True)
        ]
        calls[layout] = functools.partial(_torch_step, tensors, stride, padding, gradient)

    def values(result: Any) -> list[Any]:
        out, *grads = result
        turned = [out.permute(0, 2, 3, 1)]
        if grads:
            turned += [grads[0].permute(0, 2, 3, 1), grads[1].permute(2, 3, 0, 1)]
        return turned

    best = fastest(calls)
    return Candidate("torch conv_transpose2d", calls[best], values, note=best)


def _torch_step(tensors: Sequence[Any], stride: int, padding: int, gradient: bool) -> Any:
    torch = require_torch()
    x, kernel, g = tensors
    function = functools.partial(
        torch.nn.functional.conv_transpose2d, stride=stride, padding=padding
    )
    if not gradient:
        with torch.no_grad():
            return (function(x, kernel),)
    x, kernel = x.detach().requires_grad_(), kernel.detach().requires_grad_()
    out = function(x, kernel)
    return out.detach(), *torch.autograd.grad(out, (x, kernel), g)


def ssim(repeats: int, batch: int = 8, side: int = 512, channels: int = 3) -> list[Group]:
    """Measures the mean SSIM of image pairs and its gradient with respect to one of them."""
    title = f"SSIM, {batch}×{side}²×{channels}, value+gradient"
    progress(title)
    torch = require_torch()
    from vtadl_jax.benchmarks.peers.torch_ops import SSIM

    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (batch, side, side, channels)).astype(np.float32)
    y = np.clip(x + 0.3 * rng.standard_normal(x.shape, np.float32), -1, 1)

    def total(y: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        value = our_ssim(x, y, 2.0)
        return value.sum(), value

    ours, arguments = jax.jit(jax.value_and_grad(total, has_aux=True)), (jnp.array(y), jnp.array(x))
    module = SSIM(channels, data_range=2.0)

    def peer(x: Any, y: Any) -> Any:
        y = y.detach().requires_grad_()
        value = module(x, y)
        return (None, value.detach()), torch.autograd.grad(value.sum(), y)[0]

    calls = {}
    for layout in LAYOUTS:
        pair = (in_layout(torch.tensor(a.transpose(0, 3, 1, 2)), layout) for a in (x, y))
        calls[layout] = functools.partial(peer, *pair)
    best = fastest(calls)
    candidates = [
        Candidate("ours", lambda: ours(*arguments), lambda result: [result[0][1], result[1]]),
        Candidate(
            "torch grouped convolution",
            calls[best],
            lambda result: [result[0][1], result[1].permute(0, 2, 3, 1)],
            note=best,
        ),
    ]
    # Value 4 blurs, gradient 3, each 11 taps along both axes: the fewest known operations.
    flops = 7 * 2 * 2 * 11 * x.size
    return [compare(title, candidates, repeats, flops)]
