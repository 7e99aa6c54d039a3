"""Feature extractors on a grid, by name: fixed filters and frozen networks. No densities.

A frozen network has its own file in this folder, with its forward pass and the loading of its
weights; an entry in `EXTRACTORS` makes it available to every detector that models features.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vtadl_jax.errors import UserError
from vtadl_jax.networks import (
    contnet,
    contnet_layout,
    contnet_load,
    efficientnet,
    fitting,
    frozen_resnet,
    frozen_vit,
    frozen_vit_load,
)
from vtadl_jax.networks.feature_options import (
    FILTERS,
    ContnetOptions,
    EncoderOptions,
    FeatureOptions,
    FilterOptions,
    ResnetOptions,
)
from vtadl_jax.networks.frozen_vit_table import VITS
from vtadl_jax.ops.color import normalise, opponents, to_grey
from vtadl_jax.ops.filters import NUM_FILTERS, filter_bank
from vtadl_jax.ops.inspected import places_inside
from vtadl_jax.options import fields_of, nearest

SAMPLES_PER_IMAGE = 256
COLOR_SIGMAS = (2,)  # pixels; windows average over larger areas
CONTNET = "contnet_b"
NUM_COLORS = 4  # red-green and yellow-blue, the mean and the local deviation of each
# Added to the deviation of each: it is 0 on a dataset without colours, and invisible differences
# must not become defects.
COLOR_FLOOR = 0.05


class Images(NamedTuple):
    """What an extractor is built for: sides (H, W), channels 1 or 3, dtype of matrix products."""

    size: tuple[int, int]
    channels: int
    dtype: str


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
    options: FeatureOptions,
    dim: int,
    image_size: tuple[int, int],
    channels: int,
    dtype: str = "float32",
) -> Features:
    """Returns the extractor that the options name; dim: largest number of whitened features.

    dtype: of the matrix products of Vision Transformers. Raises UserError for an unknown name, for
    image sides, a stride, scales or blocks that do not fit, and for options that the extractor does
    not read.
    """
    name = options.features
    if name not in EXTRACTORS:
        known = ", ".join(map(repr, EXTRACTORS))
        raise UserError(f"model.features {name!r}{nearest(name, EXTRACTORS)}: use one of {known}")
    if name != FILTERS:
        check_unread("filters", options.filters, FilterOptions(), name)
    if name not in VITS:
        check_unread("encoder", options.encoder, EncoderOptions(), name)
    if name != CONTNET:
        check_unread("contnet", options.contnet, ContnetOptions(), name)
    if name not in frozen_resnet.RESNETS:
        check_unread("resnet", options.resnet, ResnetOptions(), name)
    return EXTRACTORS[name](options, dim, Images(image_size, channels, dtype))


def check_unread(
    group: str, options: Any, default: Any, name: str, read: tuple[str, ...] = ()
) -> None:
    """Raises UserError if options of a group that an extractor does not read are changed.

    read: names of those that it does.
    """
    defaults = {field: value for field, value, _ in fields_of(default)}
    for field, value, _ in fields_of(options):
        if value != defaults[field] and field not in read:
            raise UserError(
                f"model.{group}.{field} {value!r}: not read with model.features {name!r}: "
                f"leave it at {defaults[field]!r}"
            )


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
                f"image_size {image_size}: {side} is not divisible by model.filters.stride "
                f"{stride}: use {max(round(side / stride), 1) * stride}, or another stride"
            )
    return image_size[0] // stride, image_size[1] // stride


def empty_whitening(features: Features) -> dict[str, Any]:
    """Returns zeros in the shapes of the result of `Features.fit`."""
    return {"mean": jnp.zeros(features.width), "whitener": jnp.eye(features.width, features.dim)}


def whiten(whitening, responses):
    """Whitens responses [..., width] to features [..., dim]."""
    return (responses - whitening["mean"]) @ whitening["whitener"]


def sample_places(responses, key, count: int = SAMPLES_PER_IMAGE):
    """Samples responses [B, h, w, D] at random positions of each image: [B, positions, D].

    count: of positions, at most as many as there are; one may be drawn twice.
    """
    batch, height, width, dim = responses.shape
    sampled = min(count, height * width)
    places = places_inside(key, batch, sampled, height, width)[..., None]
    return jnp.take_along_axis(responses.reshape(batch, -1, dim), places, axis=1)


def _filters(options: FeatureOptions, dim: int, images: Images) -> Features:
    filters, grid = options.filters, grid_of(options.filters.stride, images.size)
    sigmas, colored = filters.sigmas, filters.color and images.channels == 3
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


def _grid(name: str, image_size: tuple[int, int], multiple: int, stride: int) -> tuple[int, int]:
    """Returns (rows, columns). Raises UserError, with the nearest size, for other multiples."""
    if any(side % multiple for side in image_size):
        near = tuple(max(round(side / multiple), 1) * multiple for side in image_size)
        raise UserError(
            f"image_size {image_size}: model.features {name!r} needs multiples of {multiple}: "
            f"use {near}"
        )
    return image_size[0] // stride, image_size[1] // stride


def _whitened(width: int, dim: int) -> Callable[[np.ndarray], dict[str, Any]]:
    def fit(samples):
        mean, whitener = fitting.whitening(samples.reshape(-1, width), dim)
        return {"mean": mean, "whitener": whitener}

    return fit


def _efficientnet(options: FeatureOptions, dim: int, images: Images) -> Features:
    name, stride = options.features, efficientnet.GRID_STRIDE
    width = efficientnet.num_features(name)
    dim = min(dim, width)
    return Features(
        _grid(name, images.size, efficientnet.SIDE_MULTIPLE, stride),
        width,
        dim,
        functools.partial(efficientnet.empty_weights, name),
        functools.partial(efficientnet.image_features, name=name),
        _whitened(width, dim),
        functools.partial(efficientnet.load, name=name),
    )


def _resnet(options: FeatureOptions, dim: int, images: Images) -> Features:
    name, chosen = options.features, options.resnet
    if sorted(set(chosen.stages)) != list(chosen.stages):
        raise UserError(f"model.resnet.stages {chosen.stages}: give growing numbers, as (1, 2, 3)")
    resnet = frozen_resnet.RESNETS[name]
    reading = frozen_resnet.Reading(chosen.stages, chosen.pool, chosen.resize)
    width = reading.width(resnet)
    dim = min(dim, width)
    return Features(
        _grid(name, images.size, frozen_resnet.SIDE_MULTIPLE, reading.stride),
        width,
        dim,
        functools.partial(frozen_resnet.empty_weights, resnet),
        functools.partial(
            frozen_resnet.image_features, resnet=resnet, dtype=images.dtype, reading=reading
        ),
        _whitened(width, dim),
        functools.partial(frozen_resnet.load, name=name),
    )


def _vit(options: FeatureOptions, dim: int, images: Images) -> Features:
    name, vit, encoder = options.features, VITS[options.features], options.encoder
    grid = _grid(name, images.size, vit.patch, vit.patch)
    blocks = encoder.blocks or frozen_vit.middle_blocks(vit.depth)
    if sorted(set(blocks)) != list(blocks) or blocks[-1] >= vit.depth:
        raise UserError(
            f"model.encoder.blocks {blocks}: give one or more, growing, from 0 to "
            f"{vit.depth - 1}, the last of {name!r}"
        )
    reading = frozen_vit.Reading(blocks, encoder.norm, encoder.combine)
    width = reading.width(vit)
    dim, channels = min(dim, width), images.channels

    def responses(weights, pixels):
        return frozen_vit.image_features(weights, pixels, vit, reading, jnp.dtype(images.dtype))

    return Features(
        grid,
        width,
        dim,
        lambda: frozen_vit.empty_weights(vit, grid, channels, reading),
        responses,
        _whitened(width, dim),
        lambda arrays: frozen_vit_load.load(arrays, name, vit, grid, channels, reading),
    )


def _contnet(options: FeatureOptions, dim: int, images: Images) -> Features:
    net = contnet_layout.net_of(options.contnet)
    taps = contnet_layout.taps_of(net, options.contnet.layers)
    depth = 1 + max(tap.position for tap in taps)
    width, stride = sum(tap.width for tap in taps), min(tap.stride for tap in taps)
    dim = min(dim, width)
    return Features(
        _grid(CONTNET, images.size, contnet_layout.SIDE_MULTIPLE, stride),
        width,
        dim,
        functools.partial(contnet_layout.empty_weights, net, depth),
        functools.partial(contnet.image_features, net=net, taps=taps, dtype=images.dtype),
        _whitened(width, dim),
        functools.partial(contnet_load.load, net=net, depth=depth),
    )


EXTRACTORS: dict[str, Callable[[FeatureOptions, int, Images], Features]] = {
    FILTERS: _filters,
    **dict.fromkeys(efficientnet.LITES, _efficientnet),
    **dict.fromkeys(frozen_resnet.RESNETS, _resnet),
    **dict.fromkeys(VITS, _vit),
    CONTNET: _contnet,
}
