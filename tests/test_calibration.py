"""Standardising score terms on normal images."""

import numpy as np
import pytest

from vtadl_jax.calibration import calibrate
from vtadl_jax.errors import UserError


def test_calibrated_normals_have_zero_mean_and_unit_spread():
    rng = np.random.default_rng(0)
    terms = rng.normal((1e4, 0.1, -3), (100, 0.01, 5), size=(200, 3))
    calib = calibrate(("a", "b", "c"), terms, rng.normal(size=(200, 4, 4)))
    z = calib.standardise(terms)
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(z.std(0, ddof=1), 1, rtol=1e-9)
    np.testing.assert_allclose(calib.image_scores(terms, (0, 2, 1)), 2 * z[:, 1] + z[:, 2])


@pytest.mark.parametrize("terms", [[[2.0, 0.0]], [[2.0, 0.0], [2.0, 0.0]]])
def test_no_spread_still_gives_finite_scores(terms):
    calib = calibrate(("a", "b"), np.array(terms), np.zeros((1, 2, 2)))
    assert np.isfinite(calib.standardise(np.array([[3.0, 1.0]]))).all()
    assert calib.map_high > calib.map_low


def test_weights_must_match_the_terms():
    calib = calibrate(("a", "b"), np.ones((3, 2)), np.zeros((1, 2, 2)))
    with pytest.raises(UserError, match="give 2 numbers, for a, b"):
        calib.image_scores(np.ones((1, 2)), (1.0,))
