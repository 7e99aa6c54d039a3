"""What the fitted detectors model: whitened features of an image on a grid. No densities."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from scipy.linalg import block_diag

from vtadl_jax.errors import UserError
from vtadl_jax.models import efficientnet_lite, fitting
from vtadl_jax.models.grey import check_stride, normalise, opponents, to_grey
from vtadl_jax.ops.filters import NUM_FILTERS, filter_bank

SAMPLES_PER_IMAGE = 256
COLOR_SIGMAS = (2,)  # pixels; windows average over more
NUM_COLORS = 4  # red to green and yellow to blue, the mean and the local deviation of each
# Added to the spread of each: a set without colours has none, and what no eye sees is no defect.
COLOR_FLOOR = 0.05
FILTERS, EFFICIENTNET = "filters", "efficientnet_lite0"


class Features(NamedTuple):
    """Responses of a config, `width` of them at each place of `grid`, and `dim` features of them.

    frozen: () → weights that they need, as statistics; zeros where a file is to bring them.
    responses: (statistics, images uint8 [B, H, W, C]) → [B, h, w, width] float32.
    fit: (responses [..., width]) → 'mean' [width] and 'whitener' [width, dim], float64.
    """

    grid: tuple[int, int]
    width: int
    dim: int
    frozen: Callable[[], dict[str, Any]]
    responses: Callable[[Any, jax.Array], jax.Array]
    fit: Callable[[np.ndarray], dict[str, Any]]


def make_features(config: ConfigDict) -> Features:
    """Raises UserError where names, stride, scales and image do not fit together."""
    name = config.model.features
    if name == FILTERS:
        return _filters(config)
    if name == EFFICIENTNET:
        return _efficientnet(config)
    raise UserError(f"model.features {name!r}: use {FILTERS!r} or {EFFICIENTNET!r}")


def empty_whitening(features: Features) -> dict[str, Any]:
    """Of `Features.fit`, still to be fitted."""
    return {"mean": jnp.zeros(features.width), "whitener": jnp.eye(features.width, features.dim)}


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
    sigmas, colored = tuple(options.sigmas), options.color and config.data.channels == 3
    num_filters = NUM_FILTERS * len(sigmas)
    dim = min(config.model.mdn.feature_dim, num_filters)

    def responses(statistics, images):
        del statistics
        grey = to_grey(images)
        grey = normalise(grey) if options.normalise else grey
        found = [filter_bank(grey, options.stride, sigmas)]
        if colored:
            banks = (filter_bank(x, options.stride, COLOR_SIGMAS) for x in opponents(images))
            found += [bank[..., [0, NUM_FILTERS - 1]] for bank in banks]
        return jnp.concatenate(found, -1)

    def fit(samples):
        samples = samples.reshape(-1, samples.shape[-1])
        mean, whitener = fitting.whitening(samples[:, :num_filters], dim)
        if colored:
            scales = 1 / (samples[:, num_filters:].std(0, dtype=np.float64) + COLOR_FLOOR)
            mean = np.concatenate([mean, samples[:, num_filters:].mean(0, dtype=np.float64)])
            whitener = block_diag(whitener, np.diag(scales))
        return {"mean": mean, "whitener": whitener}

    extra = NUM_COLORS if colored else 0
    return Features(grid, num_filters + extra, dim + extra, dict, responses, fit)


def _efficientnet(config: ConfigDict) -> Features:
    size, stride = tuple(config.image_size), efficientnet_lite.GRID_STRIDE
    if any(side % efficientnet_lite.SIDE_MULTIPLE for side in size):
        raise UserError(
            f"image_size {size}: model.features {EFFICIENTNET!r} needs multiples of "
            f"{efficientnet_lite.SIDE_MULTIPLE}"
        )
    width = efficientnet_lite.NUM_FEATURES
    dim = min(config.model.mdn.feature_dim, width)

    def frozen():
        return {EFFICIENTNET: efficientnet_lite.empty_weights()}

    def responses(statistics, images):
        return efficientnet_lite.image_features(statistics[EFFICIENTNET], images)

    def fit(samples):
        mean, whitener = fitting.whitening(samples.reshape(-1, width), dim)
        return {"mean": mean, "whitener": whitener}

    grid = (size[0] // stride, size[1] // stride)
    return Features(grid, width, dim, frozen, responses, fit)


def no_recon(images):
    """The reconstruction of a method that makes none."""
    return jnp.zeros((len(images), 0, 0, images.shape[-1]), jnp.uint8)
