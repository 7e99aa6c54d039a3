"""Reconstruction of frozen features: what was not seen in good images is reconstructed badly.

The idea of Dinomaly (Guo et al., 2025), small and over any features: a bottleneck with dropout and
a few blocks of linear attention are trained on good images to give back the features that they
receive. The loss is 1 - cosine of an image's whole map of features. As training goes on, the
gradients of positions that are reconstructed well already are scaled down, so that they are not
learned so well that anomalies are, too. The map is 1 - cosine at each position.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from vtadl_jax.detectors.contract import Detector, Inputs
from vtadl_jax.detectors.feature_detector import feature_detector, features_of, top_mean
from vtadl_jax.networks import reconstructor
from vtadl_jax.networks.features import FeatureOptions
from vtadl_jax.networks.fitting import standardization
from vtadl_jax.networks.parallel import SINGLE_DEVICE
from vtadl_jax.networks.reconstructor import ReconstructorOptions
from vtadl_jax.options import option

LARGEST_EASY_SHARE = 0.9  # of an image's positions, at the end of the schedule


@dataclasses.dataclass(frozen=True)
class HardOptions:
    """Options of the weight of positions that are reconstructed well."""

    steps: int = option(
        1000, "over which the share of easy positions grows to 0.9", unit="steps", at_least=1
    )
    easy_weight: float = option(
        0.1, "of the gradients of easy positions; 1: all count alike", at_least=0, at_most=1
    )


@dataclasses.dataclass(frozen=True)
class FeatureReconstructionOptions(FeatureOptions):
    """Options of the feature_reconstruction detector."""

    network: ReconstructorOptions = ReconstructorOptions()
    hard: HardOptions = HardOptions()


def cosine_distance(a, b, axis=-1):
    """Returns 1 - cosine of two arrays along an axis, or several."""

    def norm(x):
        return jnp.sqrt(jnp.square(x).sum(axis) + 1e-12)

    return 1 - (a * b).sum(axis) / (norm(a) * norm(b))


def scale_easy_gradients(found, wanted, share, weight: float):
    """Returns `found` with the gradients of easy positions multiplied by `weight`.

    found, wanted: [B, N, D]. Easy is the `share` (a scalar in [0, 1]) of each image's positions
    whose cosine distance is smallest. The values do not change.
    """
    distance = cosine_distance(jax.lax.stop_gradient(found), wanted)
    last = distance.shape[1] - 1
    place = jnp.floor(share * last).astype(jnp.int32)
    threshold = jnp.sort(distance, 1)[:, place]
    easy = (distance < threshold[:, None])[..., None]
    fixed = jax.lax.stop_gradient(found)
    return jnp.where(easy, fixed + weight * (found - fixed), found)


def feature_reconstruction(options: FeatureReconstructionOptions, inputs: Inputs) -> Detector:
    """Returns the detector; `Detector` describes the arguments and results of its functions."""
    features = features_of(options, inputs)
    network, width = options.network, features.width
    reconstructor.check(network, "model.network.")
    dtype = jnp.dtype(inputs.dtype)

    def init(key):
        stats = {"mean": jnp.zeros(width), "spread": jnp.ones(width), "step": jnp.zeros(())}
        return {"params": reconstructor.init(key, width, network), "stats": stats}

    def solve(variables, samples, rng: np.random.Generator):
        del rng
        return {"stats": {**variables["stats"], **standardization(samples.reshape(-1, width))}}

    def reconstruct(variables, responses, params, keys=None):
        """Returns (standardized features, their reconstruction), both [B, h·w, width]."""
        stats = variables["stats"]
        wanted = (responses - stats["mean"]) / stats["spread"]
        wanted = wanted.reshape(wanted.shape[0], -1, width)
        return wanted, reconstructor.apply(params, wanted, network, dtype, keys)

    def loss(variables, batch, keys, parallel=SINGLE_DEVICE):
        params, stats = parallel.gather_params(variables["params"]), variables["stats"]
        responses = features.responses(variables["frozen"], batch["image"])
        wanted, found = reconstruct(variables, responses, params, keys)
        share = LARGEST_EASY_SHARE * jnp.minimum(stats["step"] / options.hard.steps, 1)
        found = scale_easy_gradients(found, wanted, share, options.hard.easy_weight)
        value = cosine_distance(found, wanted, (1, 2)).mean()
        return value, ({"cosine": value}, {**stats, "step": stats["step"] + 1})

    def distances(variables, responses):
        wanted, found = reconstruct(variables, responses, variables["params"])
        return cosine_distance(found, wanted).reshape(responses.shape[:-1])

    detector = feature_detector(
        features,
        inputs,
        init=init,
        values=distances,
        solve=solve,
        terms=("top_distance", "mean_distance"),
        weights=(1.0, 0.0),
        of_map=top_mean,
    )
    return dataclasses.replace(detector, loss=loss, steps_required=True)
