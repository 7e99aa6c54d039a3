"""Softmax attention whose memory grows with the number of tokens, not with its square."""

import jax
import jax.numpy as jnp

# Up to this many tokens the attention weights are kept for the gradient: for short sequences (65
# tokens at 512², patches of 64) recomputation costs more than the memory it saves.
KEPT_TOKENS = 256
BLOCK = 256  # queries


def attention(q, k, v, scale: float | None = None):
    """Returns softmax(scale · q kᵀ) v of every head; softmax in float32. scale: None for 1 / √d.

    q, k, v: [B, N, heads, d]. Returns [B, N, heads, d]. Long sequences are processed in blocks of
    queries, and the backward pass recomputes the weights [B, heads, block, N], so no array has
    size N².
    """
    tokens = q.shape[1]
    if tokens <= KEPT_TOKENS:
        return jax.nn.dot_product_attention(q, k, v, scale=scale)
    blocks = -(-tokens // BLOCK)
    size = -(-tokens // blocks)
    padded = jnp.pad(q, ((0, 0), (0, blocks * size - tokens), (0, 0), (0, 0)))
    padded = padded.reshape(q.shape[0], blocks, size, *q.shape[2:])

    @jax.checkpoint
    def of_block(queries):
        return jax.nn.dot_product_attention(queries, k, v, scale=scale)

    out = jax.lax.map(of_block, padded.swapaxes(0, 1)).swapaxes(0, 1)
    return out.reshape(q.shape[0], blocks * size, *q.shape[2:])[:, :tokens]


def attention_reference(q, k, v, scale: float | None = None):
    """Computes `attention` from its definition, all weights at once."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    weights = scale * jnp.einsum("bqhd,bkhd->bhqk", q, k)
    weights = jnp.exp(weights - weights.max(-1, keepdims=True))
    return jnp.einsum("bhqk,bkhd->bqhd", weights / weights.sum(-1, keepdims=True), v)
