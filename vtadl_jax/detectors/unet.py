"""A small U-Net trained on masks: for users who have defective images with ground truth.

Ronneberger et al., 2015, with GroupNorm (Wu and He, 2018) instead of batch norm, so that the
segmentation of an image does not depend on the rest of its batch. The loss is binary cross-entropy
plus Dice, per image. `data.anomaly_fraction` sets how many defective images are used in training.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from vtadl_jax.detectors.contract import Detector, Inputs, Scores
from vtadl_jax.detectors.feature_detector import largest, top_mean
from vtadl_jax.errors import UserError
from vtadl_jax.networks.microbatch import map_microbatches
from vtadl_jax.networks.parallel import SINGLE_DEVICE
from vtadl_jax.ops.reconstruction import to_unit_range
from vtadl_jax.ops.resize import upsample_maps
from vtadl_jax.options import option

SCORE_TERMS = ("max_logit", "top_logit")
GROUPS = 4
NORM_EPSILON = 1e-5


@dataclasses.dataclass(frozen=True)
class NetworkOptions:
    """Sizes of the network."""

    width: int = option(
        16, "channels of the first level; each next one has twice as many", at_least=4, limit=4096
    )
    levels: int = option(4, "resolutions, each half of the one before", at_least=2, limit=12)


@dataclasses.dataclass(frozen=True)
class UNetLossOptions:
    """Weights of the loss terms."""

    bce_weight: float = option(1.0, "on the binary cross-entropy of a pixel", at_least=0)
    dice_weight: float = option(1.0, "on 1 - Dice of an image", at_least=0)
    defect_weight: float = option(5.0, "of a defective pixel in the cross-entropy", above=0)


@dataclasses.dataclass(frozen=True)
class UNetOptions:
    """Options of the unet detector."""

    network: NetworkOptions = NetworkOptions()
    loss: UNetLossOptions = UNetLossOptions()


def conv(params, x, dtype):
    """Applies a k × k convolution with bias; x: [B, H, W, C]."""
    y = jax.lax.conv_general_dilated(
        x.astype(dtype),
        params["kernel"].astype(dtype),
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y + params["bias"].astype(dtype)


def group_norm(params, x):
    """Applies GroupNorm in float32, then ReLU; x: [B, H, W, C]."""
    batch, height, width, _ = x.shape
    groups = x.astype(jnp.float32).reshape(batch, height, width, GROUPS, -1)
    mean = groups.mean((1, 2, 4), keepdims=True)
    variance = jnp.square(groups - mean).mean((1, 2, 4), keepdims=True)
    normal = (groups - mean) * jax.lax.rsqrt(variance + NORM_EPSILON)
    return jax.nn.relu(normal.reshape(x.shape) * params["scale"] + params["bias"])


def max_pool(x):
    """Applies 2 × 2 max pooling; x: [B, H, W, C].

    Takes maxima of pairs: the gradient of `max` over an axis divides by the number of values equal
    to the maximum, which is 0 if the compiler recomputes the values with another rounding.
    """
    rows = jnp.maximum(x[:, ::2], x[:, 1::2])
    return jnp.maximum(rows[:, :, ::2], rows[:, :, 1::2])


def double_conv(params, x, dtype):
    """Applies two convolutions, each followed by GroupNorm and ReLU."""
    for name in ("first", "second"):
        x = group_norm(params[name], conv(params[name]["conv"], x, dtype))
    return x


def apply(params, images, dtype=jnp.float32):
    """Returns the defect logits, [B, H, W] float32. images: [B, H, W, C] in [-1, 1]."""
    levels, x, skips = len(params["down"]), images, []
    for i in range(levels):
        if i:
            x = max_pool(x)
        x = double_conv(params["down"][f"level{i}"], x, dtype)
        skips.append(x)
    for i in reversed(range(levels - 1)):
        x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
        x = double_conv(params["up"][f"level{i}"], jnp.concatenate([x, skips[i]], -1), dtype)
    return conv(params["head"], x, dtype)[..., 0].astype(jnp.float32)


def init_params(key, options: NetworkOptions, channels: int) -> dict[str, Any]:
    """Returns the initial parameters (He normal)."""
    keys = iter(jax.random.split(key, 8 * options.levels))

    def conv_params(size, inputs, outputs):
        scale = (2 / (size * size * inputs)) ** 0.5
        kernel = scale * jax.random.normal(next(keys), (size, size, inputs, outputs))
        return {"kernel": kernel, "bias": jnp.zeros(outputs)}

    def block(inputs, outputs):
        def half(inputs):
            norm = {"scale": jnp.ones(outputs), "bias": jnp.zeros(outputs)}
            return {"conv": conv_params(3, inputs, outputs), **norm}

        return {"first": half(inputs), "second": half(outputs)}

    widths = [options.width * 2**i for i in range(options.levels)]
    down = {f"level{i}": block(widths[i - 1] if i else channels, w) for i, w in enumerate(widths)}
    up = {f"level{i}": block(widths[i + 1] + w, w) for i, w in enumerate(widths[:-1])}
    return {"down": down, "up": up, "head": conv_params(1, widths[0], 1)}


def segmentation_terms(logits, mask, has_mask, defect_weight: float):
    """Returns cross-entropy and 1 - Dice of each image, [B] each; 0 for defects without a mask.

    logits: [B, H, W] float32. mask: [B, H, W], 1 defective. has_mask: [B]. 1 - Dice is 0 for images
    without a defect: there it adds nothing to the cross-entropy.
    """
    truth, known = mask.astype(jnp.float32), has_mask.astype(jnp.float32)
    each = jax.nn.softplus(logits) - truth * logits  # -log probability of the true class
    bce = ((1 + (defect_weight - 1) * truth) * each).mean((1, 2))
    probability = jax.nn.sigmoid(logits)
    overlap = 2 * (probability * truth).sum((1, 2))
    dice = (overlap + 1) / (probability.sum((1, 2)) + truth.sum((1, 2)) + 1)
    defective = known * mask.any((1, 2))
    return known * bce, defective * (1 - dice)


def unet(options: UNetOptions, inputs: Inputs) -> Detector:
    """Returns the detector; `Detector` describes the arguments and results of its functions."""
    multiple = 2 ** (options.network.levels - 1)
    if any(side % multiple for side in inputs.image_size):
        raise UserError(
            f"image_size {inputs.image_size}: model.network.levels {options.network.levels} needs "
            f"multiples of {multiple}: use other sides, or fewer levels"
        )
    if options.network.width % GROUPS:
        raise UserError(f"model.network.width {options.network.width}: use a multiple of {GROUPS}")
    weights, dtype = options.loss, jnp.dtype(inputs.dtype)

    def init(key):
        params = init_params(key, options.network, inputs.channels)
        return {"params": params, "stats": {}, "frozen": {}}

    def loss(variables, batch, keys, parallel=SINGLE_DEVICE):
        del keys
        params = parallel.gather_params(variables["params"])

        def terms_of(images, mask, has_mask):
            logits = apply(params, to_unit_range(images), dtype)
            return segmentation_terms(logits, mask, has_mask, weights.defect_weight)

        of_images = map_microbatches(terms_of, inputs.microbatches)
        bce, dice = of_images(batch["image"], batch["mask"], batch["has_mask"])
        terms = {"bce": bce.mean(), "dice_loss": dice.mean()}
        total = weights.bce_weight * terms["bce"] + weights.dice_weight * terms["dice_loss"]
        return total, (terms, variables["stats"])

    def score(variables, images):
        logits = apply(variables["params"], to_unit_range(images), dtype)
        maps = upsample_maps(logits, inputs.image_size, inputs.map_sigma)
        return Scores(jnp.stack([largest(maps), top_mean(maps)], -1), maps)

    return Detector(init, score, SCORE_TERMS, (0.0, 1.0), loss, needs=frozenset({"mask"}))
