"""Normalizations of pixels that the segmentation networks were published with, by name."""

import jax.numpy as jnp
import numpy as np

from vtadl_jax.networks.frozen_vit import PIXELS as ENCODER_PIXELS
from vtadl_jax.networks.segmentation.layers import CHANNELS

_MEAN, _DEVIATION = (np.array(values) for values in ENCODER_PIXELS["imagenet"])
# Name → whether channels are read as BGR, mean and deviation of pixels in [0, 1] in that order.
PIXELS = {
    "imagenet": (False, _MEAN, _DEVIATION),
    "unit": (False, np.zeros(CHANNELS), np.ones(CHANNELS)),  # Pytorch-UNet-2
    "fcn": (True, np.array((103.939, 116.779, 123.68)) / 255, np.ones(CHANNELS)),  # FCN-pytorch
    # pytorch-nested-unet: ImageNet's numbers of RGB on BGR, and then divided by 255 once more.
    "nested_unet": (True, _MEAN, _DEVIATION * 255),
}


def normalize_pixels(images, name: str):
    """Returns normalized pixels [B, H, W, 3] float32. images: uint8 [B, H, W, 1 or 3]; a grey
    image has three equal channels."""
    reverse, mean, deviation = PIXELS[name]
    pixels = images.astype(jnp.float32) / 255
    pixels = jnp.broadcast_to(pixels, (*images.shape[:-1], CHANNELS))
    pixels = pixels[..., ::-1] if reverse else pixels
    return (pixels - mean.astype(np.float32)) / deviation.astype(np.float32)
