"""Log-density of Gaussian mixtures whose covariances are given by Cholesky factors.

Two layouts. The *token-major* functions (`mixture_log_prob`) take what a textbook would write:
`loc [..., K, d]`, `scale_tril [..., K, d, d]`. The *rows-first* function
(`mixture_log_prob_rows`) takes every coordinate of every factor as a `[K, T]` slab, tokens last:
forward substitution then runs down the rows with long contiguous vectors, no matrix is unpacked
and no small solver is called. A network that emits its parameters in that layout pays no
transposition.

All arithmetic is float32 (or float64 if given), whatever the caller computes in.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

LOG_2PI = math.log(2 * math.pi)


def tril_size(d: int) -> int:
    """Number of entries strictly below the diagonal of a d × d matrix."""
    return d * (d - 1) // 2


def _upcast(*arrays):
    dtype = jnp.promote_types(jnp.float32, jnp.result_type(*arrays))
    return tuple(jnp.asarray(a, dtype) for a in arrays)


def component_log_prob_reference(loc, scale_tril, y):
    """log N(y | loc_k, L_k L_kᵀ) from the definition, by forward substitution entry by entry.

    loc: [..., K, d], scale_tril: [..., K, d, d], y: [..., d]. Returns [..., K].
    """
    loc, scale_tril, y = _upcast(loc, scale_tril, y)
    residual = y[..., None, :] - loc
    z: list[jax.Array] = []
    for i in range(y.shape[-1]):
        known = sum((scale_tril[..., i, j] * z[j] for j in range(i)), jnp.zeros(()))
        z.append((residual[..., i] - known) / scale_tril[..., i, i])
    square = sum(jnp.square(entry) for entry in z)
    log_det = jnp.log(jnp.diagonal(scale_tril, axis1=-2, axis2=-1)).sum(-1)
    return -0.5 * square - log_det - 0.5 * loc.shape[-1] * LOG_2PI


def mixture_log_prob_reference(logits, loc, scale_tril, y):
    """log Σ_k softmax(logits)_k N(y | loc_k, L_k L_kᵀ), paper eq. 4; the slow twin of all below."""
    log_weights = jax.nn.log_softmax(_upcast(logits)[0])
    component = component_log_prob_reference(loc, scale_tril, y)
    return jax.nn.logsumexp(log_weights + component, axis=-1)


def mixture_log_prob(logits, loc, scale_tril, y):
    """log-likelihood of `y` under a full-covariance mixture whose parameters differ per token.

    logits: [..., K], loc: [..., K, d], scale_tril: [..., K, d, d] with a positive diagonal (what is
    above the diagonal is not read), y: [..., d]. Returns [...], float32.
    """
    logits, loc, scale_tril, y = _upcast(logits, loc, scale_tril, y)
    d = y.shape[-1]
    rows, cols = np.tril_indices(d, -1)

    def rows_first(x, value_axes):  # [..., K, *values] -> [*values, K, T]
        k = x.shape[-1 - value_axes]
        batch = y.shape[:-1]
        x = jnp.broadcast_to(x, (*batch, *x.shape[-1 - value_axes :]))
        x = x.reshape(math.prod(batch), k, *x.shape[x.ndim - value_axes :])
        return jnp.moveaxis(x, (0, 1), (-1, -2))

    log_prob = mixture_log_prob_rows(
        rows_first(logits, 0),
        rows_first(loc, 1),
        rows_first(jnp.diagonal(scale_tril, axis1=-2, axis2=-1), 1),
        rows_first(scale_tril[..., rows, cols], 1),
        y.reshape(-1, d).T,
    )
    return log_prob.reshape(y.shape[:-1])


def shared_mixture_log_prob(logits, loc, scale_tril, y):
    """log-likelihood of `y` under one mixture for all tokens.

    logits: [K], loc: [K, d], scale_tril: [K, d, d], y: [..., d]. Returns [...].
    The few factors are inverted once; whitening is then one product with all tokens a component.
    """
    logits, loc, scale_tril, y = _upcast(logits, loc, scale_tril, y)
    tokens = y.reshape(-1, y.shape[-1])
    residual = tokens.T[None] - loc[:, :, None]  # [K, d, T]
    z = _matmul(inverse_tril(scale_tril), residual)
    log_det = jnp.log(jnp.diagonal(scale_tril, axis1=-2, axis2=-1)).sum(-1)
    constant = jax.nn.log_softmax(logits) - log_det - 0.5 * loc.shape[-1] * LOG_2PI
    log_prob = jax.nn.logsumexp(constant[:, None] - 0.5 * jnp.square(z).sum(1), axis=0)
    return log_prob.reshape(y.shape[:-1])


def _matmul(a, b):
    """In full float32: accelerators would otherwise round the factors to bfloat16."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def inverse_tril(factor):
    """Inverse of lower triangular matrices [K, d, d]; what is above the diagonal is not read.

    By halves, [[A, 0], [C, B]]⁻¹ = [[A⁻¹, 0], [-B⁻¹ C A⁻¹, B⁻¹]]: products only. XLA's CPU runs a
    batched `triangular_solve` as LAPACK calls that wait for the threads they occupy; on machines
    with few cores two of them at once never end.
    """
    d = factor.shape[-1]
    if d == 1:
        return 1 / factor
    half = d // 2
    top, bottom = inverse_tril(factor[:, :half, :half]), inverse_tril(factor[:, half:, half:])
    corner = -_matmul(_matmul(bottom, factor[:, half:, :half]), top)
    zeros = jnp.zeros((len(factor), half, d - half), factor.dtype)
    return jnp.concatenate(
        [jnp.concatenate([top, zeros], -1), jnp.concatenate([corner, bottom], -1)], 1
    )


