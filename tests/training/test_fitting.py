"""Fitted detectors run through the same program as trained ones."""

import json

import numpy as np
import pytest

from tests.factory import tiny_config
from vtadl_jax import run
from vtadl_jax.errors import UserError
from vtadl_jax.evaluation.predictor import Predictor

FITTED = {
    "detector": "filter_mixture",
    "data__channels": 1,
    "num_train_steps": 0,
    "num_epochs": 0,
    "mesh__data": 1,
    "eval__term_weights": (1.0, 0.0),
}


def test_a_fitted_run_is_evaluated_kept_and_not_fitted_again(dataset, tmp_path, capsys):
    fine = {"model__filters__stride": 4, "eval__map_sigma": 1.0}  # of images of 32 × 32
    config, workdir = tiny_config(dataset, **FITTED, **fine), tmp_path / "run"
    first = run.run(config, workdir)
    assert "fitted to" in capsys.readouterr().err
    assert first["step"] == 0
    assert json.loads((workdir / "results.json").read_text())["pixel_auroc"] > 0.6
    again = run.run(config, workdir)
    assert "fitted to" not in capsys.readouterr().err
    assert again["pixel_auroc"] == first["pixel_auroc"]
    image = np.zeros((40, 30), np.uint8)
    assert Predictor.from_workdir(workdir)(image).anomaly_map.shape == (40, 30)


def test_a_network_needs_steps(dataset, tmp_path):
    config = tiny_config(dataset, num_train_steps=0, num_epochs=0, mesh__data=1)
    with pytest.raises(UserError, match="num_epochs 0"):
        run.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_training_goes_on_from_what_was_fitted(dataset, tmp_path):
    fields = {
        **FITTED,
        "detector": "context_mdn",
        "num_train_steps": 4,
        "eval__term_weights": (0.0, 1.0, 0.0),
        "model__context__windows": (1, 2),
    }
    results = run.run(tiny_config(dataset, **fields), tmp_path / "run")
    assert results["step"] == 4
    assert 0 <= results["image_auroc"] <= 1
