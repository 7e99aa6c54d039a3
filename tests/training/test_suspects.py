"""The ranking of training images: what it finds, its p-values, and the regression behind it."""

import numpy as np
import pytest

from vtadl_jax.data.records import Record
from vtadl_jax.errors import UserError
from vtadl_jax.networks import context_ridge
from vtadl_jax.training.suspects import (
    FILTERS,
    Network,
    Ranking,
    image_scores,
    mirrored,
    rank_images,
    resized,
)

SIZE = (64, 64)


def stripes(rng, defective=False):
    """Diagonal stripes at a random phase, with a scratch if defective."""
    row, column = np.mgrid[: SIZE[0], : SIZE[1]]
    image = 128 + 60 * np.sin((row + column) / 5 + rng.uniform(0, 6)) + rng.normal(0, 4, SIZE)
    if defective:
        image[20:40, 28:34] = 230
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def records():
    rng = np.random.default_rng(0)
    return [Record(stripes(rng, i in (3, 11)), None, 0, "good", f"{i:02}.png") for i in range(16)]


@pytest.fixture(scope="module")
def ranking(records) -> Ranking:
    return rank_images(records, SIZE, num_threads=0, show=False)


def test_intruders_come_first(ranking):
    assert {record.name for record in ranking.first(2)} == {"03.png", "11.png"}
    assert ranking.num_above >= 2
    assert ranking.p_values[[3, 11]].max() <= np.delete(ranking.p_values, [3, 11]).min()


def test_the_map_shows_the_place(ranking):
    row, column = np.unravel_index(ranking.maps[3].argmax(), ranking.maps[3].shape)
    assert 1 <= row <= 6  # of 8, around pixels 20 to 40
    assert 2 <= column <= 5  # around pixels 28 to 34


def test_the_same_images_have_the_same_ranking(records, ranking):
    again = rank_images(records, SIZE, num_threads=2, show=False)
    np.testing.assert_array_equal(again.scores, ranking.scores)


def test_p_values_mirror_the_scores_below_the_median():
    found = mirrored(np.array([-3.0, -2, -1, 0, 1, 2, 10]))
    np.testing.assert_allclose(found, [1, 1, 1, 1, 1, 0.75, 0.25])


def test_a_level_that_all_places_share_adds_nothing():
    maps = np.random.default_rng(0).normal(size=(3, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(image_scores(maps + 5), image_scores(maps), atol=1e-4)


def test_maps_of_another_grid_are_enlarged():
    maps = np.arange(4.0).reshape(1, 2, 2)
    want = np.repeat(np.repeat(maps, 2, 1), 2, 2)
    np.testing.assert_array_equal(resized(maps, (4, 4)), want)
    np.testing.assert_array_equal(resized(maps, (2, 2)), maps)


def test_features_of_a_second_kind_are_added(records):
    network = Network(FILTERS, {}, SIZE)
    twice = rank_images(records, SIZE, num_threads=0, network=network, show=False)
    assert {record.name for record in twice.first(2)} == {"03.png", "11.png"}


def test_an_unreadable_image_is_named(records, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"bad\.png"):
        rank_images([*records, Record(bad, None, 0, "good", "bad.png")], SIZE, show=False)


def test_the_regression_is_least_squares_with_a_ridge():
    rng = np.random.default_rng(0)
    rows, targets = rng.normal(size=(60, 7)), rng.normal(size=(60, 3))
    found = context_ridge.fit_ridge(rows.astype(np.float32), targets.astype(np.float32))
    wanted = context_ridge.fit_reference(rows, targets)
    np.testing.assert_allclose(found.mean, wanted, atol=2e-5)
    residual = targets - rows @ wanted
    np.testing.assert_allclose(
        np.linalg.inv(found.precision), residual.T @ residual / 60, rtol=1e-3, atol=1e-4
    )
