"""What detectors that value each position of a feature grid have in common; no density of its own.

Such a detector is its options, `init`, `solve` and one function: responses → a value per position.
This file adds the extractor, its frozen weights, the pass over the images, the map, the image's
terms and, for methods that steps may train, the loss. Example: `filter_mixture.py`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vtadl_jax.detectors.contract import Array, Detector, Fit, Inputs, Scores, Variables
from vtadl_jax.networks.features import (
    FeatureOptions,
    Features,
    load_frozen,
    make_features,
    sample_places,
)
from vtadl_jax.networks.parallel import SINGLE_DEVICE
from vtadl_jax.ops.inspected import mean_inside, only_inside, top_mean_inside
from vtadl_jax.ops.resize import upsample_maps

TOP_FRACTION = 0.01  # of a map's values
ANY_WIDTH = 2**16  # for detectors that do not whiten


def features_of(options: FeatureOptions, inputs: Inputs, dim: int = ANY_WIDTH) -> Features:
    """Returns the extractor that a detector's options name; dim: most whitened features."""
    return make_features(options, dim, inputs.image_size, inputs.channels, inputs.dtype)


def pretrained_of(features: Features) -> dict[str, Any]:
    """Returns the fields of `Detector` about the extractor's frozen weights."""
    return {
        "load_pretrained": load_frozen(features),
        "pretrained_required": features.load is not None,
    }


def largest(maps):
    """Returns the largest value of each map: [B, H, W] → [B]."""
    return only_inside(maps).max((1, 2))


def top_mean(maps, fraction: float = TOP_FRACTION):
    """Returns the mean of each map's largest values, a fraction of them: [B, H, W] → [B]."""
    return top_mean_inside(maps, fraction)


def random_places(variables: Variables, responses: Array, key: Array) -> Array:
    """Samples responses [B, h, w, width] at random positions: [B, positions, width]."""
    del variables
    return sample_places(responses, key)


def feature_detector(
    features: Features,
    inputs: Inputs,
    *,
    init: Callable[[jax.Array], Variables],
    values: Callable[[Variables, Array], jax.Array],
    solve: Callable[[Variables, Any, np.random.Generator], dict[str, Any]],
    terms: tuple[str, str],
    weights: tuple[float, float],
    of_map: Callable[[jax.Array], jax.Array] = largest,
    of_values: Callable[[jax.Array], jax.Array] | None = None,
    gather: Callable[[Variables, Array, Array], Any] = random_places,
    reduce: Callable[[Any | None, Any], Any] | None = None,
    trains: bool = False,
) -> Detector:
    """Builds a detector of a value at each position of the features' grid.

    init: key → 'params' and 'stats'. values: (variables, responses [B, h, w, width] float32) →
    [B, h, w], larger is more anomalous. gather: (variables, responses, key) → rows, as
    `Fit.gather`; solve: (variables, rows or what `reduce` made of them, rng) → the variables that
    it fitted, in any precision. terms: names of the image's terms: `of_map` of the smoothed map, or
    `of_values` of the values themselves, and the mean of the values. trains: whether steps may go
    on to lower the mean of `values`, which then is a negative log-likelihood.
    """

    def init_all(key):
        return {**init(key), "frozen": features.frozen()}

    def values_of(variables, images):
        return values(variables, features.responses(variables["frozen"], images))

    def gather_rows(variables, images, key):
        return gather(variables, features.responses(variables["frozen"], images), key)

    def solve_all(variables, gathered, rng: np.random.Generator):
        fitted = solve(variables, gathered, rng)
        return {**variables, **jax.tree.map(lambda x: np.asarray(x, np.float32), fitted)}

    def loss(variables, batch, keys, parallel=SINGLE_DEVICE):
        del keys
        params = parallel.gather_params(variables["params"])
        value = values_of({**variables, "params": params}, batch["image"]).mean()
        return value, ({"nll": value}, variables["stats"])

    def score(variables, images):
        found = values_of(variables, images)
        maps = upsample_maps(found, inputs.image_size, inputs.map_sigma)
        first = of_values(found) if of_values else of_map(maps)
        return Scores(jnp.stack([first, mean_inside(found)], -1), maps)

    return Detector(
        init_all,
        score,
        terms,
        weights,
        loss if trains else None,
        Fit(gather_rows, solve_all, reduce),
        **pretrained_of(features),
    )
