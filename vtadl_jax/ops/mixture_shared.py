"""One mixture for all tokens: whitening is a matrix product of every component with all tokens.

Components are processed in chunks, and recomputed in the backward pass, so that memory holds the
whitened tokens of one chunk, whatever K is. The factors are inverted once, by products.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vtadl_jax.errors import UserError
from vtadl_jax.ops.mixture_factors import (
    LOG_2PI,
    WHITENED_LIMIT,
    FactorOf,
    check_shapes,
    inverse_tril,
    matmul,
    unpack_tril,
    upcast,
)
from vtadl_jax.ops.outline import outlined
from vtadl_jax.ops.platform import by_platform

# Bytes of whitened tokens [chunk, d, T] if the caller gives no chunk size: on a CPU one such array
# stays in the cache, elsewhere a few products occupy the whole device.
CPU_BLOCK, BLOCK = 2**22, 2**25
UNBOUNDED = 2**62  # one chunk, for files whose number of images is open
# Up to this distance from a common centre, in sigma, tokens and means may be whitened separately.
NEAR = 1e3


class Plan(NamedTuple):
    """Static settings of a traced program."""

    factor_of: FactorOf
    chunk: int
    on_cpu: bool


def shared_mixture_log_prob(
    logits, loc, scale_tril, y, *, factor_of: FactorOf = "covariance", chunk_size: int | None = None
):
    """Returns the log-likelihood of `y` [..., d] under one mixture for all tokens: [...], float32.

    logits: [K], loc: [K, d]; scale_tril: [K, d, d] or packed [K, d(d+1)/2], with `factor_of` as in
    `mixture_log_prob`. chunk_size: largest number of components in memory at once (the largest
    divisor of K up to it is used); None chooses it by memory.

    With T tokens, value and gradient take at most 3·(chunk·d·T + K·T + K·d² + d·T) floats of
    temporary memory in addition to the gradients (by XLA's memory analysis on a CPU).

    Raises:
      UserError: shapes that do not fit, an unknown `factor_of`, or chunk_size below 1.
    """
    packed = check_shapes(logits, loc, scale_tril, y, factor_of)
    if chunk_size is not None and chunk_size < 1:
        raise UserError(f"chunk_size {chunk_size}: use 1 or more, or None to have it chosen")
    logits, loc, scale_tril, y = upcast(logits, loc, scale_tril, y)
    k, d = loc.shape
    if packed:
        scale_tril = unpack_tril(scale_tril, d)
    tokens = y.reshape(-1, d).T

    def on(block_bytes, on_cpu):
        known = tokens.shape[1] if isinstance(tokens.shape[1], int) else 1  # symbolic in an export
        most = chunk_size or max(1, block_bytes // (4 * d * max(1, known)))
        chunk = next(c for c in range(min(k, most), 0, -1) if k % c == 0)
        return functools.partial(_shared, plan=Plan(factor_of, chunk, on_cpu))

    log_prob = by_platform(
        logits,
        loc,
        scale_tril,
        tokens,
        cpu=on(CPU_BLOCK, True),
        onnx=on(UNBOUNDED, False),
        default=on(BLOCK, False),
    )
    return log_prob.reshape(y.shape[:-1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _shared(logits, loc, scale_tril, tokens, plan):
    """Returns the log-likelihood [T] of tokens [d, T]."""
    return _fwd(logits, loc, scale_tril, tokens, plan)[0]


def _fwd(logits, loc, scale_tril, tokens, plan):
    covariance = plan.factor_of == "covariance"
    whitener = inverse_tril(scale_tril) if covariance else jnp.tril(scale_tril).swapaxes(1, 2)
    log_det = jnp.log(jnp.diagonal(scale_tril, axis1=1, axis2=2)).sum(1)
    constant = jax.nn.log_softmax(logits) - 0.5 * loc.shape[1] * LOG_2PI
    constant = constant - log_det if covariance else constant + log_det
    whiten, per_component = _whitening(whitener, loc, logits, tokens, plan.on_cpu)
    sum_squares = _sum_squares_by_rows if plan.on_cpu else _sum_squares

    def of_chunk(_, *chunk):
        return None, sum_squares(*whiten(*chunk))

    square = _scan(of_chunk, None, per_component, plan.chunk)[1]
    joint = constant[:, None] - 0.5 * jnp.minimum(square, WHITENED_LIMIT**2)
    log_prob = jax.nn.logsumexp(joint, axis=0)
    return log_prob, (logits, loc, scale_tril, tokens, whitener, joint, log_prob)


def _bwd(plan, residuals, g):
    """Returns the gradients.

    With A the whitener, z = A r and w_k = p(k | y) g: ∂/∂y = -Σ_k w Aᵀz, ∂/∂loc = Aᵀ Σ_t w z,
    ∂/∂L = tril(Aᵀ Σ_t w z zᵀ) - diag(Σ_t w / L_ii); ∂/∂P = diag(Σ_t w / P_ii) - tril(Σ_t w r zᵀ).
    """
    logits, loc, scale_tril, tokens, whitener, joint, log_prob = residuals
    covariance, d = plan.factor_of == "covariance", loc.shape[1]
    # No gradient for components at the limit: their squared residuals may overflow.
    weight = jnp.where(joint < -0.4 * WHITENED_LIMIT**2, 0, jnp.exp(joint - log_prob) * g)
    whiten, per_component = _whitening(whitener, loc, logits, tokens, plan.on_cpu)

    def of_chunk(grad_tokens, weight, whitener, shift, loc):
        product, offset = whiten(whitener, shift, loc)
        z = product - offset[:, :, None]
        wz = weight[:, None] * z
        left, right = (wz, z) if covariance else (tokens - loc[:, :, None], wz)
        # One product sums over components and coordinates.
        rows = len(loc) * d
        flat = matmul(whitener.reshape(rows, d).T, wz.reshape(rows, tokens.shape[1]))
        outer = matmul(left, right.swapaxes(1, 2))
        if covariance:
            outer = matmul(whitener.swapaxes(1, 2), outer)
        grad_loc = matmul(wz.sum(-1)[:, None], whitener)[:, 0]
        return grad_tokens - flat, (jnp.tril(outer), grad_loc)

    start = jnp.zeros_like(tokens)
    grad_tokens, (outer, grad_loc) = _scan(of_chunk, start, (weight, *per_component), plan.chunk)
    total, diagonal = weight.sum(1), jnp.diagonal(scale_tril, axis1=1, axis2=2)
    own = jnp.eye(d, dtype=loc.dtype) * (total[:, None] / diagonal)[:, None]
    grad_scale = outer - own if covariance else own - outer
    grad_logits = total - jax.nn.softmax(logits) * g.sum()
    return grad_logits, grad_loc, grad_scale, grad_tokens


_shared.defvjp(_fwd, _bwd)


def _scan(function, carry, arrays, chunk: int):
    """Scans `function(carry, *chunk)` over chunks of `arrays` [K, ...]; one chunk needs no loop."""
    k = len(arrays[0])
    if chunk == k:
        return function(carry, *arrays)
    chunks = tuple(a.reshape(k // chunk, chunk, *a.shape[1:]) for a in arrays)
    carry, out = jax.lax.scan(lambda c, chunk: function(c, *chunk), carry, chunks)
    return carry, jax.tree.map(lambda a: a.reshape(k, *a.shape[2:]), out)


def _whitening(whitener, loc, logits, tokens, on_cpu):
    """Returns a whitening function and its arguments (whitener, shift, loc) for all components.

    For a chunk of c components, the function returns a product [c, d, T] and the offset [c, d] that
    is still to be subtracted from it.

    On a CPU, A y - A loc is one tall product for all components of a chunk, without an array of
    residuals, and faster by a third or more. But it cancels digits that A y and A loc share: with
    components 1e4 sigma apart the log-density is wrong by 1e-2, within NEAR by 1e-4. So a chunk
    that reaches farther uses A (y - loc), as every chunk does on other platforms: the TPU's
    compiler fuses residuals, product and squares.
    """
    d = len(tokens)
    centre = jax.nn.softmax(logits) @ loc
    centred = tokens - centre[:, None]
    spread = jnp.abs(centred).max(1, initial=0)
    shift = matmul(whitener, (loc - centre)[..., None])[..., 0]

    def whiten(whitener, shift, loc):
        def apart():
            product = matmul(whitener.reshape(-1, d), centred)
            return product.reshape(len(loc), *tokens.shape), shift

        def residuals_first():
            return matmul(whitener, tokens - loc[:, :, None]), jnp.zeros_like(shift)

        if not on_cpu:
            return residuals_first()
        sigma = matmul(jnp.abs(whitener), spread)
        return jax.lax.cond(sigma.max() <= NEAR, apart, residuals_first)

    return whiten, (whitener, shift, loc)


def _sum_squares(product, offset):
    """Returns |product - offset|²: [c, d, T], [c, d] → [c, T]."""
    return jnp.square(product - offset[:, :, None]).sum(1)


@outlined
def _sum_squares_by_rows(product, offset):
    """Returns the same, for the CPU, whose compiler reduces a middle axis slowly."""
    rows = (jnp.square(product[:, i] - offset[:, i, None]) for i in range(product.shape[1]))
    return functools.reduce(jnp.add, rows)
