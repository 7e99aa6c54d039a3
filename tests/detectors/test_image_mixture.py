"""The mixture over whole images against numpy, and rejected options."""

import jax
import numpy as np
import pytest
from scipy import stats

from tests.detectors.test_fitted import config_of, draw_images, fitted
from vtadl_jax.detectors.image_mixture import principal_directions
from vtadl_jax.errors import UserError
from vtadl_jax.experiment import make_detector
from vtadl_jax.ops.orientations import oriented_edges_reference


@pytest.mark.slow
def test_scores_are_the_density_and_the_residual_outside_its_subspace():
    images = draw_images(60)
    config = config_of("image_mixture", model__mdn__num_components=1, model__mdn__feature_dim=5)
    detector, _, variables = fitted(config, images)
    rows = oriented_edges_reference(images[..., 0] / 255, 4, 8, 1.0).reshape(60, -1)
    mean, basis, spread, left = principal_directions(rows, 5)
    y = (rows - mean) @ basis / spread
    off = rows - mean - (rows - mean) @ basis @ basis.T
    density = stats.multivariate_normal(y.mean(0), np.cov(y.T, bias=True) + 1e-3 * np.eye(5))
    scores = detector.score(variables, images)
    np.testing.assert_allclose(scores.terms[:, 0], -density.logpdf(y), rtol=1e-2, atol=0.05)
    np.testing.assert_allclose(scores.terms[:, 1], 0.5 * np.square(off).sum(1) / left, rtol=2e-2)


@pytest.mark.slow
def test_another_shape_is_outside_the_span_of_normal_images():
    images = draw_images(60)
    detector, _, variables = fitted(config_of("image_mixture"), images)
    turned = images[:4].transpose(0, 2, 1, 3)  # waves along the other axis
    good, bad = (detector.score(variables, x).terms[:, 1] for x in (images[4:8], turned))
    assert bad.min() > 10 * good.max()


@pytest.mark.slow
def test_fewer_images_than_directions_still_give_a_density():
    images = draw_images(6)
    detector, _, variables = fitted(config_of("image_mixture", model__mdn__feature_dim=20), images)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(variables))
    assert np.isfinite(detector.score(variables, draw_images(3, seed=1)).terms).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model__edges__stride": 5}, r"stride 5: does not divide image_size \(32, 32\)"),
        ({"model__edges__num_orientations": 0}, "num_orientations 0"),
        ({"model__edges__sigma": 0.0}, "sigma 0.0"),
    ],
)
def test_options_that_do_not_fit_are_rejected(fields, message):
    with pytest.raises(UserError, match=message):
        make_detector(config_of("image_mixture", **fields))
