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
Responses = Callable[[Any, jax.Array], jax.Array]


class Source(NamedTuple):
    """Responses before they are whitened, `width` of them at each place of `grid`.

    frozen: () → weights that they need, as statistics; zeros where a file is to bring them.
    responses: (statistics, images uint8 [B, H, W, C]) → [B, h, w, width] float32.
    """

    grid: tuple[int, int]
    width: int
    frozen: Callable[[], dict[str, Any]]
    responses: Responses


class Features(NamedTuple):
    """Of a config. A grid has h × w places, a place `width` responses, `dim` whitened features.

    empty: () → statistics: 'mean', 'whitener' that are still to be fitted, and frozen weights.
    whitened: (statistics, images) → [B, h, w, dim].
    gather: (variables, images, key) → responses at random places, [B, places, width].
    fit: (statistics, responses of any leading shape) → statistics, float64.
    """

    grid: tuple[int, int]
    width: int
    dim: int
    empty: Callable[[], dict[str, Any]]
    whitened: Responses
    gather: Callable[[Any, jax.Array, jax.Array], jax.Array]
    fit: Callable[[Any, np.ndarray], dict[str, Any]]


def make_features(config: ConfigDict) -> Features:
    """Raises UserError where names, stride, scales and image do not fit together."""
    source = _source(config)
    (height, width), num_responses = source.grid, source.width
    dim = min(config.model.mdn.feature_dim, num_responses)
    sampled = min(SAMPLES_PER_IMAGE, height * width)

    def empty():
        whitening = {"mean": jnp.zeros(num_responses), "whitener": jnp.eye(num_responses, dim)}
        return whitening | source.frozen()

    def whitened(statistics, images):
        responses = source.responses(statistics, images)
        return (responses - statistics["mean"]) @ statistics["whitener"]

    def gather(variables, images, key):
        found = source.responses(variables["batch_stats"], images)
        found = found.reshape(len(images), -1, num_responses)
        places = jax.random.randint(key, (len(images), sampled, 1), 0, found.shape[1])
        return jnp.take_along_axis(found, places, axis=1)

    def fit(statistics, samples):
        mean, whitener = fitting.whitening(samples.reshape(-1, num_responses), dim)
        return {**statistics, "mean": mean, "whitener": whitener}

    return Features((height, width), num_responses, dim, empty, whitened, gather, fit)


def _source(config: ConfigDict) -> Source:
    name = config.model.features
    if name == FILTERS:
        return _filters(config)
    if name == EFFICIENTNET:
        return _efficientnet(config)
    raise UserError(f"model.features {name!r}: use {FILTERS!r} or {EFFICIENTNET!r}")


def _filters(config: ConfigDict) -> Source:
    options, grid = config.model.filters, check_stride(config)
    sigmas = tuple(options.sigmas)

    def responses(statistics, images):
        del statistics
        grey = to_grey(images)
        grey = normalise(grey) if options.normalise else grey
        return filter_bank(grey, options.stride, sigmas)

    return Source(grid, NUM_FILTERS * len(sigmas), dict, responses)


def _efficientnet(config: ConfigDict) -> Source:
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
    return Source(grid, efficientnet_lite.NUM_FEATURES, frozen, responses)


def no_recon(images):
    """The reconstruction of a method that makes none."""
    return jnp.zeros((len(images), 0, 0, images.shape[-1]), jnp.uint8)
