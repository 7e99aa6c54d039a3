"""The baseline: one mixture of full-covariance Gaussians over fixed filter responses, fitted by EM.

It has no encoder and needs no training; a method that does not beat it is not worth its cost.
Training steps are possible: they continue from the EM solution and raise its likelihood.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from vtadl_jax.detectors.contract import Detector, Inputs
from vtadl_jax.detectors.feature_detector import feature_detector, features_of
from vtadl_jax.networks import fitting
from vtadl_jax.networks.features import FeatureOptions, empty_whitening, whiten
from vtadl_jax.ops.mixture import shared_mixture_log_prob
from vtadl_jax.options import LARGEST_SIZE, option

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
    features = features_of(options, inputs, options.mdn.feature_dim)
    dim = features.dim

    def init(key):
        params = {
            "logits": jnp.zeros(count),
            "loc": jax.random.normal(key, (count, dim)),
            "precision": jnp.tile(jnp.eye(dim), (count, 1, 1)),
        }
        return {"params": params, "stats": empty_whitening(features)}

    def solve(variables, samples, rng: np.random.Generator):
        del variables
        stats = features.fit(samples)
        samples = samples.reshape(-1, features.width)
        few = samples[rng.permutation(len(samples))[:EM_SAMPLES]].astype(np.float64)
        logits, loc, covariance, _ = fitting.fit_mixture(whiten(stats, few), count, rng)
        precision = fitting.precision_factor(covariance)
        return {"params": {"logits": logits, "loc": loc, "precision": precision}, "stats": stats}

    def nll(variables, responses):
        params = variables["params"]
        return -shared_mixture_log_prob(
            params["logits"],
            params["loc"],
            params["precision"],
            whiten(variables["stats"], responses),
            factor_of="precision",
        )

    return feature_detector(
        features,
        inputs,
        init=init,
        values=nll,
        solve=solve,
        terms=("max_nll", "mean_nll"),
        weights=(1.0, 0.0),
        trains=True,
    )
