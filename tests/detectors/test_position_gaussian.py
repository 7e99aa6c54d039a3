"""The Gaussian of each position against scipy's, over features, for few images, and its options."""

import numpy as np
import pytest
from scipy import stats

from tests.detectors.fits import draw_images, fit, small_features
from tests.factory import tiny_config, tiny_detector
from vtadl_jax.errors import UserError
from vtadl_jax.experiment import make_detector
from vtadl_jax.networks.moments import Moments, moments_reference

NAME, DIM = "position_gaussian", 10


def reference_nll(features, new, shrinkage=0.1, projection=None):
    """The nll [M, h, w] of new features by the definition, one position at a time."""
    if projection is not None:
        features, new = features @ projection, new @ projection
    dim = features.shape[-1]
    residual = features - features.mean(0)
    covariance = np.einsum("nhwi,nhwj->hwij", residual, residual) / len(features)
    ridge = 1e-4 * features.reshape(-1, dim).var(0) + 1e-8
    pooled = covariance.mean((0, 1)) + np.diag(ridge)
    covariance = (1 - shrinkage) * covariance + shrinkage * pooled
    found = np.empty(new.shape[:3])
    for i, j in np.ndindex(*found.shape[1:]):
        normal = stats.multivariate_normal(features[:, i, j].mean(0), covariance[i, j])
        found[:, i, j] = -normal.logpdf(new[:, i, j])
    return found


@pytest.mark.parametrize(("count", "size"), [(30, (32, 32)), (3, (16, 40)), (1, (32, 16))], ids=str)
def test_a_position_s_nll_matches_its_definition(count, size):
    images, new = draw_images(count, size), draw_images(2, size, seed=7)
    detector, variables = fit(NAME, images, (1, count - 1) if count > 1 else ())
    want = reference_nll(small_features(images), small_features(new))
    got = detector.score(variables, new)
    np.testing.assert_allclose(got.terms[:, 1], want.mean((1, 2)), rtol=1e-2, atol=0.05)
    assert np.isfinite(got.anomaly_map).all()


@pytest.mark.parametrize("count", [2, DIM // 2])
def test_fewer_images_than_features_are_well_conditioned(count):
    _, variables = fit(NAME, draw_images(count))
    precision = np.float64(variables["stats"]["precision"])
    # In units of each feature's deviation over all positions.
    spread = small_features(draw_images(count)).reshape(-1, DIM).std(0)
    condition = np.linalg.cond(precision * spread[:, None])
    assert condition.max() < 2e3


def test_more_shrinkage_brings_the_positions_together():
    images = draw_images(4)
    found = [
        fit(NAME, images, model__gaussian__shrinkage=share)[1]["stats"]["precision"]
        for share in (0.1, 0.5, 1.0)
    ]
    spreads = [np.ptp(precision, axis=(0, 1)).max() for precision in found]
    assert spreads[0] > spreads[1] > spreads[2]
    assert spreads[2] < 1e-3 * np.abs(found[2]).max()  # the same everywhere


def test_constant_images_give_finite_scores_and_a_change_a_larger_one():
    images = np.full((5, 32, 32, 1), 80, np.uint8)
    for features in ("filters", "statistics"):
        fields = {"model__features": features}
        if features == "statistics":
            fields["model__filters__sigmas"] = (1, 2, 4, 8)
        detector, variables = fit(NAME, images, (2, 3), **fields)
        new = images[:2].copy()
        new[1, 9:15, 9:15] = 200
        scores = detector.score(variables, new)
        assert np.isfinite(scores.terms).all()
        assert scores.terms[1, 0] > scores.terms[0, 0] + 10


def test_a_projection_is_orthonormal_and_gives_the_density_of_what_it_leaves():
    images, new = draw_images(20), draw_images(2, seed=7)
    detector, variables = fit(NAME, images, (8, 12), model__gaussian__feature_dim=4)
    projection = np.float64(variables["stats"]["projection"])
    assert projection.shape == (DIM, 4)
    np.testing.assert_allclose(projection.T @ projection, np.eye(4), atol=1e-6)
    want = reference_nll(small_features(images), small_features(new), projection=projection)
    got = detector.score(variables, new).terms[:, 1]
    np.testing.assert_allclose(got, want.mean((1, 2)), rtol=1e-2, atol=0.05)


def test_padims_distances_are_those_of_its_paper():
    images, new = draw_images(5), draw_images(2, seed=7)
    fields = {"feature_dim": 4, "reduction": "choice", "shrinkage": 0.0, "ridge": 0.01}
    fields["distance"] = "mahalanobis"
    fields = {f"model__gaussian__{name}": value for name, value in fields.items()}
    detector, variables = fit(NAME, images, (2, 3), **fields)
    assert detector.score_terms == ("max_distance", "mean_distance")
    chosen = variables["stats"]["chosen"].astype(int)
    assert len(set(chosen.tolist())) == 4
    assert set(chosen.tolist()) < set(range(DIM))
    features, new_features = small_features(images)[..., chosen], small_features(new)[..., chosen]
    want = np.empty(new_features.shape[:3])
    for i, j in np.ndindex(*want.shape[1:]):
        covariance = np.cov(features[:, i, j].T, bias=True) + 0.01 * np.eye(4)
        off = new_features[:, i, j] - features[:, i, j].mean(0)
        want[:, i, j] = np.sqrt(np.einsum("ni,ij,nj->n", off, np.linalg.inv(covariance), off))
    got = detector.score(variables, new).terms[:, 1]
    np.testing.assert_allclose(got, want.mean((1, 2)), rtol=1e-3)


def test_distances_of_statistics_are_not_trained():
    assert tiny_detector(NAME, model__gaussian__distance="mahalanobis").loss is None


def test_nothing_is_kept_of_an_image_but_its_share_of_the_moments():
    detector = tiny_detector(NAME, model__features="filters", model__filters__sigmas=(1, 2))
    rows = np.random.default_rng(0).normal(size=(9, 16, DIM)).astype(np.float32)
    found = None
    for part in np.split(rows, 3):
        found = detector.fit.reduce(found, part)
        assert isinstance(found, Moments)
        assert found.scatter.shape == (16, DIM, DIM)
    np.testing.assert_allclose(found.scatter, moments_reference(rows).scatter, rtol=1e-9, atol=1e-9)


def test_the_optimizer_holds_only_the_statistics_gaussians():
    assert tiny_detector(NAME).loss is not None
    assert tiny_detector(NAME, model__features="filters").loss is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"model__filters__sigmas": (1, 2)},
            r"model\.filters\.sigmas \(1, 2\): not read with model\.features 'statistics'",
        ),
        ({"model__encoder__norm": False}, r"model\.encoder\.norm False: not read with"),
        ({"model__features": "statistic"}, r"'statistic': did you mean statistics\?: use one of"),
        ({"model__gaussian__shrinkage": 0.0}, r"singular: use more than 0, or .*ridge above 0"),
        ({"model__resnet__pool": False}, r"model\.resnet\.pool False: not read with"),
        (
            {
                "model__features": "efficientnet_lite0",
                "model__gaussian__feature_dim": 176,
                "image_size": (1024, 1024),
            },
            r"feature_dim 176: the covariances of 128 × 128 positions take 3\.8 GiB .* use 127 or",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        make_detector(tiny_config(detector=NAME, **fields))


def test_the_size_that_the_refusal_of_large_moments_names_is_accepted():
    make_detector(
        tiny_config(
            detector=NAME,
            model__features="efficientnet_lite0",
            model__gaussian__feature_dim=127,
            image_size=(1024, 1024),
        )
    )
