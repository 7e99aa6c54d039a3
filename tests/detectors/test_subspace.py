"""The subspace against a singular value decomposition of all patches, and its options."""

import numpy as np
import pytest

from tests.detectors.fits import draw_images, fit, small_features
from tests.factory import tiny_detector
from vtadl_jax.detectors.subspace import principal_components

NAME, DIM = "subspace", 10


def reference(features, new, count, standardise=True, mahalanobis=False):
    """Distances [M, h, w] by the definition, from the patches themselves."""
    patches = features.reshape(-1, DIM)
    mean = patches.mean(0)
    spread = patches.std(0) if standardise else 1.0
    _, singular, directions = np.linalg.svd((patches - mean) / spread, full_matrices=False)
    variances = np.zeros(DIM)
    variances[: len(singular)] = np.square(singular) / len(patches)
    within = (new - mean) / spread @ directions[:count].T
    off = (new - mean) / spread - within @ directions[:count]
    residual, left = np.square(off).sum(-1), variances[count:].sum()
    if not mahalanobis:
        return residual / left
    left /= DIM - count
    return residual / left + (np.square(within) / variances[:count]).sum(-1)


def count_of(variables):
    return int((np.abs(variables["stats"]["basis"]).max(0) > 0).sum())


@pytest.mark.parametrize("standardise", [True, False])
@pytest.mark.parametrize("distance", ["residual", "mahalanobis"])
@pytest.mark.parametrize(("count", "size"), [(12, (32, 32)), (1, (16, 40))], ids=str)
def test_distances_match_their_definition(count, size, distance, standardise):
    images, new = draw_images(count, size), draw_images(2, size, seed=7)
    batches = (count - 1, 1) if count > 1 else ()
    fields = {
        "model__subspace__variance": 0.95,
        "model__subspace__distance": distance,
        "model__subspace__standardise": standardise,
    }
    detector, variables = fit(NAME, images, batches, **fields)
    used = count_of(variables)
    assert 0 < used < DIM - 1
    want = reference(
        small_features(images), small_features(new), used, standardise, distance == "mahalanobis"
    )
    got = detector.score(variables, new)
    np.testing.assert_allclose(got.terms[:, 1], want.mean((1, 2)), rtol=1e-2)
    assert np.isfinite(got.anomaly_map).all()


def test_the_components_are_the_fewest_that_hold_the_share():
    values = np.array([1.0, 8.0, 0.5, 0.5])
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    covariance = rotation * values @ rotation.T
    for variance, count in ((0.5, 1), (0.8, 1), (0.81, 2), (0.9, 2), (0.94, 3), (1.0, 3)):
        found = principal_components(covariance, variance, 10)
        assert len(found.variances) == count, variance
        assert found.left == pytest.approx(10 - found.variances.sum())
        assert found.share == pytest.approx(found.variances.sum() / 10)
        np.testing.assert_allclose(found.basis.T @ found.basis, np.eye(count), atol=1e-12)
    assert len(principal_components(covariance, 0.99, 2).variances) == 2
    assert len(principal_components(np.zeros((4, 4)), 0.99, 2).variances) == 0


def test_places_of_unused_components_are_zero_and_change_nothing():
    images, new = draw_images(8), draw_images(2, seed=7)
    scores = []
    for dim in (6, 512):
        fields = {"model__subspace__variance": 0.9, "model__subspace__dim": dim}
        detector, variables = fit(NAME, images, **fields)
        assert variables["stats"]["basis"].shape == (DIM, min(dim, DIM - 1))
        assert count_of(variables) < 6
        scores.append(detector.score(variables, new))
    np.testing.assert_allclose(scores[0].terms, scores[1].terms, rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"model__subspace__dim": 1}, "set model.subspace.dim above 1 for more"),
        ({"model__subspace__variance": 1.0}, "one direction is left out, to measure a distance in"),
        ({"model__subspace__variance": 0.5}, "of the variance\n"),
    ],
)
def test_a_run_says_what_the_subspace_holds(capsys, fields, line):
    fit(NAME, draw_images(6), **fields)
    said = capsys.readouterr().err
    assert "of 10 dimensions holds" in said
    assert line in said
    assert ("less than" in said) == (fields != {"model__subspace__variance": 0.5})


@pytest.mark.parametrize("distance", ["residual", "mahalanobis"])
@pytest.mark.parametrize("standardise", [True, False])
def test_constant_images_give_finite_scores_and_a_change_a_larger_one(distance, standardise):
    images = np.full((3, 32, 32, 1), 80, np.uint8)
    fields = {"model__subspace__distance": distance, "model__subspace__standardise": standardise}
    detector, variables = fit(NAME, images, (1, 2), **fields)
    new = images[:2].copy()
    new[1, 9:15, 9:15] = 200
    scores = detector.score(variables, new)
    assert np.isfinite(scores.terms).all()
    assert scores.terms[1, 0] > 10 * scores.terms[0, 0] + 1


def test_fewer_patches_than_features_leave_what_they_do_not_span():
    images, new = draw_images(1, (16, 16)), draw_images(2, (16, 16), seed=7)  # four patches
    for distance in ("residual", "mahalanobis"):
        detector, variables = fit(
            NAME, images, model__subspace__variance=1.0, model__subspace__distance=distance
        )
        assert count_of(variables) == 3
        seen, unseen = detector.score(variables, images), detector.score(variables, new)
        assert np.isfinite(unseen.terms).all()
        assert unseen.terms[:, 1].min() > 10 * seen.terms[0, 1]


def test_a_spot_is_where_the_map_is_largest():
    images = draw_images(20)
    detector, variables = fit(NAME, images, (10, 10))
    spoilt = images[:2].copy()
    spoilt[1, 16:24, 8:16] = np.random.default_rng(5).integers(0, 255, (8, 8, 1))
    scores = detector.score(variables, spoilt)
    row, column = np.unravel_index(np.argmax(scores.anomaly_map[1]), (32, 32))
    assert 12 <= row < 28
    assert 4 <= column < 20
    assert scores.terms[1, 0] > scores.terms[0, 0]


def test_the_image_s_term_is_the_mean_of_the_largest_hundredth():
    detector, variables = fit(NAME, draw_images(6))
    scores = detector.score(variables, draw_images(3, seed=7))
    largest = np.sort(np.asarray(scores.anomaly_map).reshape(3, -1))[:, -10:]  # of 1,024
    np.testing.assert_allclose(scores.terms[:, 0], largest.mean(1), rtol=1e-5)
    assert tiny_detector(NAME).term_weights == (1.0, -1.0)
