"""The mixture's log-density from its definition: slow, simple, the reference of all tests.

One coordinate at a time, in the textbook's layout; gradients are by autodiff.
"""

import jax
import jax.numpy as jnp

from vtadl_jax.ops.mixture_factors import LOG_2PI, FactorOf, upcast


def component_log_prob_reference(loc, scale_tril, y, factor_of: FactorOf = "covariance"):
    """Returns log N(y | loc_k, Σ_k).

    For Σ = L Lᵀ by substitution, z = L⁻¹ r; for Σ⁻¹ = P Pᵀ by z = Pᵀ r.

    loc: [..., K, d], scale_tril (L or P): [..., K, d, d], y: [..., d]. Returns [..., K].
    """
    loc, scale_tril, y = upcast(loc, scale_tril, y)
    d = y.shape[-1]
    residual = y[..., None, :] - loc
    z = jnp.zeros((*residual.shape[:-1], 0), residual.dtype)
    for i in range(d):
        if factor_of == "covariance":
            known = (scale_tril[..., i, :i] * z).sum(-1)
            entry = (residual[..., i] - known) / scale_tril[..., i, i]
        else:
            entry = (scale_tril[..., i:, i] * residual[..., i:]).sum(-1)
        z = jnp.concatenate([z, entry[..., None]], -1)
    square = jnp.square(z).sum(-1)
    log_det = jnp.log(jnp.diagonal(scale_tril, axis1=-2, axis2=-1)).sum(-1)
    sign = 1 if factor_of == "covariance" else -1
    return -0.5 * square - sign * log_det - 0.5 * d * LOG_2PI


def mixture_log_prob_reference(logits, loc, scale_tril, y, factor_of: FactorOf = "covariance"):
    """Returns log Σ_k softmax(logits)_k N(y | loc_k, Σ_k), paper eq. 4.

    logits: [..., K], the rest as `component_log_prob_reference`. Returns [...].
    """
    log_weights = jax.nn.log_softmax(upcast(logits)[0])
    component = component_log_prob_reference(loc, scale_tril, y, factor_of)
    return jax.nn.logsumexp(log_weights + component, axis=-1)
