"""Segmentation networks of the VT-ADL authors' comparison, trained on masks or on drawn defects.

FCN32s, Unet (Tiny), UNet++, UNet 2.0 and SegNet, with the parameters of chapter 7 of the thesis
of VT-ADL's author. The loss is binary cross-entropy plus Dice of each image, from logits; the
map is the smoothed logit. `model.defects=drawn` needs good images only: defects are drawn on them.
"""

import dataclasses

import jax
import jax.numpy as jnp

from vtadl_jax.detectors.contract import Detector, Inputs, Scores
from vtadl_jax.detectors.feature_detector import largest, top_mean
from vtadl_jax.errors import UserError
from vtadl_jax.networks.initialize import initializer
from vtadl_jax.networks.parallel import SINGLE_DEVICE
from vtadl_jax.networks.segmentation import NETWORKS
from vtadl_jax.networks.segmentation.layers import Network, apply
from vtadl_jax.networks.segmentation.layers import init as init_network
from vtadl_jax.networks.segmentation.load import load
from vtadl_jax.networks.segmentation.pixels import PIXELS, normalize_pixels
from vtadl_jax.ops import drawn_defects
from vtadl_jax.ops.resize import upsample_maps
from vtadl_jax.ops.segmentation_losses import dice, pixel_cross_entropy
from vtadl_jax.options import option

SCORE_TERMS = ("max_logit", "top_logit")
TOP_FRACTION = 0.001  # of a map's values, whose mean is the second term
SMOOTH = 1e-5  # of Dice
ADAPTIVE_SMOOTH, ADAPTIVE_LIMIT = 1.0, 0.3  # NVIDIA's UNet_Industrial


@dataclasses.dataclass(frozen=True)
class SegmentationLossOptions:
    """The loss of logits against masks."""

    form: str = option(
        "sum",
        "'sum': weighted cross-entropy and 1 - Dice of each image; 'adaptive': 1 - Dice of the "
        "whole batch where it is below 0.3, else cross-entropy, as NVIDIA's UNet_Industrial",
        choices=("sum", "adaptive"),
    )
    bce_weight: float = option(0.5, "on the binary cross-entropy, for 'sum'", at_least=0)
    dice_weight: float = option(1.0, "on 1 - Dice, for 'sum'", at_least=0)


@dataclasses.dataclass(frozen=True)
class DrawnOptions:
    """Defects that are drawn on training images, for `defects` 'drawn'."""

    share: float = option(0.5, "of training images that get one", above=0, at_most=1)
    smallest: float = option(
        0.02, "half axis of a defect, as a part of the image's shorter side", above=0, at_most=1
    )
    largest: float = option(0.2, "the same of the largest", above=0, at_most=1)


@dataclasses.dataclass(frozen=True)
class SegmentationOptions:
    """Options of the segmentation detector."""

    network: str = option("unet_tiny", "the network", choices=tuple(NETWORKS))
    pixels: str = option(
        "imagenet",
        "normalization of pixels: ImageNet's mean and deviation, 'unit': to 0 to 1, or another "
        "that weights of a repository were trained with",
        choices=tuple(PIXELS),
    )
    defects: str = option(
        "masks",
        "what is learned: 'masks' of defective training images, or defects 'drawn' on all of them",
        choices=("masks", "drawn"),
    )
    loss: SegmentationLossOptions = SegmentationLossOptions()
    drawn: DrawnOptions = DrawnOptions()


def loss_terms(logits, truth, known, form: str) -> dict[str, jax.Array]:
    """Returns the means over images of cross-entropy and 1 - Dice.

    logits, truth: [B, H, W]. known: [B], 0 for defective images without a mask, which do not count.
    """
    bce = known * pixel_cross_entropy(logits, truth).mean((1, 2))
    if form == "sum":
        return {"bce": bce.mean(), "dice_loss": (known * (1 - dice(logits, truth, SMOOTH))).mean()}
    kept = jnp.where(known[:, None, None] > 0, logits, -jnp.inf)  # probability 0
    whole = dice(kept, truth * known[:, None, None], ADAPTIVE_SMOOTH, (0, 1, 2))
    return {"bce": bce.mean(), "dice_loss": 1 - whole}


