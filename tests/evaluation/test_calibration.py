"""Scales and thresholds from normal images."""

import dataclasses
import json

import numpy as np
import pytest

from tests.factory import tiny_config
from vtadl_jax.detectors.contract import Detector, Scores
from vtadl_jax.errors import UserError
from vtadl_jax.evaluation.calibration import (
    COPIES,
    CROSS_FIT,
    Calibration,
    calibrate,
    expected_rate,
    largest_rate,
    threshold_for,
)
from vtadl_jax.experiment import term_weights


def test_calibrated_normals_have_zero_mean_and_unit_spread():
    rng = np.random.default_rng(0)
    terms = rng.normal((1e4, 0.1, -3), (100, 0.01, 5), size=(200, 3))
    calib = calibrate(("a", "b", "c"), terms, rng.normal(size=(200, 4, 4)), weights=(0, 2, 1))
    z = calib.standardise(terms)
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(z.std(0, ddof=1), 1, rtol=1e-9)
    np.testing.assert_allclose(calib.image_scores(terms), 2 * z[:, 1] + z[:, 2])


@pytest.mark.parametrize("terms", [[[2.0, 0.0]], [[2.0, 0.0], [2.0, 0.0]]])
def test_no_spread_still_gives_finite_scores(terms):
    calib = calibrate(("a", "b"), np.array(terms), np.zeros((1, 2, 2)), weights=(1, 1))
    assert np.isfinite(calib.standardise(np.array([[3.0, 1.0]]))).all()
    assert calib.map_high > calib.map_low
    assert np.isfinite([calib.image_threshold, calib.pixel_threshold]).all()


def test_weights_must_match_the_terms():
    detector = Detector(
        lambda key: {}, lambda variables, images: Scores(images), ("a", "b"), (1, 2)
    )
    assert term_weights(tiny_config(), detector) == (1, 2)
    with pytest.raises(UserError, match="give 2 numbers, for a, b"):
        term_weights(tiny_config(eval__term_weights=(1.0,)), detector)
    with pytest.raises(UserError, match="give one that is not 0"):
        term_weights(tiny_config(eval__term_weights=(0.0, 0.0)), detector)


def test_without_maps_there_is_no_pixel_threshold(tmp_path):
    calib = calibrate(("a",), np.arange(9.0)[:, None], None, weights=(1,))
    assert calib.pixel_threshold is None
    assert calib.map_low < calib.map_high
    calib.save(tmp_path / "calibration.json")
    assert Calibration.load(tmp_path / "calibration.json") == calib


def test_a_threshold_keeps_its_rate_on_new_values():
    """Split conformal prediction: over many draws, new values reach it at most at the rate."""
    rng = np.random.default_rng(1)
    alarms = [
        (rng.normal(size=200) >= threshold_for(rng.normal(size=39), 0.1)).mean() for _ in range(500)
    ]
    assert 0.08 < np.mean(alarms) < 0.105


@pytest.mark.parametrize(("rate", "rank"), [(0.5, 5), (0.2, 8), (0.1, 9), (0.01, 9)])
def test_a_threshold_is_just_above_a_rank(rate, rank):
    values = np.random.default_rng(2).permutation(np.arange(1.0, 10.0))
    threshold = threshold_for(values, rate)
    assert (values >= threshold).sum() == 9 - rank
    assert threshold == np.nextafter(rank, np.inf)


def test_p_values_of_good_images_are_valid_and_fall_with_the_score():
    rng = np.random.default_rng(2)
    rates = []
    for _ in range(300):
        calib = calibrate(("a",), rng.normal(size=(19, 1)), None, weights=(1,))
        p_values = calib.p_values(calib.image_scores(rng.normal(size=(50, 1))))
        rates.append((p_values <= 0.1).mean())
    assert 0.08 < np.mean(rates) < 0.115
    calib = calibrate(("a",), np.arange(9.0)[:, None], None, weights=(1,))
    at_scores = calib.p_values(np.array([*calib.good_scores, 1e9, -1e9]))
    np.testing.assert_allclose(at_scores, [*np.arange(10, 1, -1) / 10, 0.1, 1.0])


def test_runs_of_older_versions_have_no_p_value():
    calib = calibrate(("a",), np.arange(9.0)[:, None], None, weights=(1,))
    stored = calib.to_dict()
    del stored["good_scores"], stored["good_terms"]
    assert Calibration.from_dict(stored).p_value(0.0) is None


