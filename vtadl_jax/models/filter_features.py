"""Whitened filter responses: the features that the fitted detectors model. No densities."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vtadl_jax.errors import UserError
from vtadl_jax.models import fitting
from vtadl_jax.ops.filters import NUM_FILTERS, filter_bank

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as PIL's mode L
SAMPLES_PER_IMAGE = 256


class Features(NamedTuple):
    """Of a config. A grid has h × w places, a place `width` responses, `dim` whitened features.

    empty: () → statistics {'mean', 'whitener'} that are still to be fitted.
    responses: images uint8 [B, H, W, C] → [B, h, w, width].
    whitened: (statistics, images) → [B, h, w, dim].
    gather: (images, key) → responses at random places, [B, places, width].
    fit: responses of any leading shape → statistics, float64.
    """

    grid: tuple[int, int]
    width: int
    dim: int
    empty: Callable[[], dict[str, jax.Array]]
    responses: Callable[[jax.Array], jax.Array]
    whitened: Callable[[Any, jax.Array], jax.Array]
    gather: Callable[[jax.Array, jax.Array], jax.Array]
    fit: Callable[[np.ndarray], dict[str, np.ndarray]]


def to_grey(images):
    """uint8 [B, H, W, C] → float32 [B, H, W] in [0, 1]."""
    images = images.astype(jnp.float32) / 255
    return images[..., 0] if images.shape[-1] == 1 else images @ jnp.array(LUMA)


def normalise(grey):
    """The logarithm, less its mean over the image, in units of its spread: [B, H, W] → same.

    Light that is stronger by a factor changes nothing but what noise does near black, which the
    offset in the logarithm and in the spread keep small.
    """
    logs = jnp.log(grey + 0.05)
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


def filter_features(config: ConfigDict) -> Features:
    """Raises UserError where stride, scales and image do not fit together."""
    options = config.model.filters
    stride, sigmas = options.stride, tuple(options.sigmas)
    height, width = check_stride(config)
    num_responses = NUM_FILTERS * len(sigmas)
    dim = min(config.model.mdn.feature_dim, num_responses)
    sampled = min(SAMPLES_PER_IMAGE, height * width)

    def empty():
        return {"mean": jnp.zeros(num_responses), "whitener": jnp.eye(num_responses, dim)}

    def responses(images):
        grey = to_grey(images)
        return filter_bank(normalise(grey) if options.normalise else grey, stride, sigmas)

    def whitened(statistics, images):
        return (responses(images) - statistics["mean"]) @ statistics["whitener"]

    def gather(images, key):
        found = responses(images).reshape(len(images), -1, num_responses)
        places = jax.random.randint(key, (len(images), sampled, 1), 0, found.shape[1])
        return jnp.take_along_axis(found, places, axis=1)

    def fit(samples):
        mean, whitener = fitting.whitening(samples.reshape(-1, num_responses), dim)
        return {"mean": mean, "whitener": whitener}

    return Features((height, width), num_responses, dim, empty, responses, whitened, gather, fit)


def no_recon(images):
    """The reconstruction of a method that makes none."""
    return jnp.zeros((len(images), 0, 0, images.shape[-1]), jnp.uint8)
