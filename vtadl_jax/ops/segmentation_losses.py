"""Losses of defect logits against masks: cross-entropy of pixels and Dice, from logits.

logits: [B, H, W] float32 or wider. truth: [B, H, W] of the same type, 1 defective, 0 good.
"""

import jax
import jax.numpy as jnp


def pixel_cross_entropy(logits, truth):
    """Returns -log of the true class's probability of each pixel, [B, H, W].

    From logits: the logarithm of a rounded probability is infinite where the network is sure.
    """
    return jax.nn.softplus(logits) - truth * logits


def dice(logits, truth, smooth: float, axes: tuple[int, ...] = (1, 2)):
    """Returns (2 Σ p y + smooth) / (Σ p + Σ y + smooth) over `axes`, p the probabilities.

    axes (1, 2): of each image, [B]; (0, 1, 2): of the whole batch. Without a defect the value is
    near 0 whatever the network says, with a gradient near 0.
    """
    probability = jax.nn.sigmoid(logits)
    overlap = 2 * (probability * truth).sum(axes)
    return (overlap + smooth) / (probability.sum(axes) + truth.sum(axes) + smooth)


def pixel_cross_entropy_reference(logits, truth):
    """Computes `pixel_cross_entropy` from probabilities."""
    probability = 1 / (1 + jnp.exp(-logits))
    return -jnp.where(truth > 0, jnp.log(probability), jnp.log(1 - probability))
