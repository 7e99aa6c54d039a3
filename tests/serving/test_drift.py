"""Drift alarms of a service: told once, with the time, per model, in bounded memory."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

from tests.serving.fakes import CALIBRATION, FakeModel
from vtadl_jax.evaluation.novelty import STATISTICS
from vtadl_jax.serving import drift as module
from vtadl_jax.serving.drift import Drift


@pytest.fixture
def models():
    rows = np.random.default_rng(0).normal(0.5, 0.1, (60, len(STATISTICS)))
    plate, old = FakeModel(), FakeModel()
    plate.calibration = dataclasses.replace(
        CALIBRATION, good_scores=(), good_statistics=tuple(map(tuple, rows.tolist()))
    )
    old.calibration = dataclasses.replace(CALIBRATION, good_scores=())
    return {"plate": plate, "old": old}


def image(rng, shift=0.0):
    description = rng.normal(0.5 + shift, 0.1, len(STATISTICS))
    return SimpleNamespace(description=description, score=0.1, is_defective=False)


def test_an_alarm_is_told_once_and_counted(models, capfd):
    told = []
    drift = Drift(models, lambda *alarm: told.append(alarm))
    rng = np.random.default_rng(1)
    for _ in range(100):
        drift.add("plate", image(rng))
        drift.add("old", image(rng, 1.0))  # nothing to compare with
    assert told == []
    for _ in range(150):
        drift.add("plate", image(rng, 0.5))
    assert sorted(told) == sorted(("plate", statistic.name) for statistic in STATISTICS)
    out, err = capfd.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert {line["event"] for line in lines} == {"drift"}
    assert len(lines) == len(told)
    assert "drift of model plate: since 20" in err


def test_the_test_starts_anew_and_repeats_an_alarm(models, monkeypatch):
    monkeypatch.setattr(module, "RESTART", 150)
    told = []
    drift = Drift(models, lambda *alarm: told.append(alarm))
    rng = np.random.default_rng(1)
    for _ in range(450):
        drift.add("plate", image(rng, 0.5))
        assert len(drift._times["plate"]) <= 150
    assert len(told) == 3 * len(STATISTICS)


def test_predictions_without_a_description_are_not_followed(models):
    drift = Drift(models)
    drift.add("plate", SimpleNamespace(description=None, score=0.1, is_defective=False))
    assert drift._monitors["plate"].count == 0


def test_a_fault_here_takes_no_score_away(models, capfd):
    wrong = SimpleNamespace(description=np.zeros(1), score=0.1, is_defective=False)
    Drift(models).add("plate", wrong)
    assert "drift: IndexError" in capfd.readouterr().out
