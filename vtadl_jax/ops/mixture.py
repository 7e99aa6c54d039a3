"""Log-density of Gaussian mixtures with full covariances, by triangular factors (paper eq. 4-6).

The public functions of the mixture; each has a slow twin in `mixture_reference.py`.

- `mixture_log_prob`: the textbook's layout, `loc [..., K, d]`, `scale_tril [..., K, d, d]`
  (`mixture_tokens.py` on the CPU).
- `mixture_log_prob_rows`: parameters that differ per token, coordinates first and tokens last
  (`mixture_rows.py`; as a TPU kernel in `mixture_pallas.py`). Use it for networks' outputs.
- `shared_mixture_log_prob`: one mixture for all tokens (`mixture_shared.py`).

All arithmetic is float32 (float64 for float64 inputs), whatever the compute dtype. Factors must
have a positive diagonal (see `positive_diagonal`). Whitened residuals are clipped to 1e15 sigma, so
values and gradients are finite for finite inputs; some logits, not all, may be -inf.
"""

import functools
import math
from typing import Literal, get_args

import jax.numpy as jnp
import numpy as np

from vtadl_jax.errors import UserError
from vtadl_jax.ops.mixture_factors import (
    FactorOf,
    check_shapes,
    factor_diagonal,
    inverse_tril,
    pack_tril,
    positive_diagonal,
    tril_size,
    unpack_tril,
    upcast,
)
from vtadl_jax.ops.mixture_reference import component_log_prob_reference, mixture_log_prob_reference
from vtadl_jax.ops.mixture_rows import log_prob_rows
from vtadl_jax.ops.mixture_shared import shared_mixture_log_prob
from vtadl_jax.ops.mixture_tokens import log_prob_tokens
from vtadl_jax.ops.platform import by_platform

__all__ = [
    "FactorOf",
    "Implementation",
    "component_log_prob_reference",
    "inverse_tril",
    "mixture_log_prob",
    "mixture_log_prob_reference",
    "mixture_log_prob_rows",
    "pack_tril",
    "positive_diagonal",
    "shared_mixture_log_prob",
    "tril_size",
    "unpack_tril",
]

Implementation = Literal["xla", "pallas"]


def mixture_log_prob(logits, loc, scale_tril, y, *, factor_of: FactorOf = "covariance"):
    """Returns the log-likelihood of `y` [..., d] under full-covariance mixtures: [...], float32.

    logits: [..., K], loc: [..., K, d]; scale_tril: [..., K, d, d] (entries above the diagonal are
    not read) or packed [..., K, d(d+1)/2], row by row as by `pack_tril`. factor_of: the matrix that
    they factor: 'covariance', Σ = L Lᵀ, or 'precision', Σ⁻¹ = P Pᵀ, which needs no solve.
    Parameters without leading axes are one mixture shared by all tokens.

    Raises:
      UserError: shapes that do not fit, or an unknown `factor_of`.
    """
    if logits.ndim == 1 and loc.ndim == 2 and y.ndim > 1:
        return shared_mixture_log_prob(logits, loc, scale_tril, y, factor_of=factor_of)
    check_shapes(logits, loc, scale_tril, y, factor_of)
    logits, loc, scale_tril, y = upcast(logits, loc, scale_tril, y)
    batch = jnp.broadcast_shapes(y.shape[:-1], logits.shape[:-1], loc.shape[:-2])

    def flat(x, value_axes):  # [..., *values] -> [T, *values]
        tail = x.shape[x.ndim - value_axes :]
        return jnp.broadcast_to(x, (*batch, *tail)).reshape(math.prod(batch), *tail)

    factor_axes = scale_tril.ndim - loc.ndim + 2
    log_prob = by_platform(
        flat(logits, 1),
        flat(loc, 2),
        flat(scale_tril, factor_axes),
        flat(y, 1),
        cpu=functools.partial(log_prob_tokens, factor_of=factor_of),
        default=functools.partial(_coordinates_first, factor_of=factor_of),
    )
    return log_prob.reshape(batch)


def _coordinates_first(logits, loc, scale_tril, y, *, factor_of: FactorOf):
    """Calls `mixture_log_prob_rows`; arguments as of `mixture_tokens.log_prob_tokens`."""
    d = y.shape[-1]
    rows, cols = np.tril_indices(d, -1)
    packed = scale_tril.ndim == loc.ndim
    lower = (
        scale_tril[..., rows * (rows + 1) // 2 + cols] if packed else scale_tril[..., rows, cols]
    )
    diagonal = factor_diagonal(scale_tril, d)
    loc, diagonal, lower = (x.transpose(2, 1, 0) for x in (loc, diagonal, lower))
    return mixture_log_prob_rows(logits.T, loc, diagonal, lower, y.T, factor_of=factor_of)


def mixture_log_prob_rows(
    logits,
    loc,
    scale_diag,
    scale_lower,
    y,
    *,
    factor_of: FactorOf = "covariance",
    implementation: Implementation = "xla",
):
    """Returns the log-likelihood [T] of each token under its own mixture, rows-first layout.

    logits: [K, T], loc: [d, K, T], scale_diag: [d, K, T] positive; scale_lower: [d(d-1)/2, K, T],
    the factor's entries below the diagonal, row by row as `numpy.tril_indices(d, -1)` lists them,
    or None for diagonal covariances; y: [d, T].

    implementation: 'pallas' uses two kernels for full covariances in TPU programs and equals 'xla'
    in others. On v5e, for value and gradient at K 150, d 16, 512 tokens, the compiler estimates
    0.96 M cycles and 578 MB accessed for 'xla', and 370 MB with the kernels, whose cycles it does
    not estimate. They are not the default because XLA cannot partition them over a mesh, and they
    have not run on a TPU yet.

    Raises:
      UserError: an unknown `factor_of` or `implementation`, or a size too large for the kernel.
    """
    for name, value, known in (
        ("factor_of", factor_of, get_args(FactorOf)),
        ("implementation", implementation, get_args(Implementation)),
    ):
        if value not in known:
            raise UserError(f"{name} {value!r}: use one of {', '.join(known)}")
    logits, loc, scale_diag, y = upcast(logits, loc, scale_diag, y)
    if scale_lower is None:
        return log_prob_rows(logits, loc, scale_diag, None, y, factor_of)
    (scale_lower,) = upcast(scale_lower)
    args = (logits, loc, scale_diag, scale_lower, y)
    if implementation == "pallas" and len(loc) > 1:
        from vtadl_jax.ops.mixture_pallas import kernel_log_prob_rows

        return kernel_log_prob_rows(*args, factor_of)
    return log_prob_rows(*args, factor_of)
