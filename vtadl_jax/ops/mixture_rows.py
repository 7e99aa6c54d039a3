"""Mixtures whose parameters differ per token, in the rows-first layout.

Every coordinate of every factor is a slab [K, T], tokens last: substitution goes through the rows
with long contiguous vectors, no matrix is unpacked and no small solver is called. A network that
outputs its parameters in this layout needs no transposition. The TPU kernel (`mixture_pallas.py`)
runs the same unrolled recurrences on its tiles.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from vtadl_jax.ops.mixture_factors import LOG_2PI, FactorOf, clip, tril_size
from vtadl_jax.ops.outline import outlined
from vtadl_jax.ops.platform import by_platform

Entry = Callable[[int, int], jax.Array]  # (i, j), i > j → the slab below the diagonal


def entry_of(scale_lower) -> Entry:
    """Returns access to the slabs [d(d-1)/2, ...], ordered as `numpy.tril_indices(d, -1)`."""
    return lambda i, j: scale_lower[tril_size(i) + j]


def whiten(residual: Sequence, diag: Sequence, lower: Entry, factor_of: FactorOf, keep=lambda x: x):
    """Returns z = L⁻¹ r, or z = Pᵀ r, as a list of d slabs; applies `keep` to each finished row."""
    d = len(diag)
    z: list[jax.Array] = []
    for i in range(d):
        if factor_of == "covariance":
            acc = residual[i]
            for j in range(i):
                acc = acc - lower(i, j) * z[j]
            acc = acc / diag[i]
        else:
            acc = diag[i] * residual[i]
            for j in range(i + 1, d):
                acc = acc + lower(j, i) * residual[j]
        z.append(keep(clip(acc)))
    return z


def unwhiten(z: Sequence, diag: Sequence, lower: Entry, factor_of: FactorOf, keep=lambda x: x):
    """Returns v = L⁻ᵀ z, or v = P z: the gradient of |z|² / 2 with respect to the residual."""
    d = len(diag)
    v: list[jax.Array] = [z[0]] * d
    for i in reversed(range(d)):
        if factor_of == "covariance":
            acc = z[i]
            for j in range(i + 1, d):
                acc = acc - lower(j, i) * v[j]
            acc = acc / diag[i]
        else:
            acc = diag[i] * z[i]
            for j in range(i):
                acc = acc + lower(i, j) * z[j]
        v[i] = keep(clip(acc))
    return v


def log_density(z: Sequence, diag: Sequence, factor_of: FactorOf):
    """Returns -|z|²/2 ∓ Σ log diag - d/2 log 2π.

    Adds row by row: XLA's CPU back end reduces a leading axis slowly.
    """
    sign = -1 if factor_of == "covariance" else 1
    terms = [sign * jnp.log(s) - 0.5 * jnp.square(x) for x, s in zip(z, diag, strict=True)]
    return functools.reduce(jnp.add, terms) - 0.5 * len(z) * LOG_2PI


def log_prob_rows(logits, loc, scale_diag, scale_lower, y, factor_of: FactorOf):
    """Returns the mixture's log-likelihood [T]; arguments as of `mixture.mixture_log_prob_rows`."""
    if scale_lower is None:
        component = diagonal_log_prob(loc, scale_diag, y, factor_of)
    else:
        component = full_log_prob(loc, scale_diag, scale_lower, y, factor_of)
    return jax.nn.logsumexp(jax.nn.log_softmax(logits, axis=0) + component, axis=0)


def diagonal_log_prob(loc, scale_diag, y, factor_of: FactorOf):
    """Returns log N with diagonal covariances: loc, scale_diag [d, K, T], y [d, T] → [K, T]."""
    residual = y[:, None] - loc
    z = clip(residual / scale_diag if factor_of == "covariance" else residual * scale_diag)
    return log_density(list(z), list(scale_diag), factor_of)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def full_log_prob(loc, scale_diag, scale_lower, y, factor_of: FactorOf):
    """Returns log N with full factors; as `diagonal_log_prob`, and scale_lower [d(d-1)/2, K, T]."""
    # Without a boundary XLA's CPU compiler fuses all rows into one loop and recomputes each row for
    # every later one: at d = 64 it does not finish. A call has to leave them in memory.
    whole = functools.partial(_density, factor_of=factor_of)
    return by_platform(loc, scale_diag, scale_lower, y, cpu=outlined(whole), default=whole)[0]


# The barriers end a fusion after each row. Without them the TPU's compiler recomputes rows in the
# fusions of all later rows (4.5 times the estimated cycles of value and gradient).
_keep = jax.lax.optimization_barrier


def _density(loc, scale_diag, scale_lower, y, factor_of):
    """Returns log N [K, T] and the whitened rows."""
    diag = list(scale_diag)
    z = whiten(y[:, None] - loc, diag, entry_of(scale_lower), factor_of, _keep)
    return log_density(z, diag, factor_of), tuple(z)


def _fwd(loc, scale_diag, scale_lower, y, factor_of):
    density, z = _density(loc, scale_diag, scale_lower, y, factor_of)
    return density, (loc, scale_diag, scale_lower, y, z)


def _bwd(factor_of, residuals, g):
    """Returns the gradients: ∂/∂loc = v, ∂/∂y = -Σ_k v; ∂/∂L = tril(v zᵀ) - diag(1 / L_ii);
    ∂/∂P = diag(1 / P_ii) - tril(r zᵀ), all times g."""
    loc, scale_diag, scale_lower, y, z = residuals
    v = unwhiten(z, list(scale_diag), entry_of(scale_lower), factor_of, _keep)
    gv, stacked = jnp.stack([_keep(g * row) for row in v]), jnp.stack(z)
    if factor_of == "covariance":
        left, sign = gv, 1
    else:
        left, sign = g * (loc - y[:, None]), -1
    grad_diag = left * stacked - sign * g / scale_diag
    grad_lower = by_platform(left, stacked, cpu=outlined(_outer_gather), default=_outer_rows)
    return gv, grad_diag, grad_lower, -gv.sum(1)


full_log_prob.defvjp(_fwd, _bwd)


def _outer_gather(left, z):
    """Returns left_i z_j below the diagonal, [d(d-1)/2, K, T], in one loop over the slabs.

    On a CPU, concatenating rows would cost two more passes over the largest array.
    """
    rows, cols = np.tril_indices(len(z), -1)
    return left[rows] * z[cols]


def _outer_rows(left, z):
    """Returns the same, row by row: on accelerators gathers are slow and concatenations free."""
    rows = [left[i] * z[:i] for i in range(1, len(z))]
    return jnp.concatenate(rows) if rows else jnp.zeros((0, *z.shape[1:]), z.dtype)
