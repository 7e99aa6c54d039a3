"""PIADE: a pyramid of ResNet features routed to vectors, of which one is decoded.

Mishra, Piciarelli and Foresti, "A Neural Network for Image Anomaly Detection with Deep Pyramidal
Representations and Dynamic Routing", 2020, and the first author's thesis, chapter 5. The public
program of the authors is another network than the thesis: `model.version` has both, and nothing in
between. The anomaly map is the reconstruction error.
"""

import dataclasses

import jax
import jax.numpy as jnp

from vtadl_jax.detectors.contract import Detector, Inputs
from vtadl_jax.detectors.rgb_reconstruction import LossOptions, Network, rgb_reconstruction
from vtadl_jax.errors import UserError
from vtadl_jax.networks.named_layers import NORM_MOMENTUM, ForwardPass, Layer
from vtadl_jax.networks.pyramid import (
    adaptive_average_pool,
    channel_first,
    check_side,
    decode,
    decoder_table,
    join,
    joined_channels,
)
from vtadl_jax.networks.resnet import BackboneOptions, Resnet
from vtadl_jax.ops.routing import lengths, route
from vtadl_jax.options import LARGEST_SIZE, option

CAPSULE_DIM = 8
HIDDEN = (128, 512)  # units of the upsampling


@dataclasses.dataclass(frozen=True)
class RoutingOptions:
    """Options of the vectors that the capsules are routed to."""

    vectors: int = option(
        2, "instantiation vectors; with 1 there is nothing to route", choices=(1, 2)
    )
    dim: int = option(64, "length of a vector", at_least=1, limit=LARGEST_SIZE)
    iterations: int = option(3, "of the routing", at_least=1, limit=1000)
    stop_gradient: bool = option(
        False,
        "take the coefficients as constants in the backward pass, as the authors' program: beside "
        "weight decay, a vector that is never decoded then goes to zero",
    )
    offset: float = option(1.0, "a of the squash |s|² / (a + |s|²)", above=0)


@dataclasses.dataclass(frozen=True)
class PiadeLossOptions(LossOptions):
    """Weights of the loss terms."""

    ssim_weight: float = option(1.0, "on -SSIM", at_least=0)


@dataclasses.dataclass(frozen=True)
class PiadeOptions:
    """Options of PIADE; the defaults are those of the thesis."""

    version: str = option(
        "thesis",
        "'thesis': ResNet-18 without max-pool, levels of 8², 4², 2² and 1², the first vector is "
        "decoded in training; 'official': ResNet-50, levels of one pixel, the longest vector",
        choices=("thesis", "official"),
    )
    backbone: BackboneOptions = BackboneOptions()
    norm_momentum: float = option(
        NORM_MOMENTUM,
        "share of a batch in the running statistics of the pyramid; 0.95 in the authors' program",
        above=0,
        at_most=1,
    )
    squeeze: bool = option(True, "squeeze-and-excitation after the stem and each stage")
    routing: RoutingOptions = RoutingOptions()
    loss: PiadeLossOptions = PiadeLossOptions()


@dataclasses.dataclass(frozen=True)
class Version:
    """What the two versions differ in. levels: (side that the map is averaged to, divisor of the
    ResNet's channels; 0: the stem's channels), a level each."""

    blocks: tuple[int, ...]
    bottleneck: bool
    max_pool: bool
    ratio: int
    levels: tuple[tuple[int, int], ...]
    trains_first: bool
    scheme: str


VERSIONS = {
    "thesis": Version(
        (2, 2, 2, 2), False, False, 4, ((8, 0), (4, 0), (2, 0), (1, 0)),
        True, "orthogonal",
    ),
    "official": Version(
        (3, 4, 6, 3), True, True, 16, ((1, 1), (1, 2), (1, 4), (1, 8)),
        False, "uniform",
    ),
}  # fmt: skip


