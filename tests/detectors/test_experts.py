"""Experts are fitted as they are alone, whether they need rows or accumulate moments."""

import jax
import numpy as np
import pytest

from tests.detectors.fits import draw_images
from tests.factory import tiny_detector
from vtadl_jax.training.fitting import collect

SMALL = {"data__channels": 1}
MIXTURE = {"mdn__num_components": 2, "mdn__feature_dim": 3, "filters__sigmas": (1, 2)}


def fitted(detector, variables, images):
    rows = [
        jax.device_get(detector.fit.gather(variables, part, jax.random.key(1)))
        for part in (images[:5], images[5:])
    ]
    return detector.fit.solve(variables, collect(detector.fit, rows), np.random.default_rng(0))


@pytest.mark.slow
def test_an_expert_that_accumulates_moments_is_fitted_beside_one_that_needs_rows():
    images = draw_images(8)
    fields = {f"model__filter_mixture__{name}": value for name, value in MIXTURE.items()}
    use = ("position_gaussian", "filter_mixture")
    both = tiny_detector("experts", model__use=use, **SMALL, **fields)
    together = fitted(both, both.init(jax.random.key(0)), images)
    alone = tiny_detector("position_gaussian", **SMALL)
    want = fitted(alone, alone.init(jax.random.key(0)), images)
    for name, value in want["params"].items():
        np.testing.assert_array_equal(together["stats"]["fitted"]["position_gaussian"][name], value)
    mixture = together["stats"]["filter_mixture"]
    assert np.isfinite(mixture["whitener"]).all()
    assert np.shape(mixture["whitener"]) == (10, 3)
