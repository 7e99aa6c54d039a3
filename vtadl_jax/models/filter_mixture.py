"""The floor: one mixture of full-covariance Gaussians over fixed filter responses, fitted by EM.

No encoder and no training. A method that can't beat it is not worth its cost. Training steps are
possible: they go on raising the likelihood from where EM left off.
"""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vtadl_jax.models import fitting
from vtadl_jax.models.detector import ALONE, Detector, Fit, Scores
from vtadl_jax.models.features import (
    empty_whitening,
    make_features,
    no_recon,
    sample_places,
    whiten,
)
from vtadl_jax.ops.mixture import shared_mixture_log_prob
from vtadl_jax.ops.resize import upsample_maps

SCORE_TERMS = ("max_nll", "mean_nll")
EM_SAMPLES = 30_000  # over all images


def filter_mixture(config: ConfigDict) -> Detector:
    """The detector of a config; `Detector` tells what each function takes and returns."""
    features, count = make_features(config), config.model.mdn.num_components
    dim = features.dim

    def init(key):
        params = {
            "logits": jnp.zeros(count),
            "loc": jax.random.normal(key, (count, dim)),
            "precision": jnp.tile(jnp.eye(dim), (count, 1, 1)),
        }
        statistics = empty_whitening(features) | features.frozen()
        return {"params": params, "batch_stats": statistics}

    def gather(variables, images, key):
        return sample_places(features.responses(variables["batch_stats"], images), key)

    def solve(variables, samples, rng: np.random.Generator):
        statistics = variables["batch_stats"] | features.fit(samples)
        samples = samples.reshape(-1, features.width)
        few = samples[rng.permutation(len(samples))[:EM_SAMPLES]].astype(np.float64)
        y = whiten(statistics, few)
        logits, loc, covariance, _ = fitting.fit_mixture(y, count, rng)
        precision = fitting.precision_factor(covariance)
        params = {"logits": logits, "loc": loc, "precision": precision}
        fitted = {"params": params, "batch_stats": statistics}
        return jax.tree.map(lambda x: np.asarray(x, np.float32), fitted)

    def nll(params, statistics, images):
        return -shared_mixture_log_prob(
            params["logits"],
            params["loc"],
            params["precision"],
            whiten(statistics, features.responses(statistics, images)),
            factor_of="precision",
        )

    def loss(params, batch_stats, images, keys, layout=ALONE):
        del keys
        value = nll(layout.whole(params), batch_stats, images).mean()
        return value, ({"nll": value}, batch_stats)

    def score(variables, images):
        values = nll(variables["params"], variables["batch_stats"], images)
        maps = upsample_maps(values, tuple(config.image_size), config.eval.map_sigma)
        terms = jnp.stack([maps.max((1, 2)), values.mean((1, 2))], -1)
        return Scores(terms, maps, no_recon(images))

    return Detector(init, loss, score, SCORE_TERMS, Fit(gather, solve))
