"""Grey values and colours of images, as the fitted detectors want them."""

import jax.numpy as jnp
from ml_collections import ConfigDict

from vtadl_jax.errors import UserError

OFFSET = 0.05  # in logarithms, of grey values in [0, 1]
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as PIL's mode L


def to_grey(images):
    """uint8 [B, H, W, C] → float32 [B, H, W] in [0, 1]."""
    images = images.astype(jnp.float32) / 255
    return images[..., 0] if images.shape[-1] == 1 else images @ jnp.array(LUMA)


def opponents(images):
    """uint8 [B, H, W, 3] → red to green and yellow to blue, [B, H, W] each: ratios as logarithms,
    0 for grey. Light of another strength changes nothing but what noise does near black."""
    logs = jnp.log(images.astype(jnp.float32) / 255 + OFFSET)
    red, green, blue = jnp.moveaxis(logs, -1, 0)
    return red - green, (red + green) / 2 - blue


def normalise(grey):
    """The logarithm, less its mean over the image, in units of its spread: [B, H, W] → same.

    Light that is stronger by a factor changes nothing but what noise does near black, which the
    offset in the logarithm and in the spread keep small.
    """
    logs = jnp.log(grey + OFFSET)
    logs = logs - logs.mean((1, 2), keepdims=True)
    return logs / (logs.std((1, 2), keepdims=True) + 0.05)


def check_stride(config: ConfigDict) -> tuple[int, int]:
    """(rows, columns) of the grid. Raises UserError where the stride does not divide the image."""
    stride = config.model.filters.stride
    for side in config.image_size:
        if stride < 1 or side % stride:
            raise UserError(
                f"image_size {tuple(config.image_size)}: {side} is not divisible by "
                f"model.filters.stride {stride}: use a divisor, as 4 or 8"
            )
    height, width = config.image_size
    return height // stride, width // stride
