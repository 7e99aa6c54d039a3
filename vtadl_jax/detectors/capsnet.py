"""A CapsNet with a normal and an anomalous capsule, trained on labels with very few anomalies.

Piciarelli, Mishra and Foresti, 2019 (chapter 3 of Mishra's thesis). The loss is Sabour's margin
loss and the reconstruction error of the normal capsule; the anomaly score is |z_a| - |z_n| + r.
`data.anomaly_fraction` sets how many anomalies are used in training.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from vtadl_jax.detectors.contract import Detector, Inputs, Scores
from vtadl_jax.errors import UserError
from vtadl_jax.networks import capsnet as network
from vtadl_jax.networks.capsnet import ANOMALOUS, NORMAL, NetworkOptions
from vtadl_jax.networks.microbatch import map_microbatches
from vtadl_jax.networks.parallel import SINGLE_DEVICE
from vtadl_jax.ops.reconstruction import squared_error
from vtadl_jax.ops.resize import upsample_maps
from vtadl_jax.ops.routing import lengths
from vtadl_jax.options import option

# |z_a| - |z_n| + r, its two parts, and the decision of a plain CapsNet: 1 if |z_a| > |z_n|.
SCORE_TERMS = ("capsule_score", "length_difference", "mse", "anomalous_is_longer")


@dataclasses.dataclass(frozen=True)
class CapsNetLossOptions:
    """The margin loss and the weight of the reconstruction."""

    present_margin: float = option(
        0.9, "least length of the capsule of the image's class", at_least=0, at_most=1
    )
    absent_margin: float = option(0.1, "largest length of the other one", at_least=0, at_most=1)
    absent_weight: float = option(0.5, "of the other one's loss", at_least=0)
    reconstruction_weight: float = option(
        0.0005, "on the sum of squared differences of an image in [0, 1]", at_least=0
    )
    reconstruct_normal_only: bool = option(
        False, "anomalous images do not count in the reconstruction loss"
    )


@dataclasses.dataclass(frozen=True)
class CapsNetOptions:
    """Options of the capsnet detector."""

    mean: tuple[float, ...] = option(
        (0.5,), "of images in [0, 1], for the network's input: one value, or one for each channel",
        counts=(1, 3),
    )  # fmt: skip
    std: tuple[float, ...] = option((0.5,), "standard deviation, likewise", counts=(1, 3), above=0)
    network: NetworkOptions = NetworkOptions()
    loss: CapsNetLossOptions = CapsNetLossOptions()


def margin_loss(vectors, label, options: CapsNetLossOptions):
    """Returns Σ_j T_j·max(0, m⁺ - |z_j|)² + λ·(1 - T_j)·max(0, |z_j| - m⁻)², [B].

    vectors: [B, 2, D]. label: [B], T_j is 1 for the capsule j = label.
    """
    length, truth = lengths(vectors), jax.nn.one_hot(label, 2)
    present = jnp.square(jax.nn.relu(options.present_margin - length))
    absent = jnp.square(jax.nn.relu(length - options.absent_margin))
    return (truth * present + options.absent_weight * (1 - truth) * absent).sum(-1)


def mean_of_normal(values, label, axis=None):
    """Returns the mean of values [B] over normal images, 0 without any. axis: as `Parallel.axis`.

    With an axis it is this device's share: the mean over devices is that of the whole batch.
    """
    normal = (label == NORMAL).astype(values.dtype)
    count = normal.sum() if axis is None else jax.lax.pmean(normal.sum(), axis)
    return (values * normal).sum() / jnp.where(count > 0, count, 1)


def run_network(params, images, options: CapsNetOptions, dtype=jnp.float32):
    """Standardizes images [B, H, W, C] in [0, 1] and returns the network's `Outputs`."""
    mean, std = (jnp.asarray(values, images.dtype) for values in (options.mean, options.std))
    return network.apply(params, (images - mean) / std, options.network, dtype)


def objective(
    params,
    images,
    label,
    options: CapsNetOptions,
    dtype=jnp.float32,
    microbatches: int = 1,
    axis=None,
):
    """Returns the loss and its terms. images: [B, H, W, C] in [0, 1]. label: [B], 1 anomalous.

    The network sees standardized images; it reconstructs those in [0, 1]. axis: as `Parallel.axis`.
    """

    def of_images(images, label):
        vectors, recon = run_network(params, images, options, dtype)
        return margin_loss(vectors, label, options.loss), squared_error(images, recon)

    margin, mse = map_microbatches(of_images, microbatches)(images, label)
    normal_only = options.loss.reconstruct_normal_only
    terms = {
        "margin": margin.mean(),
        "mse": mean_of_normal(mse, label, axis) if normal_only else mse.mean(),
    }
    weight = options.loss.reconstruction_weight * math.prod(images.shape[1:])
    return terms["margin"] + weight * terms["mse"], terms


def score_terms(vectors, error):
    """Returns the score terms [B, 4]. vectors: [B, 2, D]. error: [B], of the reconstruction."""
    length = lengths(vectors)
    difference = length[:, ANOMALOUS] - length[:, NORMAL]
    return jnp.stack([difference + error, difference, error, difference > 0], -1)


def capsnet(options: CapsNetOptions, inputs: Inputs) -> Detector:
    """Returns the detector; `Detector` describes the arguments and results of its functions."""
    size, channels, dtype = inputs.image_size, inputs.channels, jnp.dtype(inputs.dtype)
    network.grid_of(size, options.network)
    for name in ("mean", "std"):
        values = getattr(options, name)
        if len(values) not in (1, channels):
            raise UserError(
                f"model.{name} {values}: the images have {channels} channel(s): give one value, or "
                "one for each channel"
            )

    def init(key):
        params = network.init(key, size, channels, options.network)
        return {"params": params, "stats": {}, "frozen": {}}

    def loss(variables, batch, keys, parallel=SINGLE_DEVICE):
        del keys
        params = parallel.gather_params(variables["params"])
        images, label = _unit(batch["image"]), batch["label"]
        total, terms = objective(
            params, images, label, options, dtype, inputs.microbatches, parallel.axis
        )
        return total, (terms, variables["stats"])

    def score(variables, images):
        images = _unit(images)
        vectors, recon = run_network(variables["params"], images, options, dtype)
        errors = jnp.square(images - recon).mean(-1)
        return Scores(
            score_terms(vectors, squared_error(images, recon)),
            upsample_maps(errors, size, inputs.map_sigma),
            jnp.round(255 * recon).astype(jnp.uint8),
        )

    def load_pretrained(variables, arrays):
        return {**variables, "params": network.load(arrays, size, channels, options.network)}

    return Detector(
        init,
        score,
        SCORE_TERMS,
        (1.0, 0.0, 0.0, 0.0),
        loss,
        needs=frozenset({"label"}),
        load_pretrained=load_pretrained,
    )


def _unit(images):
    """Converts uint8 [0, 255] to float32 [0, 1]."""
    return images.astype(jnp.float32) / 255
