"""Fitted detectors run through the same program as trained ones."""

import json

import jax
import numpy as np
import pytest

from tests.factory import tiny_config
from vtadl_jax import run
from vtadl_jax.data.pipeline import eval_batches
from vtadl_jax.data.records import Record
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.detectors.contract import Detector, Fit
from vtadl_jax.errors import UserError
from vtadl_jax.evaluation.predictor import Predictor
from vtadl_jax.evaluation.trained_run import load_run
from vtadl_jax.training.fitting import collect, fit_variables
from vtadl_jax.training.setup import make_setup

FITTED = {
    "detector": "filter_mixture",
    "data__channels": 1,
    "num_train_steps": 0,
    "num_epochs": 0,
    "mesh__data": 1,
    "eval__cross_fit": "off",
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
def test_a_projection_that_was_drawn_is_kept_with_the_run(dataset, tmp_path):
    fields = {
        **FITTED,
        "detector": "position_gaussian",
        "model__features": "filters",
        "model__gaussian__feature_dim": 4,
    }
    config, workdir = tiny_config(dataset, **fields), tmp_path / "run"
    first = run.run(config, workdir)
    again = run.run(config, workdir)
    assert again["pixel_auroc"] == first["pixel_auroc"]
    stats = load_run(workdir).variables["stats"]
    assert np.shape(stats["projection"]) == (20, 4)
    image = np.random.default_rng(0).integers(0, 255, (32, 32), np.uint8)
    scores = {Predictor.from_workdir(workdir)(image).score for _ in range(2)}
    assert len(scores) == 1


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


@pytest.mark.parametrize("reduced", [False, True])
def test_a_fit_gets_the_rows_of_all_images_or_what_it_made_of_each_batch(
    dataset, tmp_path, reduced
):
    config = tiny_config(dataset, **FITTED, eval__batch_size=7)
    setup = make_setup(config, tmp_path / "run")
    assert len(setup.records) % 7  # the last batch is filled up with rows that do not count
    sizes = []

    def gather(variables, images, key):
        del variables, key
        return {"mean": images.astype("float32").mean((1, 2))}

    def reduce(accumulated, rows):
        sizes.append(len(rows["mean"]))
        return (0.0 if accumulated is None else accumulated) + rows["mean"].sum(0)

    def solve(variables, gathered, rng):
        del variables, rng
        return {"sum": gathered if reduced else gathered["mean"].sum(0)}

    fit = Fit(gather, solve, reduce if reduced else None)
    detector = Detector(dict, lambda variables, images: images, (), (), fit=fit)
    found = fit_variables(detector, {}, setup.records, setup.geometry, config)
    want = sum(np.float64(image).mean((0, 1)) for image in pixels(setup.records, setup.geometry))
    np.testing.assert_allclose(found["sum"], want, rtol=1e-5)
    assert sizes == ([7, 7, len(setup.records) - 14] if reduced else [])


def pixels(records: list[Record], geometry: Geometry):
    for batch in eval_batches(records, geometry, 1, len(records), 1):
        yield from batch["image"]


def test_rows_of_batches_are_joined():
    rows = [{"a": np.full((n, 2), n)} for n in (2, 3)]
    fit = Fit(lambda *_: None, lambda *_: {})
    found = collect(fit, iter(rows))
    assert jax.tree.map(np.shape, found) == {"a": (5, 2)}
