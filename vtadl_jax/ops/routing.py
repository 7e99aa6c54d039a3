"""Capsules: squash and dynamic routing by agreement (Sabour, Frosst and Hinton, 2017).

A capsule is a vector; its length says how certain it is that its part is there. Every input capsule
predicts every output capsule, and routing gives more weight to predictions that agree.

Routing consists of two bilinear operations, weighted sums of predictions and agreements with them.
`route` computes the predictions once where they take at most `KEPT_BYTES`, else never: a weighted
sum is then one matrix product of weighted inputs and the weights, an agreement one of the outputs
and the weights. Gradients are products of the second kind in both. `route_reference` is the
definition, a loop over images and capsules.
"""

import functools

import jax
import jax.numpy as jnp

from vtadl_jax.ops.outline import outlined
from vtadl_jax.ops.platform import by_platform

EXACT = jax.lax.Precision.HIGHEST
KEPT_BYTES = 64 * 2**20  # of all predictions, up to which they are kept
# Sums over so few output capsules, or values of an input capsule, are written out: XLA's CPU
# compiler takes up to ten times as long for a reduction over an axis that is not the last.
UNROLLED = 16
_einsum = functools.partial(jnp.einsum, precision=EXACT)


def squash(vectors, offset: float = 1.0):
    """Returns s·|s| / (offset + |s|²): the same direction, a length below 1.

    vectors: [..., D]. Value and gradient are 0 at s = 0, where s·|s|² / ((1 + |s|²)·|s|) is 0 / 0.
    """
    squared = jnp.square(vectors).sum(-1, keepdims=True)
    return vectors * (_root(squared) / (offset + squared))


def lengths(vectors):
    """Returns the Euclidean lengths of vectors [..., D]: [...]. The gradient at 0 is 0."""
    return _root(jnp.square(vectors).sum(-1))


def _root(squared):
    """Returns the square root, with gradient 0 at 0 in place of infinity."""
    positive = squared > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1)), 0)


def route(
    inputs,
    weights,
    iterations: int = 3,
    stop_gradient: bool = True,
    offset: float = 1.0,
    kept_bytes: int = KEPT_BYTES,
):
    """Routes input capsules to output capsules; returns (outputs, coefficients).

    inputs: [B, I, D]. weights: [J, I, D, O]; input i predicts û_ji = inputs_i · weights_ji for
    output j. Returns outputs [B, J, O] and the last coefficients [B, J, I], whose sum over j is 1.
    The logits b start at 0; an iteration is c = softmax of b over j, v_j = squash(Σ_i c_ji û_ji),
    and, but for the last, b_ji += û_ji · v_j. All of it is for each image by itself.

    stop_gradient: takes the coefficients as constants in the backward pass, which then has the cost
    of one iteration; the outputs are the same. offset: of `squash`. kept_bytes: the size of the
    predictions B·J·I·O up to which they are computed once and kept, which is faster.
    """
    early = jax.lax.stop_gradient((inputs, weights))
    count, predictions = inputs.shape[0], None
    size = weights.shape[0] * weights.shape[1] * weights.shape[3]
    size *= jnp.result_type(inputs, weights).itemsize
    # The number of images is symbolic in programs that are exported for any.
    if isinstance(count, int) and count * size <= kept_bytes:
        predictions = _boundary(_predict, *early)
    operands = (*(early if stop_gradient else (inputs, weights)), predictions)
    coefficients = jnp.full(
        (len(weights), *inputs.shape[:2]), 1 / len(weights), jnp.result_type(inputs, weights)
    )
    logits = jnp.zeros((), coefficients.dtype)
    for _ in range(iterations - 1):
        logits = logits + agreements(
            squash(weighted_sums(coefficients, *operands), offset), *operands
        )
        coefficients = _shares(logits)
    outputs = squash(weighted_sums(coefficients, inputs, weights, predictions), offset)
    return outputs.swapaxes(0, 1), coefficients.swapaxes(0, 1)


@jax.custom_vjp
def weighted_sums(coefficients, inputs, weights, predictions=None):
    """Returns Σ_i c_ji û_ji, [J, B, O].

    coefficients: [J, B, I]. inputs, weights: as in `route`. predictions: [J, B, I, O] of these
    inputs and weights, or None; a constant, gradients go to inputs and weights.
    """
    if predictions is not None:
        return _einsum("jbi,jbio->jbo", coefficients, predictions)
    rows = _boundary(_weighted, coefficients, inputs)
    return _einsum("jbk,jko->jbo", rows, _matrices(weights))


@jax.custom_vjp
def agreements(outputs, inputs, weights, predictions=None):
    """Returns û_ji · v_j, [J, B, I]. outputs: [J, B, O]. The others: as of `weighted_sums`."""
    if predictions is not None:
        return _einsum("jbo,jbio->jbi", outputs, predictions)
    return _boundary(_dot_inputs, _projected(outputs, weights, inputs), inputs)


def _sums_fwd(*operands):
    return weighted_sums(*operands), operands


