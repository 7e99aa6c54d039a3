"""Attention without softmax, whose cost is linear in the number of tokens.

Katharopoulos et al., 2020: out = φ(q) (φ(k)ᵀ v) / (φ(q) · Σ φ(k)) with φ(x) = elu(x) + 1. It cannot
concentrate on single tokens, so it passes on less of a local anomaly than softmax attention does.
"""

import jax
import jax.numpy as jnp


def linear_attention(q, k, v):
    """Returns the linear attention of every head; sums in float32.

    q, k, v: [B, N, heads, d]. Returns [B, N, heads, d] of the type of v.
    """
    dtype = v.dtype
    q, k, v = (x.astype(jnp.float32) for x in (jax.nn.elu(q) + 1, jax.nn.elu(k) + 1, v))
    summary = jnp.einsum("bnhd,bnhe->bhde", k, v)
    weight = jnp.einsum("bnhd,bhd->bnh", q, k.sum(1))
    found = jnp.einsum("bnhd,bhde->bnhe", q, summary)
    return (found / (weight[..., None] + 1e-6)).astype(dtype)


def linear_attention_reference(q, k, v):
    """Computes `linear_attention` from its definition, with all weights between two tokens."""
    q, k = jax.nn.elu(q) + 1, jax.nn.elu(k) + 1
    weights = jnp.einsum("bqhd,bkhd->bhqk", q, k)
    return jnp.einsum("bhqk,bkhd->bqhd", weights / weights.sum(-1, keepdims=True), v)
