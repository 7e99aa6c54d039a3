"""Capsules: squash and dynamic routing by agreement (Sabour, Frosst and Hinton, 2017).

A capsule is a vector; its length says how certain it is that its part is there. Every input capsule
predicts every output capsule, and routing gives more weight to predictions that agree.

`route` never computes the predictions [B, J, I, O]. A weighted sum of predictions is one matrix
product of weighted inputs and the weights; an agreement is one product of the outputs and the
weights. `route_reference` is the definition, a loop over images and capsules.
"""

import jax
import jax.numpy as jnp

EXACT = jax.lax.Precision.HIGHEST


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


def route(inputs, weights, iterations: int = 3, stop_gradient: bool = True, offset: float = 1.0):
    """Routes input capsules to output capsules; returns (outputs, coefficients).

    inputs: [B, I, D]. weights: [J, I, D, O]; input i predicts û_ji = inputs_i · weights_ji for
    output j. Returns outputs [B, J, O] and the last coefficients [B, J, I], whose sum over j is 1.
    The logits b start at 0; an iteration is c = softmax of b over j, v_j = squash(Σ_i c_ji û_ji),
    and, but for the last, b_ji += û_ji · v_j. All of it is for each image by itself.

    stop_gradient: takes the coefficients as constants in the backward pass, which then has the cost
    of one iteration; the outputs are the same. offset: of `squash`.
    """
    (batch, count, dim), num_outputs = inputs.shape, len(weights)
    flat = weights.reshape(num_outputs, count * dim, -1)

    def mean(inputs, flat):  # equal coefficients: softmax of 0
        rows = inputs.reshape(batch, -1)
        return jnp.einsum("bk,jko->jbo", rows, flat, precision=EXACT) / num_outputs

    def weighted_sum(coefficients, inputs, flat):  # coefficients: [J, B, I]
        weighted = (coefficients[..., None] * inputs).reshape(num_outputs, batch, -1)
        return jnp.einsum("jbk,jko->jbo", weighted, flat, precision=EXACT)

    def agreement(outputs, inputs, flat):  # outputs: [J, B, O]
        back = jnp.einsum("jbo,jko->jbk", outputs, flat, precision=EXACT)
        return (back.reshape(num_outputs, batch, count, dim) * inputs).sum(-1)

    if iterations == 1:
        coefficients = jnp.full((num_outputs, batch, count), 1 / num_outputs, flat.dtype)
        outputs = squash(mean(inputs, flat), offset)
        return outputs.swapaxes(0, 1), coefficients.swapaxes(0, 1)
    early = jax.lax.stop_gradient((inputs, flat)) if stop_gradient else (inputs, flat)
    logits = agreement(squash(mean(*early), offset), *early)
    for _ in range(iterations - 2):
        outputs = squash(weighted_sum(jax.nn.softmax(logits, 0), *early), offset)
        logits = logits + agreement(outputs, *early)
    coefficients = jax.nn.softmax(logits, 0)
    outputs = squash(weighted_sum(coefficients, inputs, flat), offset)
    return outputs.swapaxes(0, 1), coefficients.swapaxes(0, 1)


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
