"""The baseline: one mixture of full-covariance Gaussians over fixed filter responses, fitted by EM.

It has no encoder and needs no training; a method that does not beat it is not worth its cost.
Training steps are possible: they continue from the EM solution and raise its likelihood.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from vtadl_jax.detectors.contract import Detector, Fit, Inputs, Scores
from vtadl_jax.networks import fitting
from vtadl_jax.networks.features import (
    FeatureOptions,
    empty_whitening,
    load_frozen,
    make_features,
    sample_places,
    whiten,
)
from vtadl_jax.networks.parallel import SINGLE_DEVICE
from vtadl_jax.ops.mixture import shared_mixture_log_prob
from vtadl_jax.ops.resize import upsample_maps
from vtadl_jax.options import LARGEST_SIZE, option

SCORE_TERMS = ("max_nll", "mean_nll")
EM_SAMPLES = 30_000  # over all images


@dataclasses.dataclass(frozen=True)
class FilterMdnOptions:
    """Options of the mixture over features."""

    num_components: int = option(40, "Gaussians", at_least=1, limit=LARGEST_SIZE)
    feature_dim: int = option(
        20, "whitened features that the density models", at_least=1, limit=LARGEST_SIZE
    )


@dataclasses.dataclass(frozen=True)
class FilterMixtureOptions(FeatureOptions):
    """Options of the filter_mixture detector."""

    mdn: FilterMdnOptions = FilterMdnOptions()


def filter_mixture(options: FilterMixtureOptions, inputs: Inputs) -> Detector:
    """Returns the detector; `Detector` describes the arguments and results of its functions."""
    count = options.mdn.num_components
    features = make_features(
        options, options.mdn.feature_dim, inputs.image_size, inputs.channels, inputs.dtype
    )
    dim = features.dim

    def init(key):
        params = {
            "logits": jnp.zeros(count),
            "loc": jax.random.normal(key, (count, dim)),
            "precision": jnp.tile(jnp.eye(dim), (count, 1, 1)),
        }
        return {
            "params": params,
            "stats": empty_whitening(features),
            "frozen": features.frozen(),
        }

    def gather(variables, images, key):
        return sample_places(features.responses(variables["frozen"], images), key)

    def solve(variables, samples, rng: np.random.Generator):
        stats = features.fit(samples)
        samples = samples.reshape(-1, features.width)
        few = samples[rng.permutation(len(samples))[:EM_SAMPLES]].astype(np.float64)
        logits, loc, covariance, _ = fitting.fit_mixture(whiten(stats, few), count, rng)
        precision = fitting.precision_factor(covariance)
        params = {"logits": logits, "loc": loc, "precision": precision}
        fitted = jax.tree.map(lambda x: np.asarray(x, np.float32), (params, stats))
        return {**variables, "params": fitted[0], "stats": fitted[1]}

    def nll(variables, images, params):
        responses = features.responses(variables["frozen"], images)
        return -shared_mixture_log_prob(
            params["logits"],
            params["loc"],
            params["precision"],
            whiten(variables["stats"], responses),
            factor_of="precision",
        )

    def loss(variables, batch, keys, parallel=SINGLE_DEVICE):
        del keys
        params = parallel.gather_params(variables["params"])
        value = nll(variables, batch["image"], params).mean()
        return value, ({"nll": value}, variables["stats"])

    def score(variables, images):
        values = nll(variables, images, variables["params"])
        maps = upsample_maps(values, inputs.image_size, inputs.map_sigma)
        terms = jnp.stack([maps.max((1, 2)), values.mean((1, 2))], -1)
        return Scores(terms, maps)

    return Detector(
        init,
        score,
        SCORE_TERMS,
        (1.0, 0.0),
        loss,
        Fit(gather, solve),
        load_pretrained=load_frozen(features),
        pretrained_required=features.load is not None,
    )
