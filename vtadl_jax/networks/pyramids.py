"""Feature maps of several levels and one vector of an image, from frozen networks by name.

For methods that search each level by itself; `features.py` is for those that model one grid. Every
name of `model.features` has a pyramid: three levels of a ResNet or an EfficientNet, the chosen
layers of a ConTNet, one level of filters and of Vision Transformers.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from vtadl_jax.networks import contnet, contnet_layout, contnet_load, efficientnet, frozen_resnet
from vtadl_jax.networks.feature_options import FeatureOptions
from vtadl_jax.networks.features import CONTNET, Features, Images, make_features


class Pyramid(NamedTuple):
    """levels: (rows, columns, channels) of each map, finest first. width: of the vector.

    frozen: () → frozen weights, zeros until `load` replaces them; {} if there are none. outputs:
    (frozen weights, images uint8 [B, H, W, C]) → (vector [B, width], maps [B, h, w, channels]),
    float32. load: arrays by name → the frozen weights; None if there are none.
    """

    levels: tuple[tuple[int, int, int], ...]
    width: int
    frozen: Callable[[], dict[str, Any]]
    outputs: Callable[[Any, jax.Array], tuple[jax.Array, list[jax.Array]]]
    load: Callable[[Mapping[str, np.ndarray]], Any] | None = None


def make_pyramid(
    options: FeatureOptions, image_size: tuple[int, int], channels: int, dtype: str = "float32"
) -> Pyramid:
    """Returns the pyramid that the options name. Raises UserError as `make_features`."""
    images = Images(image_size, channels, dtype)
    features = make_features(options, 1, image_size, channels, dtype)  # checks the options
    name = options.features
    if name in frozen_resnet.RESNETS:
        return _resnet(name, images)
    if name in efficientnet.LITES:
        return _efficientnet(name, images)
    if name == CONTNET:
        return _contnet(options, images)
    return _one_level(features)


def _level(images: Images, stride: int, channels: int) -> tuple[int, int, int]:
    return images.size[0] // stride, images.size[1] // stride, channels


def _resnet(name: str, images: Images) -> Pyramid:
    """The outputs of the first three stages; the vector is the mean of the fourth's."""
    resnet = frozen_resnet.RESNETS[name].whole()

    def outputs(weights, pixels):
        *maps, last = frozen_resnet.stages(weights, pixels, resnet, images.dtype)
        return last.mean((1, 2)), maps

    return Pyramid(
        tuple(_level(images, 4 * 2**i, width) for i, width in enumerate(resnet.widths[:3])),
        resnet.widths[3],
        functools.partial(frozen_resnet.empty_weights, resnet),
        outputs,
        functools.partial(frozen_resnet.load, name=name, whole=True),
    )


def _efficientnet(name: str, images: Images) -> Pyramid:
    """The outputs of strides 4, 8 and 16; the vector is the mean of the coarsest."""
    blocks = efficientnet.blocks_of(name)
    widths = [blocks[i].width for i in efficientnet.taps_of(name)]

    def outputs(weights, pixels):
        maps = efficientnet.image_levels(weights, pixels, name)
        return maps[-1].mean((1, 2)), maps

    return Pyramid(
        tuple(_level(images, 4 * 2**i, width) for i, width in enumerate(widths)),
        widths[-1],
        functools.partial(efficientnet.empty_weights, name),
        outputs,
        functools.partial(efficientnet.load, name=name),
    )


def _contnet(options: FeatureOptions, images: Images) -> Pyramid:
    """The layers that `model.contnet.layers` names; the vector is the mean of the fourth stage."""
    net = contnet_layout.net_of(options.contnet)
    taps = contnet_layout.taps_of(net, (*options.contnet.layers,))
    (last,) = contnet_layout.taps_of(net, ("layer4",))

    def outputs(weights, pixels):
        standardized = contnet.standardized(pixels)
        *maps, top = contnet.tapped(weights, standardized, net, (*taps, last), images.dtype)
        return top.mean((1, 2)), maps

    return Pyramid(
        tuple(_level(images, tap.stride, tap.width) for tap in taps),
        last.width,
        functools.partial(contnet_layout.empty_weights, net),
        outputs,
        functools.partial(contnet_load.load, net=net),
    )


def _one_level(features: Features) -> Pyramid:
    """The extractor's responses; the vector is their mean over the grid."""

    def outputs(weights, pixels):
        responses = features.responses(weights, pixels)
        return responses.mean((1, 2)), [responses]

    level = (*features.grid, features.width)
    return Pyramid((level,), features.width, features.frozen, outputs, features.load)
