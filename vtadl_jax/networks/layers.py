"""Layers of networks that are plain functions: weights first, no state."""

import jax
import jax.numpy as jnp


def dense(x, layer, dtype):
    """Returns x [..., D] @ kernel [D, d] + bias, float32. dtype: of the product's operands."""
    product = jnp.matmul(
        x.astype(dtype), layer["kernel"].astype(dtype), preferred_element_type=jnp.float32
    )
    return product + layer["bias"]


def layer_norm(x, layer, epsilon: float):
    """Normalizes the last axis to zero mean and unit variance, then scales and shifts it."""
    centred = x - x.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + epsilon) * layer["scale"] + layer["bias"]
