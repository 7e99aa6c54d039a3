"""Runs on large images by windows, from training to the exported file."""

import csv

import pytest

from tests.factory import tiny_config
from vtadl_jax.data.synthetic.dataset import make_dataset
from vtadl_jax.evaluate import evaluate_run
from vtadl_jax.evaluation.predictor import Predictor
from vtadl_jax.evaluation.trained_run import load_calibration, load_run
from vtadl_jax.export.saved import save_run
from vtadl_jax.run import run

pytestmark = pytest.mark.slow
WAYS = {
    "fitted": ("filter_mixture", {"num_train_steps": 0, "num_epochs": 0}),
    "trained": ("filter_mixture", {"num_train_steps": 0, "num_epochs": 1}),
    "experts": (
        "experts",
        {
            "num_epochs": 0,
            "num_train_steps": 0,
            "model__use": ("filter_mixture", "position_gaussian"),
        },
    ),
    "masks": ("unet", {"data__anomaly_fraction": 0.3}),
}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    root = tmp_path_factory.mktemp("parts")
    make_dataset(root, image_size=112, num_train=12, num_test_good=2, num_per_defect=1)
    return root


@pytest.mark.parametrize("way", WAYS)
def test_a_run_by_windows_scores_alike_everywhere(parts, tmp_path, way, capsys):
    detector, fields = WAYS[way]
    config = tiny_config(
        parts, detector, data__windows__side=48, data__windows__scales=(1.0, 0.5), **fields
    )
    results = run(config, tmp_path / "run")
    told = capsys.readouterr().err
    assert "windows of 48×48 pixels at scale 1, 0.5" in told
    assert ("positions are those within a window" in told) == (way == "experts")
    if way == "trained":
        assert "training reads 20 crops of 144×144 pixels of 10 images" in told
    with (tmp_path / "run/scores.csv").open() as file:
        rows = {row["name"]: float(row["score"]) for row in csv.DictReader(file)}
    predictor = Predictor.from_workdir(tmp_path / "run")
    found = load_run(tmp_path / "run")
    save_run(found, load_calibration(found), tmp_path / "a.vtadl")
    saved = Predictor.from_file(tmp_path / "a.vtadl")
    for name in list(rows)[:3]:
        path = parts / "gear" / name
        prediction = predictor(path)
        assert prediction.score == pytest.approx(rows[name], rel=1e-5)
        assert saved(path).score == prediction.score
    again = evaluate_run(tmp_path / "run", {})
    assert again["aupro"] == pytest.approx(results["aupro"])