def _sums_bwd(operands, g):
    coefficients, *rest = operands
    return agreements(g, *rest), *_factor_gradients(coefficients, g, *rest)


def _agreements_fwd(*operands):
    return agreements(*operands), operands


def _agreements_bwd(operands, g):
    outputs, *rest = operands
    return weighted_sums(g, *rest), *_factor_gradients(g, outputs, *rest)


weighted_sums.defvjp(_sums_fwd, _sums_bwd)
agreements.defvjp(_agreements_fwd, _agreements_bwd)


def _factor_gradients(coefficients, vectors, inputs, weights, _):
    """Returns the gradients of Σ_ji c_ji û_ji · v_j of inputs, weights and, none, predictions.

    The weights' as [J, O, I·D], then transposed: XLA's CPU compiler takes five times as long to
    write [J, I·D, O] at once.
    """
    rows = _boundary(_weighted, coefficients, inputs)
    transposed = _boundary(lambda v, rows: _einsum("jbo,jbk->jok", v, rows), vectors, rows)
    projected = _projected(vectors, weights, inputs)
    grad_inputs = _sum_first(projected * coefficients[..., None])
    return grad_inputs, transposed.swapaxes(1, 2).reshape(weights.shape), None


def _shares(logits):
    """Returns the softmax over the first axis of logits [J, B, I]."""
    if len(logits) > UNROLLED:
        return jax.nn.softmax(logits, 0)
    largest = functools.reduce(jnp.maximum, jax.lax.stop_gradient(logits))
    exponentials = jnp.exp(logits - largest)
    return exponentials / _sum_first(exponentials)


def _sum_first(x):
    """Returns the sum over the first axis."""
    return sum(x) if len(x) <= UNROLLED else x.sum(0)


def _predict(inputs, weights):
    """Returns the predictions [J, B, I, O]."""
    dim = inputs.shape[-1]
    if dim > UNROLLED:
        return _einsum("bid,jido->jbio", inputs, weights)
    terms = (inputs[None, :, :, d, None] * weights[:, None, :, d] for d in range(dim))
    return sum(terms)


def _weighted(coefficients, inputs):
    """Returns c_ji · inputs_i in rows, [J, B, I·D]."""
    rows = coefficients[..., None] * inputs
    return rows.reshape(*rows.shape[:2], -1)


def _projected(vectors, weights, inputs):
    """Returns weights_ji · v_j, [J, B, I, D]. vectors: [J, B, O]. inputs: only their shape."""
    rows = _einsum("jbo,jko->jbk", vectors, _matrices(weights))
    return rows.reshape(len(weights), *inputs.shape)


def _dot_inputs(projected, inputs):
    """Returns the products over D of [J, B, I, D] and inputs, [J, B, I]."""
    dim = inputs.shape[-1]
    if dim > UNROLLED:
        return (projected * inputs).sum(-1)
    return sum(projected[..., d] * inputs[..., d] for d in range(dim))


def _matrices(weights):
    """Returns weights [J, I, D, O] as [J, I·D, O]."""
    return weights.reshape(len(weights), -1, weights.shape[-1])


def _boundary(function, *args):
    """Calls a function; XLA's CPU compiler would compute its result anew for each reader."""
    return by_platform(*args, cpu=outlined(function), default=function)


def route_reference(
    inputs, weights, iterations: int = 3, stop_gradient: bool = True, offset: float = 1.0
):
    """Returns the results of `route` from their definition, one capsule after the other.

    For small shapes, and not to be compiled: its program grows with B·I·J. Differentiable except at
    0.
    """
    routed = [_route_image(u, weights, iterations, stop_gradient, offset) for u in inputs]
    return tuple(jnp.stack(parts) for parts in zip(*routed, strict=True))


def _route_image(capsules, weights, iterations, stop_gradient, offset):
    """Routes the capsules [I, D] of one image: ([J, O], [J, I])."""
    num_outputs, count = len(weights), len(capsules)
    predictions = [[u @ w for u, w in zip(capsules, row, strict=True)] for row in weights]
    logits = [[jnp.zeros((), capsules.dtype)] * count for _ in range(num_outputs)]
    for iteration in range(iterations):
        last = iteration == iterations - 1
        seen = jax.lax.stop_gradient(predictions) if stop_gradient and not last else predictions
        shares = [[jnp.exp(b) for b in row] for row in logits]
        totals = [sum(column) for column in zip(*shares, strict=True)]
        shares = [[c / total for c, total in zip(row, totals, strict=True)] for row in shares]
        outputs = []
        for row, guesses in zip(shares, seen, strict=True):
            s = sum(c * guess for c, guess in zip(row, guesses, strict=True))
            squared = (s * s).sum()
            outputs.append(squared / (offset + squared) * s / jnp.sqrt(squared))
        if not last:
            logits = [
                [b + guess @ v for b, guess in zip(row, guesses, strict=True)]
                for row, guesses, v in zip(logits, seen, outputs, strict=True)
            ]
    return jnp.stack(outputs), jnp.stack([jnp.stack(row) for row in shares])
