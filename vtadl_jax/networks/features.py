"""Feature extractors on a grid, by name: fixed filters and frozen networks. No densities.

A frozen network has its own file in this folder, with its forward pass and the loading of its
weights; an entry in `EXTRACTORS` makes it available to every detector that models features.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vtadl_jax.errors import UserError
from vtadl_jax.networks import efficientnet, fitting
from vtadl_jax.ops.color import normalise, opponents, to_grey
from vtadl_jax.ops.filters import NUM_FILTERS, filter_bank
from vtadl_jax.options import LARGEST_SIZE, fields_of, nearest, option

SAMPLES_PER_IMAGE = 256
COLOR_SIGMAS = (2,)  # pixels; windows average over larger areas
NUM_COLORS = 4  # red-green and yellow-blue, the mean and the local deviation of each
# Added to the deviation of each: it is 0 on a dataset without colours, and invisible differences
# must not become defects.
COLOR_FLOOR = 0.05
FILTERS = "filters"


@dataclasses.dataclass(frozen=True)
class FilterOptions:
    """Options of the fixed filter bank, read if `features` is 'filters'."""

    stride: int = option(8, "between grid positions", unit="px", at_least=1, limit=LARGEST_SIZE)
    sigmas: tuple[int, ...] = option(
        (1, 2, 4, 8),
        "of the Gaussians; powers of two",
        unit="px",
        at_least=1,
        limit=LARGEST_SIZE,
        filled=True,
    )
    normalise: bool = option(False, "standardize the logarithm of each image before filtering")
    color: bool = option(False, "for RGB images, add local colour and its deviation")


@dataclasses.dataclass(frozen=True)
class FeatureOptions:
    """Options of the features that a detector models; base class of detectors' options."""

    features: str = option(
        FILTERS, "'filters', or a frozen network with weights from init_from: 'efficientnet_lite0'"
    )
    filters: FilterOptions = FilterOptions()


class Features(NamedTuple):
    """A feature extractor: `width` responses per position of `grid`, whitened to `dim` features.

    frozen: () → its frozen weights, zeros until `load` replaces them; {} if it has none.
    responses: (frozen weights, images uint8 [B, H, W, C]) → [B, h, w, width] float32.
    fit: (responses [..., width]) → 'mean' [width] and 'whitener' [width, dim], float64.
    load: arrays by name → the frozen weights; None if it has none.
    """

    grid: tuple[int, int]
    width: int
    dim: int
    frozen: Callable[[], dict[str, Any]]
    responses: Callable[[Any, jax.Array], jax.Array]
    fit: Callable[[np.ndarray], dict[str, Any]]
    load: Callable[[Mapping[str, np.ndarray]], Any] | None = None


def make_features(
    options: FeatureOptions, dim: int, image_size: tuple[int, int], channels: int
) -> Features:
    """Returns the extractor that the options name; dim: largest number of whitened features.

    Raises UserError for an unknown name, for a stride or scales that do not fit the image, and for
    filter options that the extractor does not read.
    """
    name = options.features
    if name not in EXTRACTORS:
        known = ", ".join(map(repr, EXTRACTORS))
        raise UserError(f"model.features {name!r}{nearest(name, EXTRACTORS)}: use one of {known}")
    if name != FILTERS:
        defaults = {field: value for field, value, _ in fields_of(FilterOptions())}
        for field, value, _ in fields_of(options.filters):
            if value != defaults[field]:
                raise UserError(
                    f"model.filters.{field} {value!r}: not read with model.features {name!r}: "
                    f"leave it at {defaults[field]!r}"
                )
    return EXTRACTORS[name](options, dim, image_size, channels)


def load_frozen(features: Features) -> Callable[[Any, Mapping[str, np.ndarray]], Any] | None:
    """Returns `Detector.load_pretrained` for a detector with no other frozen weights, or None."""
    load = features.load
    if load is None:
        return None
    return lambda variables, arrays: {**variables, "frozen": load(arrays)}


