"""What the fitted detectors model: whitened features of an image on a grid. No densities."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vtadl_jax.errors import UserError
from vtadl_jax.models import efficientnet_lite, fitting
from vtadl_jax.models.grey import check_stride, normalise, to_grey
from vtadl_jax.ops.filters import NUM_FILTERS, filter_bank

SAMPLES_PER_IMAGE = 256
FILTERS, EFFICIENTNET = "filters", "efficientnet_lite0"


class Features(NamedTuple):
    """Responses of a config, `width` of them at each place of `grid`, before they are whitened.

    frozen: () → weights that they need, as statistics; zeros where a file is to bring them.
    responses: (statistics, images uint8 [B, H, W, C]) → [B, h, w, width] float32.
    """

    grid: tuple[int, int]
    width: int
    frozen: Callable[[], dict[str, Any]]
    responses: Callable[[Any, jax.Array], jax.Array]


def make_features(config: ConfigDict) -> Features:
    """Raises UserError where names, stride, scales and image do not fit together."""
    name = config.model.features
    if name == FILTERS:
        return _filters(config)
    if name == EFFICIENTNET:
        return _efficientnet(config)
    raise UserError(f"model.features {name!r}: use {FILTERS!r} or {EFFICIENTNET!r}")


def whitened_dim(config: ConfigDict, features: Features) -> int:
    """How many whitened features are asked for, at most as many as there are responses."""
    return min(config.model.mdn.feature_dim, features.width)


def empty_whitening(width: int, dim: int) -> dict[str, Any]:
    """Of `fit_whitening`, still to be fitted."""
    return {"mean": jnp.zeros(width), "whitener": jnp.eye(width, dim)}


def fit_whitening(samples: np.ndarray, dim: int) -> dict[str, Any]:
    """samples: [..., width] → 'mean' [width] and 'whitener' [width, dim], float64."""
    mean, whitener = fitting.whitening(samples.reshape(-1, samples.shape[-1]), dim)
    return {"mean": mean, "whitener": whitener}


def whiten(whitening, responses):
    """[..., width] → [..., dim]."""
    return (responses - whitening["mean"]) @ whitening["whitener"]


def sample_places(responses, key):
    """responses: [B, h, w, D] → at random places of each image, [B, places, D]."""
    batch, height, width, dim = responses.shape
    sampled = min(SAMPLES_PER_IMAGE, height * width)
    places = jax.random.randint(key, (batch, sampled, 1), 0, height * width)
    return jnp.take_along_axis(responses.reshape(batch, -1, dim), places, axis=1)


def _filters(config: ConfigDict) -> Features:
    options, grid = config.model.filters, check_stride(config)
    sigmas = tuple(options.sigmas)

    def responses(statistics, images):
        del statistics
        grey = to_grey(images)
        grey = normalise(grey) if options.normalise else grey
        return filter_bank(grey, options.stride, sigmas)

    return Features(grid, NUM_FILTERS * len(sigmas), dict, responses)


def _efficientnet(config: ConfigDict) -> Features:
    size, stride = tuple(config.image_size), efficientnet_lite.GRID_STRIDE
    if any(side % efficientnet_lite.SIDE_MULTIPLE for side in size):
        raise UserError(
            f"image_size {size}: model.features {EFFICIENTNET!r} needs multiples of "
            f"{efficientnet_lite.SIDE_MULTIPLE}"
        )

    def frozen():
        return {EFFICIENTNET: efficientnet_lite.empty_weights()}

    def responses(statistics, images):
        return efficientnet_lite.image_features(statistics[EFFICIENTNET], images)

    grid = (size[0] // stride, size[1] // stride)
    return Features(grid, efficientnet_lite.NUM_FEATURES, frozen, responses)


def no_recon(images):
    """The reconstruction of a method that makes none."""
    return jnp.zeros((len(images), 0, 0, images.shape[-1]), jnp.uint8)
