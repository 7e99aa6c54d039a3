"""Drift: an alarm soon after a change, none while nothing changes, at the stated rate."""

import dataclasses

import numpy as np
import pytest

from vtadl_jax.evaluation.calibration import Calibration, calibrate
from vtadl_jax.evaluation.drift import SCORE, DriftMonitor, Stream
from vtadl_jax.evaluation.novelty import STATISTICS, describe

SIDE = 24


def images_of(count, seed, brightness=100.0, spread=6.0):
    rng = np.random.default_rng(seed)
    level = rng.normal(brightness, spread, (count, 1, 1, 1))
    noise = rng.normal(0, 9, (count, SIDE, SIDE, 3))
    return np.clip(level + noise, 0, 255).astype(np.uint8)


def calibration_of(count=40, seed=0):
    terms = np.random.default_rng(seed).normal(size=(count, 1))
    described = describe(images_of(count, seed))
    return calibrate(("only",), terms, None, weights=(1.0,), descriptions=described)


def follow(monitor, images, scores):
    at = monitor.calibration.image_threshold if hasattr(monitor, "calibration") else np.inf
    return [
        alarm
        for row, score in zip(describe(images), scores, strict=True)
        for alarm in monitor.add(row, score, score >= at)
    ]


def test_darker_images_raise_an_alarm_that_says_since_when():
    monitor = DriftMonitor(calibration_of())
    rng = np.random.default_rng(9)
    assert not follow(monitor, images_of(100, 1), rng.normal(size=100))
    alarms = follow(monitor, images_of(100, 2, brightness=85), rng.normal(size=100))
    first = next(alarm for alarm in alarms if alarm.quantity == "mean brightness")
    assert not first.larger
    assert 95 <= first.since <= 110
    assert first.since < first.at < 160
    assert first.after < first.before
    assert "the images are darker" in first.sentence()
    assert [alarm.quantity for alarm in alarms].count("mean brightness") == 1


def test_higher_scores_of_good_images_raise_an_alarm():
    monitor = DriftMonitor(calibration_of())
    rng = np.random.default_rng(3)
    alarms = follow(monitor, images_of(200, 4), rng.normal(size=200) * 0.3 + 1)
    assert SCORE in {alarm.quantity for alarm in alarms}


def test_defective_images_are_no_drift_of_the_score():
    monitor = DriftMonitor(calibration_of())
    described = describe(images_of(200, 5))
    assert not [a for row in described for a in monitor.add(row, 50.0, True)]


def test_few_streams_of_equal_images_ever_raise_an_alarm():
    rng, runs, limit = np.random.default_rng(0), 200, np.log(1 / 0.05)
    raised = 0
    for seed in range(runs):
        values = rng.normal(size=260)
        stream = Stream(values[:60].tolist(), np.random.default_rng(seed))
        raised += max(stream.add(value) for value in values[60:]) >= limit
    assert raised / runs <= 0.05 + 0.02  # two standard errors are 0.03


def test_equal_values_are_no_change():
    stream = Stream([0.0] * 30, np.random.default_rng(1))
    assert max(stream.add(0.0) for _ in range(500)) < np.log(100)


def test_the_statistics_of_good_images_are_stored_and_checked(tmp_path):
    calibration = calibration_of()
    calibration.save(tmp_path / "calibration.json")
    assert Calibration.load(tmp_path / "calibration.json") == calibration
    assert np.shape(calibration.good_statistics) == (40, len(STATISTICS))
    broken = calibration.to_dict() | {"good_statistics": [[1.0, "x"]]}
    with pytest.raises(ValueError, match="good_statistics"):
        Calibration.from_dict(broken)


def test_runs_of_older_versions_follow_nothing():
    older = dataclasses.replace(calibration_of(), good_statistics=(), good_scores=())
    monitor = DriftMonitor(older)
    assert not monitor.quantities
    assert not monitor.add(np.zeros(71), 0.0, False)
