"""Dynamic routing of CapsNet's capsules, against plain JAX and torch."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vtadl_jax.benchmarks.measures import Group, progress
from vtadl_jax.benchmarks.peers import require_torch
from vtadl_jax.benchmarks.timing import Candidate, compare
from vtadl_jax.ops.routing import route, squash

ITERATIONS = 3


def routing(
    repeats: int,
    batch: int = 32,
    capsules: int = 1152,
    dim: int = 8,
    outputs: int = 2,
    output_dim: int = 16,
) -> list[Group]:
    """Measures routing and both gradients; the coefficients are constants in the backward pass."""
    title = (
        f"routing, {batch} images, {capsules} capsules of {dim} → {outputs} of {output_dim}, "
        f"{ITERATIONS} iterations, value+gradient"
    )
    progress(title)
    rng = np.random.default_rng(0)
    arrays = [
        rng.standard_normal(shape, np.float32) * scale
        for shape, scale in (
            ((batch, capsules, dim), 0.2),
            ((outputs, capsules, dim, output_dim), 0.05),
            ((batch, outputs, output_dim), 1.0),
        )
    ]
    candidates = [
        _jax("ours", lambda inputs, weights: route(inputs, weights, ITERATIONS)[0], arrays),
        _jax(
            "ours, without predictions",
            lambda inputs, weights: route(inputs, weights, ITERATIONS, kept_bytes=0)[0],
            arrays,
        ),
        _jax("jax, predictions kept", keep_predictions, arrays),
        _jax("jax, loop over capsules", loop_over_capsules, arrays),
        _torch(arrays),
    ]
    flops = 3 * 2 * batch * capsules * dim * outputs * output_dim  # of the predictions
    return [compare(title, candidates, repeats, flops)]


def keep_predictions(inputs: jax.Array, weights: jax.Array) -> jax.Array:
    """Routes with all predictions [B, J, I, O] in memory, as most code does."""
    predictions = jnp.einsum("bid,jido->bjio", inputs, weights)
    fixed = jax.lax.stop_gradient(predictions)
    logits = jnp.zeros(predictions.shape[:3])
    for _ in range(ITERATIONS - 1):
        vectors = squash(jnp.einsum("bji,bjio->bjo", jax.nn.softmax(logits, 1), fixed))
        logits = logits + jnp.einsum("bjio,bjo->bji", fixed, vectors)
    return squash(jnp.einsum("bji,bjio->bjo", jax.nn.softmax(logits, 1), predictions))


def loop_over_capsules(inputs: jax.Array, weights: jax.Array) -> jax.Array:
    """Routes as the definition reads: one input capsule after the other."""
    rows = (inputs.swapaxes(0, 1), weights.swapaxes(0, 1))
    predictions = jax.lax.map(lambda row: jnp.einsum("bd,jdo->bjo", *row), rows)  # [I, B, J, O]
    logits = jnp.zeros(predictions.shape[:3])

    def add(total: jax.Array, row: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        logit, prediction = row
        return total + jax.nn.softmax(logit, -1)[..., None] * prediction, None

    for iteration in range(ITERATIONS):
        last = iteration == ITERATIONS - 1
        seen = predictions if last else jax.lax.stop_gradient(predictions)
        sums, _ = jax.lax.scan(add, jnp.zeros(predictions.shape[1:]), (logits, seen))
        vectors = squash(sums)
        if not last:
            agreed = functools.partial(_agreement, vectors)
            logits = logits + jax.lax.map(agreed, seen)
    return vectors


def _agreement(vectors: jax.Array, prediction: jax.Array) -> jax.Array:
    return (prediction * vectors).sum(-1)


def _jax(name: str, function: Any, arrays: list[np.ndarray]) -> Candidate:
    inputs, weights, g = map(jnp.asarray, arrays)

    @jax.jit
    def step(inputs: jax.Array, weights: jax.Array, g: jax.Array) -> tuple[jax.Array, ...]:
        out, vjp = jax.vjp(function, inputs, weights)
        return out, *vjp(g)

    compiled = step.lower(inputs, weights, g).compile()
    memory = compiled.memory_analysis()
    note = f"{memory.temp_size_in_bytes / 2**20:.0f} MiB temporary" if memory else ""
    return Candidate(name, lambda: compiled(inputs, weights, g), list, note)


def _torch(arrays: list[np.ndarray]) -> Candidate:
    torch = require_torch()
    from vtadl_jax.benchmarks.peers.torch_ops import route as torch_route

    inputs, weights, g = map(torch.tensor, arrays)

    def step() -> tuple[Any, ...]:
        u, w = inputs.detach().requires_grad_(), weights.detach().requires_grad_()
        out = torch_route(u, w, ITERATIONS)
        return out.detach(), *torch.autograd.grad(out, (u, w), g)

    return Candidate("torch, predictions kept", step, list)
