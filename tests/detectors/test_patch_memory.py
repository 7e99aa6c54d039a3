"""The memory bank: distances to normal patches, size, metric, and rejected options."""

import jax
import numpy as np
import pytest

from tests.factory import tiny_config
from vtadl_jax.errors import UserError
from vtadl_jax.experiment import make_detector
from vtadl_jax.networks.features import FeatureOptions, FilterOptions, make_features
from vtadl_jax.ops.neighbours import nearest_distances_reference
from vtadl_jax.ops.resize import upsample_maps

FIELDS = {"model__filters__sigmas": (1, 2), "model__filters__stride": 8}


def fitted(images, **fields):
    config = tiny_config(detector="patch_memory", **{**FIELDS, **fields})
    detector = make_detector(config)
    variables = detector.init(jax.random.key(0))
    gathered = jax.device_get(detector.fit.gather(variables, images, jax.random.key(1)))
    solved = detector.fit.solve(variables, gathered, np.random.default_rng(0))
    assert jax.tree.map(np.shape, solved) == jax.tree.map(np.shape, variables)
    return detector, solved


def noise(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_a_part_that_no_normal_image_has_is_distant(metric):
    good = np.clip(noise(8) // 8 + 100, 0, 255).astype(np.uint8)
    detector, variables = fitted(good, model__memory__size=60, model__memory__metric=metric)
    bad = good[:2].copy()
    bad[1, 8:16, 8:16] = 255
    scores = detector.score(variables, bad)
    assert scores.recon is None
    assert scores.terms[1, 0] > 1.1 * scores.terms[0, 0]
    if metric == "euclidean":  # the cosine distance localizes poorly here
        y, x = np.unravel_index(int(scores.anomaly_map[1].argmax()), (32, 32))
        assert 4 <= y < 20
        assert 4 <= x < 20


@pytest.mark.slow
def test_copies_fill_a_bank_that_is_too_large_and_change_no_nearest_distance():
    images, new = noise(2), noise(1, seed=5)
    found = []
    for size in (32, 100):
        detector, variables = fitted(images, model__memory__size=size)
        bank = variables["stats"]["bank"]
        assert len(bank) == size
        found.append((len(np.unique(bank, axis=0)), detector.score(variables, new).terms))
    (few, _), (many, _) = found
    assert few <= many <= 32


def test_several_neighbours_of_a_bank_of_copies_are_rejected():
    with pytest.raises(UserError, match=r"model\.memory\.size 1000: the training images give"):
        fitted(noise(1), model__memory__size=1000, model__memory__neighbours=2)


@pytest.mark.slow
def test_the_score_matches_the_definition():
    images = noise(3)
    detector, variables = fitted(
        images, model__memory__size=20, model__memory__neighbours=2, eval__map_sigma=0.0
    )
    stats = variables["stats"]
    options = FeatureOptions(filters=FilterOptions(stride=8, sigmas=(1, 2)))
    features = make_features(options, 99, (32, 32), 3)
    placed = (np.asarray(features.responses({}, images)) - stats["mean"]) / stats["spread"]
    expected = nearest_distances_reference(placed.reshape(-1, placed.shape[-1]), stats["bank"], 2)
    expected = expected.reshape(3, -1)
    terms = np.asarray(detector.score(variables, images).terms)
    np.testing.assert_allclose(terms[:, 1], expected.mean(1), rtol=1e-4)
    maps = np.asarray(upsample_maps(expected.reshape(3, 4, 4), (32, 32)))
    np.testing.assert_allclose(terms[:, 0], maps.max((1, 2)), rtol=1e-4)


def test_a_bank_of_all_patches_gives_one_minus_the_largest_cosine():
    images, new = noise(2), noise(2, seed=5)
    fields = {"metric": "one_minus_cosine", "score": "patches", "patches": 0, "size": 32}
    fields |= {"standardise": False}
    detector, variables = fitted(images, **{f"model__memory__{k}": v for k, v in fields.items()})
    options = FeatureOptions(filters=FilterOptions(stride=8, sigmas=(1, 2)))
    features = make_features(options, 99, (32, 32), 3)
    good, bad = (
        np.float64(features.responses({}, x)).reshape(-1, features.width) for x in (images, new)
    )
    good, bad = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (good, bad))
    nearest = nearest_distances_reference(good, variables["stats"]["bank"])
    assert nearest.max() < 1e-5
    distances = (1 - (bad @ good.T).max(1)).reshape(2, -1)
    terms = np.asarray(detector.score(variables, new).terms)
    np.testing.assert_allclose(terms[:, 1], distances.mean(1), rtol=1e-4)
    np.testing.assert_allclose(terms[:, 0], distances.max(1), rtol=1e-4)  # 1 % of 16 is one