def mixture_log_prob_rows(logits, loc, scale_diag, scale_lower, y):
    """log-likelihood of every token under its own mixture, in the rows-first layout.

    logits: [K, T], loc: [d, K, T], scale_diag: [d, K, T] positive; scale_lower: [d(d-1)/2, K, T],
    the factor's entries below the diagonal, row by row as `numpy.tril_indices(d, -1)` lists them,
    or None for diagonal covariances; y: [d, T]. Returns [T].
    """
    logits, loc, scale_diag, y = _upcast(logits, loc, scale_diag, y)
    if scale_lower is None:
        component = _diagonal_log_prob(loc, scale_diag, y)
    else:
        component = _full_log_prob(loc, scale_diag, *_upcast(scale_lower), y)
    return jax.nn.logsumexp(jax.nn.log_softmax(logits, axis=0) + component, axis=0)


def _diagonal_log_prob(loc, scale_diag, y):
    z = (y[:, None] - loc) / scale_diag
    return (-0.5 * jnp.square(z) - jnp.log(scale_diag)).sum(0) - 0.5 * loc.shape[0] * LOG_2PI


def _solve_rows(scale_diag, scale_lower, residual):
    """z = L⁻¹ r by forward substitution; returns a list of d slabs [K, T]."""
    z: list[jax.Array] = []
    for i in range(residual.shape[0]):
        acc = residual[i]
        for j in range(i):
            acc = acc - scale_lower[tril_size(i) + j] * z[j]
        z.append(acc / scale_diag[i])
    return z


def _solve_rows_transposed(scale_diag, scale_lower, z):
    """v = L⁻ᵀ z by back substitution."""
    d = len(z)
    v: list[jax.Array] = [z[0]] * d
    for i in reversed(range(d)):
        acc = z[i]
        for j in range(i + 1, d):
            acc = acc - scale_lower[tril_size(j) + i] * v[j]
        v[i] = acc / scale_diag[i]
    return v


@jax.custom_vjp
def _full_log_prob(loc, scale_diag, scale_lower, y):
    return _full_log_prob_fwd(loc, scale_diag, scale_lower, y)[0]


def _full_log_prob_fwd(loc, scale_diag, scale_lower, y):
    z = _solve_rows(scale_diag, scale_lower, y[:, None] - loc)
    log_prob = sum(-0.5 * jnp.square(row) for row in z) - jnp.log(scale_diag).sum(0)
    return log_prob - 0.5 * loc.shape[0] * LOG_2PI, (scale_diag, scale_lower, tuple(z))


def _full_log_prob_bwd(residuals, g):
    """With v = L⁻ᵀz: ∂/∂loc = v, ∂/∂y = -Σ_k v, ∂/∂L = tril(v zᵀ) - diag(1 / L_ii), all times g."""
    scale_diag, scale_lower, z = residuals
    v = _solve_rows_transposed(scale_diag, scale_lower, z)
    gv = jnp.stack([g * row for row in v])
    stacked = jnp.stack(z)
    grad_diag = gv * stacked - g / scale_diag
    grad_lower = jnp.concatenate(
        [gv[i] * stacked[:i] for i in range(1, len(z))] or [jnp.zeros_like(scale_lower)]
    )
    return gv, grad_diag, grad_lower, -gv.sum(1)


_full_log_prob.defvjp(_full_log_prob_fwd, _full_log_prob_bwd)
