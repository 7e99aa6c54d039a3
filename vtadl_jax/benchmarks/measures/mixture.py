"""Mixture densities: conditional (one mixture a token) and shared, against three libraries."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vtadl_jax.benchmarks.measures import Group, progress
from vtadl_jax.benchmarks.peers import require_torch
from vtadl_jax.benchmarks.peers.jax_mixture import NAMES, Worker
from vtadl_jax.benchmarks.timing import Candidate, compare
from vtadl_jax.ops.mixture import mixture_log_prob, mixture_log_prob_rows, shared_mixture_log_prob

Inputs = dict[str, np.ndarray]
WORKER_TIMEOUT = 120.0  # timeout for an answer of a library's process


def random_mixture(
    shape: tuple[int, ...], num_components: int, dim: int, num_tokens: int
) -> Inputs:
    """Returns well-conditioned float32 logits [*shape, K], loc, scale_tril and y [T, d]."""
    rng = np.random.default_rng(0)
    full = (*shape, num_components)
    lower = rng.normal(size=(*full, dim, dim), scale=0.5 / np.sqrt(dim))
    inputs = {
        "logits": rng.normal(size=full),
        "loc": rng.normal(size=(*full, dim)),
        "scale_tril": np.tril(lower, -1) + np.eye(dim) * rng.uniform(0.5, 1.5, (*full, dim, 1)),
        "y": rng.normal(size=(num_tokens, dim)),
    }
    return {name: np.asarray(value, np.float32) for name, value in inputs.items()}


def conditional(
    repeats: int,
    num_components: int = 150,
    dim: int = 16,
    num_tokens: int = 512,
    libraries: Sequence[str] = NAMES,
) -> list[Group]:
    """Measures value and gradients with respect to logits, means, factors and y."""
    inputs = random_mixture((num_tokens,), num_components, dim, num_tokens)
    title = f"mixture conditional, K {num_components}, d {dim}, {num_tokens} tokens, value+gradient"
    progress(title)
    workers = {name: Worker(name, inputs, WORKER_TIMEOUT) for name in libraries}
    candidates = [
        _ours_rows(inputs),
        _ours(mixture_log_prob, inputs, "ours, token-major"),
        _torch(inputs, "torch MixtureSameFamily(MultivariateNormal)"),
        *(_other_library(name, worker) for name, worker in workers.items()),
    ]
    # A solve with L, one with its transpose, and the outer product that is the factor's gradient.
    flops = num_tokens * num_components * (5 * dim * (dim + 1) / 2 + 6 * dim)
    try:
        return [compare(title, candidates, repeats, flops)]
    finally:
        for worker in workers.values():
            worker.close()


def shared(
    repeats: int, num_components: int = 150, dim: int = 128, num_tokens: int = 4096
) -> list[Group]:
    """Measures one mixture for all tokens, value alone and with gradients."""
    inputs = random_mixture((), num_components, dim, num_tokens)
    groups = []
    for gradient, products in ((False, 1), (True, 3)):
        work = "value+gradient" if gradient else "value"
        title = f"mixture shared, K {num_components}, d {dim}, {num_tokens} tokens, {work}"
        progress(title)
        candidates = [
            _ours(shared_mixture_log_prob, inputs, "ours", gradient),
            _torch(inputs, "torch MixtureSameFamily(MultivariateNormal)", gradient),
        ]
        flops = products * 2 * num_components * dim**2 * num_tokens
        groups.append(compare(title, candidates, repeats, flops))
    return groups


def _total(function: Callable) -> Callable:
    def total(*inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        value = function(*inputs)
        return value.sum(), value

    return total


def _value_and_grads(result: Any) -> list[np.ndarray]:
    """Returns log-likelihoods and gradients, the factors' last, without those above a diagonal."""
    (_, value), grads = result
    logits, loc, factor, y = map(np.asarray, grads)
    return [np.asarray(value), logits, loc, y, np.tril(factor)]


def _ours(function: Callable, inputs: Inputs, name: str, gradient: bool = True) -> Candidate:
    arguments = [jnp.asarray(inputs[key]) for key in ("logits", "loc", "scale_tril", "y")]
    if not gradient:
        value = jax.jit(function)
        return Candidate(name, lambda: value(*arguments), lambda result: [result])
    step = jax.jit(jax.value_and_grad(_total(function), argnums=(0, 1, 2, 3), has_aux=True))
    return Candidate(name, lambda: step(*arguments), _value_and_grads)


def _ours_rows(inputs: Inputs) -> Candidate:
    """Runs `mixture_log_prob_rows` on parameters in its layout, as our network emits them."""
    dim = inputs["y"].shape[-1]
    rows, cols = np.tril_indices(dim, -1)
    factor = inputs["scale_tril"].transpose(2, 3, 1, 0)
    diagonal = np.arange(dim)
    arguments = [
        jnp.asarray(np.ascontiguousarray(array))
        for array in (
            inputs["logits"].T,
            inputs["loc"].transpose(2, 1, 0),
            factor[diagonal, diagonal],
            factor[rows, cols],
            inputs["y"].T,
        )
    ]
    total = _total(mixture_log_prob_rows)
    step = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2, 3, 4), has_aux=True))

    def values(result: Any) -> list[np.ndarray]:
        (_, value), grads = result
        logits, loc, scale_diag, scale_lower, y = map(np.asarray, grads)
        tril = np.zeros(inputs["scale_tril"].shape, np.float32)
        tril[..., diagonal, diagonal] = scale_diag.transpose(2, 1, 0)
        tril[..., rows, cols] = scale_lower.transpose(2, 1, 0)
        return [np.asarray(value), logits.T, loc.transpose(2, 1, 0), y.T, tril]

    return Candidate("ours, rows first", lambda: step(*arguments), values)


def _torch(inputs: Inputs, name: str, gradient: bool = True) -> Candidate:
    torch = require_torch()
    from vtadl_jax.benchmarks.peers.torch_ops import mixture_log_prob as peer

    arguments = [
        torch.tensor(inputs[key], requires_grad=gradient)
        for key in ("logits", "loc", "scale_tril", "y")
    ]
    if not gradient:

        def value() -> Any:
            with torch.no_grad():
                return peer(*arguments)

        return Candidate(name, value, lambda result: [result])

    def step() -> Any:
        value = peer(*arguments)
        return (None, value.detach()), torch.autograd.grad(value.sum(), arguments)

    return Candidate(name, step, _value_and_grads)


def _other_library(name: str, worker: Worker) -> Candidate:
    def values(_: Any) -> list[np.ndarray]:
        value, logits, loc, factor, y = worker.values()
        if name == "jax.scipy":  # its third input is the covariance: another gradient
            return [value, logits, loc, y]
        return [value, logits, loc, y, np.tril(factor)]

    labels = {
        "distrax": "distrax MixtureSameFamily(MultivariateNormalTri)",
        "tfp": "TFP-JAX MixtureSameFamily(MultivariateNormalTriL)",
        "jax.scipy": "vmap(jax.scipy multivariate_normal.logpdf)",
    }
    note = "own process" + (", given covariances" if name == "jax.scipy" else "")
    return Candidate(labels[name], worker.run, values, note)
