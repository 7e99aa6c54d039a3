"""Mixtures in the textbook's layout, tokens first: [T, K, d, d]. The implementation for CPUs.

A factor is 4 d² contiguous bytes, so a loop over tokens and components that computes a block of
rows at once reads it from the first-level cache; a transposition to coordinates first
(`mixture_rows.py`) would cost four times the arithmetic. Long recurrences are split into blocks of
rows: if the compiler fused them all, it would recompute early rows for each later one.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from vtadl_jax.ops.mixture_factors import FactorOf, clip, factor_diagonal, tril_size
from vtadl_jax.ops.mixture_rows import log_density
from vtadl_jax.ops.outline import outlined

BLOCK = 8  # rows


def log_prob_tokens(logits, loc, factor, y, factor_of: FactorOf):
    """Returns the mixture's log-likelihood [T]; see `mixture.mixture_log_prob`.

    logits: [T, K], loc: [T, K, d], factor: [T, K, d, d] or packed [T, K, d(d+1)/2], y: [T, d].
    """
    component = full_log_prob(loc, factor, y, factor_of)
    return jax.nn.logsumexp(jax.nn.log_softmax(logits) + component, axis=-1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def full_log_prob(loc, factor, y, factor_of: FactorOf):
    """Returns log N of every component, [T, K]."""
    return _fwd(loc, factor, y, factor_of)[0]


def _fwd(loc, factor, y, factor_of):
    whiten = _solve if factor_of == "covariance" else _times_transposed
    z = whiten(factor, y[:, None] - loc)

    @outlined
    def density(z, diagonal):
        return log_density(
            list(jnp.moveaxis(z, -1, 0)), list(jnp.moveaxis(diagonal, -1, 0)), factor_of
        )

    return density(z, factor_diagonal(factor, loc.shape[-1])), (loc, factor, y, z)


def _bwd(factor_of, residuals, g):
    """As in `mixture_rows`: v, -Σ_k v, and a triangular outer product."""
    loc, factor, y, z = residuals
    g = g[..., None]
    unwhiten = _solve_transposed if factor_of == "covariance" else _times
    gv = g * unwhiten(factor, z)
    if factor_of == "covariance":
        left, sign = gv, 1
    else:
        left, sign = g * (loc - y[:, None]), -1
    of_diagonal = left * z - sign * g / factor_diagonal(factor, z.shape[-1])
    grad_factor = _triangle(left, z, of_diagonal, packed=factor.ndim == loc.ndim)
    return gv, grad_factor, -gv.sum(1)


full_log_prob.defvjp(_fwd, _bwd)


def _row(factor, i: int, length: int):
    """Returns the first entries of row i: [T, K, length]."""
    if factor.ndim == 4:
        return factor[..., i, :length]
    return factor[..., tril_size(i + 1) : tril_size(i + 1) + length]


def _triangle(left, z, diagonal, packed: bool):
    """Returns left_i z_j below the diagonal and `diagonal` on it; zeros above unless packed."""
    d = z.shape[-1]
    if packed:
        rows, cols = np.tril_indices(d)
        return jnp.where(rows == cols, diagonal[..., rows], left[..., rows] * z[..., cols])
    i, j = np.indices((d, d))
    below = jnp.where(i > j, left[..., :, None] * z[..., None, :], 0)
    return jnp.where(i == j, diagonal[..., None], below)


def _blocks(d: int) -> list[range]:
    return [range(start, min(start + BLOCK, d)) for start in range(0, d, BLOCK)]


def _solve(factor, r):
    """Returns z = L⁻¹ r, block by block of rows. r: [T, K, d]."""
    done: list[jax.Array] = []
    for rows in _blocks(r.shape[-1]):

        @outlined
        def solve(factor, r, *done, rows=rows):
            z = [block[..., i] for block in done for i in range(BLOCK)]
            for i in rows:
                entries = _row(factor, i, i + 1)
                acc = r[..., i]
                for j in range(i):
                    acc = acc - entries[..., j] * z[j]
                z.append(clip(acc / entries[..., i]))
            return jnp.stack(z[rows.start :], -1)

        done.append(solve(factor, r, *done))
    return jnp.concatenate(done, -1)


def _solve_transposed(factor, z):
    """Returns v = L⁻ᵀ z: solves from the last block of rows, subtracting each from the rest."""
    done: list[jax.Array] = []
    for rows in reversed(_blocks(z.shape[-1])):

        @outlined
        def solve(factor, z, rows=rows):
            v: dict[int, jax.Array] = {}
            for i in reversed(rows):
                acc = z[..., i]
                for j in range(i + 1, rows.stop):
                    acc = acc - _row(factor, j, i + 1)[..., i] * v[j]
                v[i] = clip(acc / _row(factor, i, i + 1)[..., i])
            return jnp.stack([v[i] for i in rows], -1)

        @outlined
        def take_out(factor, z, v, rows=rows):
            left = z[..., : rows.start]
            for n, i in enumerate(rows):
                left = left - _row(factor, i, rows.start) * v[..., n : n + 1]
            return left

        done.insert(0, solve(factor, z))
        if rows.start:
            z = take_out(factor, z, done[0])
    return jnp.concatenate(done, -1)


def _times(factor, z):
    """Returns v = P z."""
    return _products(factor, z, lambda i: [(i, j) for j in range(i + 1)], operand=1)


def _times_transposed(factor, r):
    """Returns z = Pᵀ r."""
    return _products(factor, r, lambda j: [(i, j) for i in range(j, r.shape[-1])], operand=0)


def _products(factor, x, entries, operand: int):
    """Returns, per coordinate, the sum over entries (i, j) of factor_ij · x_i or x_j (operand)."""
    done = []
    for block in _blocks(x.shape[-1]):

        @outlined
        def multiply(factor, x, block=block):
            return jnp.stack(
                [
                    clip(
                        sum(
                            _row(factor, i, i + 1)[..., j] * x[..., (i, j)[operand]]
                            for i, j in entries(n)
                        )
                    )
                    for n in block
                ],
                -1,
            )

        done.append(multiply(factor, x))
    return jnp.concatenate(done, -1)