def test_saved_and_loaded_it_is_the_same(tmp_path):
    rng = np.random.default_rng(3)
    calib = calibrate(
        ("a", "b"), rng.normal(size=(9, 2)), rng.normal(size=(9, 3, 3)), weights=(1, 2), keep=("b",)
    )
    path = tmp_path / "calibration.json"
    dataclasses.replace(calib, step=7).save(path)
    assert Calibration.load(path) == dataclasses.replace(calib, step=7)
    path.write_text('{"step": 7}')
    with pytest.raises(UserError, match=r"calibration.json is not a calibration .*evaluate"):
        Calibration.load(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image_threshold", "2"),
        ("image_threshold", float("nan")),
        ("pixel_threshold", float("inf")),
        ("image_false_alarm_rate", None),
        ("mean", None),
        ("mean", [1.0, float("nan")]),
        ("spread", [1.0, 0.0]),
        ("spread", [1.0, -2.0]),
        ("weights", [1, 2, 3]),
        ("weights", ["1", 2]),
        ("weights", [True, 2]),
        ("terms", []),
        ("terms", "ab"),
        ("map_high", -9.0),
        ("step", -1),
        ("num_images", 2.5),
        ("good_scores", [2.0, 1.0]),
        ("good_scores", 3),
        ("good_terms", {"a": [2.0, 1.0]}),
        ("good_terms", {"c": [1.0]}),
        ("good_terms", [1.0]),
        ("colour", 1),
    ],
)
def test_a_file_with_values_that_no_calibration_has_is_told(tmp_path, field, value):
    rng = np.random.default_rng(4)
    calib = calibrate(("a", "b"), rng.normal(size=(9, 2)), rng.normal(size=9), weights=(1, 2))
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps({**dataclasses.asdict(calib), field: value}))
    with pytest.raises(UserError, match=f"json is not a calibration .*{field}"):
        Calibration.load(path)


def test_scores_that_are_no_numbers_give_no_calibration():
    terms = np.array([[1.0, np.nan], [2.0, 1.0]])
    with np.errstate(all="ignore"):
        calib = calibrate(("a", "b"), terms, np.zeros(4), weights=(1, 1))
    assert calib.fault() == f"mean is {calib.mean!r}"


@pytest.mark.parametrize(("count", "rate"), [(4, 0.05), (19, 0.05), (39, 0.1), (100, 0.05)])
def test_the_expected_rate_is_that_of_the_threshold(count, rate):
    rng = np.random.default_rng(0)
    drawn = rng.normal(size=(4000, count + 1))
    alarms = np.mean([row[-1] >= threshold_for(row[:-1], rate) for row in drawn])
    expected = expected_rate(count, rate)
    assert expected <= max(rate, 1 / (count + 1)) + 1e-9
    assert alarms == pytest.approx(expected, abs=3 * (expected / 4000) ** 0.5)


def test_bounds_of_cross_fitting():
    assert largest_rate(0.05, 30, 0) == 0.05
    assert largest_rate(0.2, 4, 4) == pytest.approx(0.4)  # leave-one-out
    assert largest_rate(0.05, 40, 10) == pytest.approx(0.1 + (1 - 10 / 40) / 11)
    assert largest_rate(1 / 2, 1, 1) == 1.0


@pytest.mark.parametrize("count", [2, 4, 10])
def test_left_out_scores_keep_the_rate_of_a_nearest_neighbour(count):
    """The detector that is used knows all images, those that set the threshold one less."""
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(2000):
        known, new = rng.normal(size=(count, 2)), rng.normal(size=2)
        apart = np.hypot(*(known[:, None] - known).T) + 1e9 * np.eye(count)
        alarms += np.hypot(*(known - new).T).min() >= threshold_for(apart.min(0), 0.01)
    assert alarms / 2000 < 1 / (count + 1) + 0.02


def test_what_calibrated_is_kept(tmp_path):
    terms = np.arange(5.0)[:, None]
    fields = {"weights": (1,), "num_folds": 5}
    crossed = calibrate(("a",), terms, None, calibrated_by=CROSS_FIT, **fields)
    crossed.save(tmp_path / "calibration.json")
    assert Calibration.load(tmp_path / "calibration.json") == crossed
    assert crossed.num_images == len(crossed.good_scores) == 5
    one = calibrate(("a",), terms, None, calibrated_by=COPIES, **fields)
    assert (one.num_images, one.good_scores, one.p_value(1.0)) == (0, (), None)
    stored = crossed.to_dict() | {"calibrated_by": "guessing"}
    with pytest.raises(ValueError, match="calibrated_by is 'guessing'"):
        Calibration.from_dict(stored)