def total_of(terms: dict[str, jax.Array], options: SegmentationLossOptions) -> jax.Array:
    """Returns the loss of `loss_terms`."""
    if options.form == "adaptive":
        learned = terms["dice_loss"] < ADAPTIVE_LIMIT
        return jnp.where(learned, terms["dice_loss"], terms["bce"])
    return options.bce_weight * terms["bce"] + options.dice_weight * terms["dice_loss"]


def check(options: SegmentationOptions, inputs: Inputs, network: Network) -> None:
    """Raises UserError for options that do not fit together."""
    multiple = network.multiple
    if any(side % multiple for side in inputs.image_size):
        fit = tuple(max(round(side / multiple), 1) * multiple for side in inputs.image_size)
        raise UserError(
            f"image_size {inputs.image_size}: model.network {options.network!r} needs multiples of "
            f"{multiple}: use --config.image_size={fit[0]},{fit[1]}"
        )
    if inputs.microbatches > 1:
        raise UserError(
            f"train.accumulate {inputs.microbatches}: batch norm needs the whole batch at once: "
            f"use 1 and a smaller batch_size"
        )
    if options.loss.form == "adaptive" and inputs.parallel == "pmap":
        raise UserError(
            "model.loss.form 'adaptive' is of the whole batch, which a mapped device does not "
            "see: use --config.train.parallel=jit, or 'sum'"
        )
    if options.drawn.smallest > options.drawn.largest:
        raise UserError(
            f"model.drawn.smallest {options.drawn.smallest} is above model.drawn.largest "
            f"{options.drawn.largest}: exchange them"
        )
    check_read(options)


def check_read(options: SegmentationOptions) -> None:
    """Raises UserError if options were changed that the others leave unread."""
    if options.defects == "masks" and options.drawn != DrawnOptions():
        raise UserError(
            "model.drawn is not read with model.defects 'masks': leave it, or use "
            "--config.model.defects=drawn"
        )
    plain = SegmentationLossOptions()
    weights = (options.loss.bce_weight, options.loss.dice_weight)
    if options.loss.form == "adaptive" and weights != (plain.bce_weight, plain.dice_weight):
        raise UserError(
            "model.loss.bce_weight and dice_weight are not read with model.loss.form 'adaptive': "
            "leave them at their defaults"
        )
    if options.loss.form == "sum" and not any(weights):
        raise UserError("model.loss: both weights are 0: give one that is not")


def segmentation(options: SegmentationOptions, inputs: Inputs) -> Detector:
    """Returns the detector; `Detector` describes the arguments and results of its functions."""
    network, dtype = NETWORKS[options.network](), jnp.dtype(inputs.dtype)
    check(options, inputs, network)

    def init(key):
        params, stats = initializer(lambda key: init_network(network, key))(key)
        return {"params": params, "stats": stats, "frozen": {}}

    def labelled(batch, keys):
        """Returns images, masks, and which of these are known."""
        images = batch["image"]
        if options.defects == "masks":
            return images, batch["mask"], batch["has_mask"]
        drawn = options.drawn
        defects = drawn_defects.sample(
            keys, images.shape[-1], drawn.share, drawn.smallest, drawn.largest
        )
        return *drawn_defects.draw(images, defects), jnp.ones(len(images))

    def loss(variables, batch, keys, parallel=SINGLE_DEVICE):
        params = parallel.gather_params(variables["params"])
        images, masks, known = labelled(batch, keys)
        logits, stats = apply(
            network,
            params,
            variables["stats"],
            normalize_pixels(images, options.pixels),
            train=True,
            axis=parallel.axis,
            dtype=dtype,
        )
        truth, known = masks.astype(logits.dtype), known.astype(logits.dtype)
        terms = loss_terms(logits, truth, known, options.loss.form)
        return total_of(terms, options.loss), (terms, stats)

    def score(variables, images):
        pixels = normalize_pixels(images, options.pixels)
        logits, _ = apply(network, variables["params"], variables["stats"], pixels, dtype=dtype)
        maps = upsample_maps(logits, inputs.image_size, inputs.map_sigma)
        return Scores(jnp.stack([largest(maps), top_mean(maps, TOP_FRACTION)], -1), maps)

    def load_pretrained(variables, arrays):
        params, stats = load(network, variables["params"], variables["stats"], arrays)
        return {**variables, "params": params, "stats": stats}

    return Detector(
        init,
        score,
        SCORE_TERMS,
        (1.0, 0.0),
        loss,
        needs=frozenset({"mask"} if options.defects == "masks" else ()),
        load_pretrained=load_pretrained,
    )
