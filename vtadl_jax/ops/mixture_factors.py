"""Triangular factors of covariances and precisions: packing, positive diagonals, inverses.

No densities here. Nothing calls a triangular solver: XLA's CPU back end runs a batched one as
LAPACK calls that wait for the threads they occupy; with few cores, two at once deadlock.
"""

import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from vtadl_jax.errors import UserError

# What a triangular factor is of: covariance Σ = L Lᵀ, or precision Σ⁻¹ = P Pᵀ.
FactorOf = Literal["covariance", "precision"]
LOG_2PI = math.log(2 * math.pi)
# Whitened residuals are clipped to this many sigma: their squares, and the gradients' products of
# two of them, stay finite in float32. Not a number stays not a number.
WHITENED_LIMIT = 1e15


def tril_size(d: int) -> int:
    """Returns the number of entries strictly below the diagonal of a d × d matrix."""
    return d * (d - 1) // 2


def upcast(*arrays):
    """Casts the arrays to one dtype: float32, or float64 if one is float64."""
    dtype = jnp.promote_types(jnp.float32, jnp.result_type(*arrays))
    return tuple(jnp.asarray(a, dtype) for a in arrays)


def clip(x):
    """Clips x to ± WHITENED_LIMIT."""
    return jnp.clip(x, -WHITENED_LIMIT, WHITENED_LIMIT)


def positive_diagonal(raw, floor: float):
    """Returns softplus(raw) + floor, elementwise: a diagonal that cannot become singular.

    With covariance factors, a density in d dimensions is then at most (2π)^(-d/2) / floor^d.
    """
    return jax.nn.softplus(raw) + floor


def pack_tril(matrix):
    """Packs lower triangles of [..., d, d], with diagonal, row by row: [..., d(d+1)/2]."""
    rows, cols = np.tril_indices(matrix.shape[-1])
    return matrix[..., rows, cols]


def unpack_tril(packed, d: int):
    """Inverts `pack_tril`: [..., d(d+1)/2] → [..., d, d], zeros above the diagonal."""
    i, j = np.indices((d, d))
    above = jnp.zeros((*packed.shape[:-1], 1), packed.dtype)
    where = np.where(j <= i, i * (i + 1) // 2 + j, packed.shape[-1])
    return jnp.concatenate([packed, above], -1)[..., where]


def factor_diagonal(factor, d: int):
    """Returns diagonals [T, K, d] of factors [T, K, d, d] or packed [T, K, d(d+1)/2]."""
    if factor.ndim == 4:
        return jnp.diagonal(factor, axis1=-2, axis2=-1)
    return factor[..., [tril_size(i + 2) - 1 for i in range(d)]]


def check_shapes(logits, loc, scale_tril, y, factor_of: str) -> bool:
    """Checks the shapes of a mixture; returns whether the factors are packed.

    Factors are packed if they have as many axes as `loc`, matrices if they have one more. Raises
    UserError for shapes that do not match, or an unknown `factor_of`.
    """
    if factor_of not in get_args(FactorOf):
        raise UserError(f"factor_of {factor_of!r}: use one of {', '.join(get_args(FactorOf))}")
    d, k = y.shape[-1], logits.shape[-1]
    if loc.shape[-2:] != (k, d):
        raise UserError(
            f"loc {list(loc.shape)} must end in [{k}, {d}]: K as in logits {list(logits.shape)}, "
            f"d as in y {list(y.shape)}"
        )
    packed = scale_tril.ndim == loc.ndim
    tail = (k, tril_size(d + 1)) if packed else (k, d, d)
    if scale_tril.ndim - loc.ndim not in (0, 1) or scale_tril.shape[-len(tail) :] != tail:
        raise UserError(
            f"scale_tril {list(scale_tril.shape)} beside loc {list(loc.shape)}: give it the same "
            f"leading axes and end it in [{k}, {d}, {d}], or packed in [{k}, {tril_size(d + 1)}]"
        )
    return packed


def matmul(a, b):
    """Multiplies in full float32: accelerators otherwise round the operands to bfloat16."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def inverse_tril(factor):
    """Inverts lower triangular matrices [K, d, d]; entries above the diagonal are not read.

    Diagonal blocks of at most 8 rows by substitution, then pairs of blocks by products until one is
    left: [[A, 0], [C, B]]⁻¹ = [[A⁻¹, 0], [-B⁻¹ C A⁻¹, B⁻¹]]. Entries are clipped to
    ± WHITENED_LIMIT, so that nearly singular factors give large numbers, not NaN.
    """
    d = factor.shape[-1]
    levels = max(0, math.ceil(math.log2(d / 8)))
    size = math.ceil(d / 2**levels)
    whole, pad = size * 2**levels, size * 2**levels - d
    if pad:
        ones = jnp.diag(jnp.asarray(np.arange(whole) >= d, factor.dtype))
        factor = jnp.pad(factor, ((0, 0), (0, pad), (0, pad))) + ones

    def blocks(size, step, offset):
        """Returns the blocks at (i·step + offset, i·step), i = 0 … n - 1: [K·n, size, size]."""
        starts = range(0, whole, step)
        cut = [factor[:, s + offset : s + offset + size, s : s + size] for s in starts]
        return jnp.stack(cut, 1).reshape(-1, size, size)

    inverse = _inverse_by_rows(blocks(size, size, 0))
    while size < whole:
        top, bottom = (inverse.reshape(-1, 2, size, size)[:, half] for half in (0, 1))
        corner = -clip(matmul(matmul(bottom, blocks(size, 2 * size, size)), top))
        upper = jnp.concatenate([top, jnp.zeros_like(top)], 2)
        inverse = jnp.concatenate([upper, jnp.concatenate([corner, bottom], 2)], 1)
        size *= 2
    return inverse[:, :d, :d]


def _inverse_by_rows(blocks):
    """Inverts [N, b, b] for small b: row i is (e_i - Σ_j<i L_ij row_j) / L_ii, N at a time."""
    rows = jnp.moveaxis(blocks, 0, -1)
    identity = jnp.eye(len(rows), dtype=rows.dtype)[..., None]
    inverse: list[jax.Array] = []
    for i, row in enumerate(identity):
        acc = jnp.broadcast_to(row, rows[0].shape)
        for j in range(i):
            acc = acc - rows[i, j] * inverse[j]
        inverse.append(clip(acc / rows[i, i]))
    return jnp.moveaxis(jnp.stack(inverse), -1, 0)
