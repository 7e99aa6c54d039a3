"""Grey values and colours of images, for the fitted detectors."""

import jax.numpy as jnp

OFFSET = 0.05  # added to values in [0, 1] before the logarithm
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as PIL's mode L


def to_grey(images):
    """Converts uint8 [B, H, W, C] to grey values, float32 [B, H, W] in [0, 1]."""
    images = images.astype(jnp.float32) / 255
    return images[..., 0] if images.shape[-1] == 1 else images @ jnp.array(LUMA)


def opponents(images):
    """Returns the opponent colours red-green and yellow-blue of uint8 [B, H, W, 3], [B, H, W] each.

    They are log ratios, 0 for grey, and invariant to the light's intensity except near black.
    """
    logs = jnp.log(images.astype(jnp.float32) / 255 + OFFSET)
    red, green, blue = jnp.moveaxis(logs, -1, 0)
    return red - green, (red + green) / 2 - blue


def normalise(grey):
    """Standardizes the logarithm of each image: [B, H, W] → same.

    Invariant to a factor of the light's intensity, except near black, where the offsets in the
    logarithm and in the deviation bound the noise.
    """
    logs = jnp.log(grey + OFFSET)
    logs = logs - logs.mean((1, 2), keepdims=True)
    return logs / (logs.std((1, 2), keepdims=True) + 0.05)