def build(options: PiadeOptions, inputs: Inputs) -> Network:
    """Returns the network. Raises UserError for sizes that do not match each other."""
    side, version, backbone = (
        check_side(inputs.image_size),
        VERSIONS[options.version],
        options.backbone,
    )
    resnet = Resnet(
        backbone.width,
        backbone.blocks or version.blocks,
        version.bottleneck,
        version.max_pool,
        version.ratio if options.squeeze else 0,
    )
    channels, map_side = resnet.features(4), resnet.sides(side, side)[0]
    widths = [channels // divisor if divisor else backbone.width for _, divisor in version.levels]
    numbers = sum(width * s**2 for width, (s, _) in zip(widths, version.levels, strict=True))
    if numbers % CAPSULE_DIM:
        raise UserError(
            f"model.backbone.width {backbone.width}: the pyramid has {numbers} values, which "
            f"capsules of {CAPSULE_DIM} do not divide: use a multiple of {CAPSULE_DIM}"
        )
    unfolded = CAPSULE_DIM * backbone.width * map_side**2  # 512·mf² at a width of 64
    joined = joined_channels(
        channels * map_side**2 + unfolded, f"model.backbone.width {backbone.width}"
    )

    def reconstruct(forward: ForwardPass, images):
        features = resnet.apply(forward, images)
        levels = []
        for i, (size, _) in enumerate(version.levels):
            level = forward.conv(f"pyramid.{i}.conv", adaptive_average_pool(features, size))
            level = forward.norm_relu(f"pyramid.{i}.bn", level, options.norm_momentum)
            levels.append(channel_first(forward.keep(f"pyramid_{i}", level)))
        capsules = jnp.concatenate(levels, -1).reshape(features.shape[0], -1, CAPSULE_DIM)
        vector = choose(forward, capsules, options.routing, version.trains_first)
        x = join(features, [forward.keep("upsample", unfold(forward, vector))])
        return decode(forward, x, side, "tanh")

    table = {
        **resnet.squeeze_table(),
        **pyramid_table(channels, widths),
        **vector_table(numbers // CAPSULE_DIM, options.routing, unfolded),
        **decoder_table(side, joined),
    }
    return Network(resnet, backbone.trained, table, version.scheme, reconstruct)


def pyramid_table(channels: int, widths: list[int]) -> dict[str, Layer]:
    """Returns the layers of the pyramid's levels."""
    found = {}
    for i, width in enumerate(widths):
        found[f"pyramid.{i}.conv"] = Layer("conv", (1, 1, channels, width), False)
        found[f"pyramid.{i}.bn"] = Layer("norm", (width,))
    return found


def vector_table(capsules: int, routing: RoutingOptions, unfolded: int) -> dict[str, Layer]:
    """Returns the matrices of the capsules and the layers of the upsampling."""
    return {
        "caps": Layer("votes", (routing.vectors, capsules, CAPSULE_DIM, routing.dim)),
        "upsample.0": Layer("dense", (routing.dim, HIDDEN[0])),
        "upsample.1": Layer("norm", (HIDDEN[0],)),
        "upsample.3": Layer("dense", HIDDEN),
        "upsample.4": Layer("norm", (HIDDEN[1],)),
        "upsample.6": Layer("dense", (HIDDEN[1], unfolded)),
    }


def choose(forward: ForwardPass, capsules, routing: RoutingOptions, trains_first: bool):
    """Routes capsules [B, I, 8] to vectors and returns the one to decode, [B, dim].

    The longest; in training the first, if `trains_first`.
    """
    vectors, coefficients = route(
        forward.keep("caps", capsules),
        forward.layer("caps")["kernel"],
        routing.iterations,
        routing.stop_gradient,
        routing.offset,
    )
    forward.keep("c", coefficients)
    longest = jnp.argmax(lengths(forward.keep("vectors", vectors)), -1)
    index = jnp.zeros_like(longest) if forward.train and trains_first else longest
    forward.keep("index", index)
    return jnp.take_along_axis(vectors, index[:, None, None], 1)[:, 0]


def unfold(forward: ForwardPass, vector):
    """Returns what the decoder sees of a vector [B, dim] beside the ResNet's map."""
    x = forward.norm_relu("upsample.1", forward.dense("upsample.0", vector))
    x = forward.norm_relu("upsample.4", forward.dense("upsample.3", x))
    return jax.nn.relu(forward.dense("upsample.6", x))


def piade(options: PiadeOptions, inputs: Inputs) -> Detector:
    """Returns the detector; `Detector` describes the arguments and results of its functions."""
    network = build(options, inputs)
    return rgb_reconstruction(network, options.loss, inputs, options.loss.ssim_weight)