def grid_of(stride: int, image_size: tuple[int, int]) -> tuple[int, int]:
    """Returns (rows, columns). Raises UserError if the stride does not divide the image's sides."""
    for side in image_size:
        if side % stride:
            raise UserError(
                f"image_size {image_size}: {side} is not divisible by "
                f"model.filters.stride {stride}: use a divisor, as 4 or 8"
            )
    return image_size[0] // stride, image_size[1] // stride


def empty_whitening(features: Features) -> dict[str, Any]:
    """Returns zeros in the shapes of the result of `Features.fit`."""
    return {"mean": jnp.zeros(features.width), "whitener": jnp.eye(features.width, features.dim)}


def whiten(whitening, responses):
    """Whitens responses [..., width] to features [..., dim]."""
    return (responses - whitening["mean"]) @ whitening["whitener"]


def sample_places(responses, key):
    """Samples responses [B, h, w, D] at random positions of each image: [B, positions, D]."""
    batch, height, width, dim = responses.shape
    sampled = min(SAMPLES_PER_IMAGE, height * width)
    places = jax.random.randint(key, (batch, sampled, 1), 0, height * width)
    return jnp.take_along_axis(responses.reshape(batch, -1, dim), places, axis=1)


def _filters(
    options: FeatureOptions, dim: int, image_size: tuple[int, int], channels: int
) -> Features:
    filters, grid = options.filters, grid_of(options.filters.stride, image_size)
    sigmas, colored = filters.sigmas, filters.color and channels == 3
    if not sigmas:
        raise UserError(f"model.filters.sigmas {sigmas}: give one or more, as 1,2,4,8")
    num_filters = NUM_FILTERS * len(sigmas)
    dim = min(dim, num_filters)

    def responses(frozen, images):
        del frozen
        grey = to_grey(images)
        grey = normalise(grey) if filters.normalise else grey
        found = [filter_bank(grey, filters.stride, sigmas)]
        if colored:
            banks = (filter_bank(x, filters.stride, COLOR_SIGMAS) for x in opponents(images))
            found += [bank[..., [0, NUM_FILTERS - 1]] for bank in banks]
        return jnp.concatenate(found, -1)

    def fit(samples):
        samples = samples.reshape(-1, samples.shape[-1])
        mean, whitener = fitting.whitening(samples[:, :num_filters], dim)
        if colored:
            scales = 1 / (samples[:, num_filters:].std(0, dtype=np.float64) + COLOR_FLOOR)
            mean = np.concatenate([mean, samples[:, num_filters:].mean(0, dtype=np.float64)])
            whitener = np.block(
                [
                    [whitener, np.zeros((num_filters, NUM_COLORS))],
                    [np.zeros((NUM_COLORS, dim)), np.diag(scales)],
                ]
            )
        return {"mean": mean, "whitener": whitener}

    extra = NUM_COLORS if colored else 0
    return Features(grid, num_filters + extra, dim + extra, dict, responses, fit)


def _efficientnet(
    options: FeatureOptions, dim: int, image_size: tuple[int, int], channels: int
) -> Features:
    del channels
    if any(side % efficientnet.SIDE_MULTIPLE for side in image_size):
        raise UserError(
            f"image_size {image_size}: model.features {options.features!r} needs multiples of "
            f"{efficientnet.SIDE_MULTIPLE}"
        )
    width, stride = efficientnet.NUM_FEATURES, efficientnet.GRID_STRIDE
    dim = min(dim, width)

    def fit(samples):
        mean, whitener = fitting.whitening(samples.reshape(-1, width), dim)
        return {"mean": mean, "whitener": whitener}

    return Features(
        (image_size[0] // stride, image_size[1] // stride),
        width,
        dim,
        efficientnet.empty_weights,
        efficientnet.image_features,
        fit,
        efficientnet.load,
    )


EXTRACTORS: dict[str, Callable[[FeatureOptions, int, tuple[int, int], int], Features]] = {
    FILTERS: _filters,
    "efficientnet_lite0": _efficientnet,
}
