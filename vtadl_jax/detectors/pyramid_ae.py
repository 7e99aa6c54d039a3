"""Pyramidal auto-encoder: several short codes of ResNet features, one decoder.

Mishra, Piciarelli and Foresti, "Image Anomaly Detection by aggregating deep pyramidal
representations", 2020, and the first author's thesis, chapter 4. The last map of a ResNet-18
without its max-pool is averaged to one vector, which convolutions of 1 × 1 reduce to C / k channels
for each scale k; an encoder each makes a code of 8 numbers, one shared network brings every code
back, and a decoder sees them beside the ResNet's map itself. The anomaly map is the error.
"""

import dataclasses

import jax

from vtadl_jax.detectors.contract import Detector, Inputs
from vtadl_jax.detectors.rgb_reconstruction import LossOptions, Network, rgb_reconstruction
from vtadl_jax.errors import UserError
from vtadl_jax.networks.named_layers import NORM_MOMENTUM, ForwardPass, Layer
from vtadl_jax.networks.pyramid import (
    check_side,
    decode,
    decoder_table,
    join,
    joined_channels,
)
from vtadl_jax.networks.resnet import BackboneOptions, Resnet
from vtadl_jax.options import LARGEST_SIZE, option

HIDDEN, WIDTH = 16, 128  # channels inside an encoder; units inside the upsampling


@dataclasses.dataclass(frozen=True)
class CodesOptions:
    """Options of the pyramid and its encoders."""

    scales: tuple[int, ...] = option(
        (1, 2, 3, 6),
        "divisors of the ResNet's channels, an encoder each",
        at_least=1,
        limit=LARGEST_SIZE,
        filled=True,
    )
    dim: int = option(8, "numbers of a code", at_least=1, limit=LARGEST_SIZE)
    norm_momentum: float = option(
        NORM_MOMENTUM,
        "share of a batch in the running statistics of the pyramid; 0.95 in the authors' module",
        above=0,
        at_most=1,
    )


@dataclasses.dataclass(frozen=True)
class PyramidOptions:
    """Options of the pyramidal auto-encoder; the defaults are the published ones."""

    backbone: BackboneOptions = BackboneOptions()
    codes: CodesOptions = CodesOptions()
    loss: LossOptions = LossOptions()
    activation: str = option(
        "tanh",
        "of the reconstruction in [0, 1]: the text has a sigmoid, the table tanh",
        choices=("tanh", "sigmoid"),
    )


def build(options: PyramidOptions, inputs: Inputs) -> Network:
    """Returns the network. Raises UserError for sizes that do not match each other."""
    side, codes = check_side(inputs.image_size), options.codes
    resnet = Resnet(options.backbone.width, options.backbone.blocks or (2, 2, 2, 2))
    channels, map_side = resnet.features(4), resnet.sides(side, side)[0]
    if max(codes.scales) > channels:
        raise UserError(
            f"model.codes.scales {codes.scales}: the ResNet has {channels} channels: use divisors "
            "up to that number"
        )
    unfolded = channels * (map_side // 2) ** 2
    joined = joined_channels(
        channels * map_side**2 + len(codes.scales) * unfolded,
        f"{len(codes.scales)} model.codes.scales, model.backbone.width {options.backbone.width}",
    )

    def reconstruct(forward: ForwardPass, images):
        features = forward.keep("layer4", resnet.apply(forward, images))
        pooled = features.mean((1, 2))
        vectors = []
        for i in range(len(codes.scales)):
            level = forward.dense(f"pyramid.{i}.conv", pooled)
            level = forward.norm_relu(f"pyramid.{i}.bn", level, codes.norm_momentum)
            code = encode(forward, f"encoder.{i}", forward.keep(f"pyramid_{i}", level))
            vectors.append(unfold(forward, forward.keep(f"code_{i}", code)))
        x = forward.keep("decoder_in", join(features, vectors))
        return decode(forward, x, side, options.activation)

    table = {
        **pyramid_table(channels, codes),
        **upsample_table(codes.dim, unfolded),
        **decoder_table(side, joined),
    }
    return Network(resnet, options.backbone.trained, table, "orthogonal", reconstruct)


def pyramid_table(channels: int, codes: CodesOptions) -> dict[str, Layer]:
    """Returns the layers of the pyramid and of the encoders."""
    found = {}
    for i, scale in enumerate(codes.scales):
        width = channels // scale
        found[f"pyramid.{i}.conv"] = Layer("conv", (1, 1, channels, width), False)
        found[f"pyramid.{i}.bn"] = Layer("norm", (width,))
        found[f"encoder.{i}.0"] = Layer("conv", (3, 3, width, HIDDEN))
        found[f"encoder.{i}.1"] = Layer("norm", (HIDDEN,))
        found[f"encoder.{i}.3"] = Layer("conv", (3, 3, HIDDEN, codes.dim))
        found[f"encoder.{i}.4"] = Layer("norm", (codes.dim,))
        found[f"encoder.{i}.6"] = Layer("conv", (1, 1, codes.dim, codes.dim))
    return found


def upsample_table(dim: int, unfolded: int) -> dict[str, Layer]:
    """Returns the layers that all codes share."""
    return {
        "upsample.0": Layer("dense", (dim, WIDTH)),
        "upsample.1": Layer("norm", (WIDTH,)),
        "upsample.3": Layer("dense", (WIDTH, unfolded)),
    }


def encode(forward: ForwardPass, root: str, x):
    """Returns the code [B, dim] of a level [B, C]: three convolutions of a map of one pixel."""
    x = forward.norm_relu(f"{root}.1", forward.dense(f"{root}.0", x))
    x = forward.norm_relu(f"{root}.4", forward.dense(f"{root}.3", x))
    return forward.dense(f"{root}.6", x)


def unfold(forward: ForwardPass, code):
    """Returns the vector of a code. Each call normalizes by its own batch statistics."""
    x = forward.norm_relu("upsample.1", forward.dense("upsample.0", code))
    return jax.nn.relu(forward.dense("upsample.3", x))


def pyramid_ae(options: PyramidOptions, inputs: Inputs) -> Detector:
    """Returns the detector; `Detector` describes the arguments and results of its functions."""
    return rgb_reconstruction(build(options, inputs), options.loss, inputs)
