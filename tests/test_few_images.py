"""Runs of fitted detectors on few good images: threshold, p-values, what the lines say."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from tests.factory import tiny_config
from vtadl_jax.data.sources import load_splits
from vtadl_jax.errors import UserError
from vtadl_jax.evaluate import evaluate_run
from vtadl_jax.evaluation.predictor import Predictor
from vtadl_jax.evaluation.trained_run import load_calibration, load_run
from vtadl_jax.run import run

METHODS = (
    "position_gaussian",
    "filter_mixture",
    "patch_memory",
    "subspace",
    "image_mixture",
    "experts",
)
SMALL = {"image_mixture": {"model__mdn__num_components": 2}}


def few_config(dataset, detector="position_gaussian", **fields):
    fields = {"data__category": "plate", "num_train_steps": 0, "num_epochs": 0, **fields}
    return tiny_config(dataset, detector, **fields)


def scores_of(workdir) -> list[dict[str, str]]:
    with (workdir / "scores.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_four_images_calibrate_by_leaving_each_out(dataset, tmp_path, capsys):
    workdir, config = tmp_path / "run", few_config(dataset, data__shots=4)
    results = run(config, workdir)
    said = capsys.readouterr().err
    assert "data.shots: 4 of 20 good training images, chosen by seed 0: train/good/" in said
    assert "4 images to train, 4 of them to calibrate by leave-one-out" in said
    assert "cross-fitted to 4 good images in 4 folds, each without one" in said
    assert "expect 20 % false alarms on average (at most 40 % by theory), and no p-value" in said
    assert (results["calibrated_by"], results["num_folds"]) == ("cross-fit", 4)
    assert results["num_calibration_images"] == results["num_train_images"] == 4
    calibration = load_calibration(load_run(workdir))
    assert len(calibration.good_scores) == 4
    found = [float(row["p_value"]) for row in scores_of(workdir)]
    assert set(found) <= {0.2, 0.4, 0.6, 0.8, 1.0}
    alarms = [float(row["score"]) >= calibration.image_threshold for row in scores_of(workdir)]
    assert alarms == [value == 0.2 for value in found]
    stored = json.loads((workdir / "config.json").read_text())
    assert (stored["eval"]["cross_fit"], stored["data"]["shots"]) == ("on", 4)
    # Every good image as new is known to the detector: it scores below the others.
    predictor = Predictor.from_workdir(workdir)
    name = next(word for word in said.split() if word.startswith("train/good/")).strip(",")
    known = dataset / "plate" / name
    assert predictor(known).p_value > 0.2


@pytest.mark.slow
def test_evaluated_or_continued_the_same_images_are_left_out(dataset, tmp_path):
    workdir, config = tmp_path / "run", few_config(dataset, data__shots=4)
    run(config, workdir)
    before = (workdir / "calibration.json").read_text()
    evaluate_run(workdir, {})
    assert (workdir / "calibration.json").read_text() == before
    run(config, workdir)  # 'auto' stands for what the run decided
    assert (workdir / "calibration.json").read_text() == before


@pytest.mark.slow
@pytest.mark.parametrize("detector", METHODS)
@pytest.mark.parametrize("shots", [1, 2, 3])
def test_every_fitted_method_takes_few_images(dataset, tmp_path, detector, shots):
    config = few_config(dataset, detector, data__shots=shots, **SMALL.get(detector, {}))
    if detector == "image_mixture" and shots < 3:
        with pytest.raises(UserError, match="has one point an image, and 1 is left to fit"):
            run(config, tmp_path / "run")
        return
    results = run(config, tmp_path / "run")
    assert results["num_calibration_images"] == (0 if shots == 1 else shots)
    assert results["calibrated_by"] == ("copies" if shots == 1 else "cross-fit")
    rows = scores_of(tmp_path / "run")
    assert all(np.isfinite(float(row["score"])) for row in rows)
    assert all((row["p_value"] == "") == (shots == 1) for row in rows)


@pytest.mark.slow
def test_one_image_says_what_it_cannot_say(dataset, tmp_path, capsys):
    run(few_config(dataset, data__shots=1), tmp_path / "run")
    said = capsys.readouterr().err
    assert "1 image to train, moved copies of it to scale the scores" in said
    assert "which guarantees nothing, from moved copies of one good image" in said
    assert "note: one good image: nothing can be left out" in said
    prediction = Predictor.from_workdir(tmp_path / "run")(
        next((dataset / "plate" / "test" / "good").iterdir())
    )
    assert prediction.p_value is None
    assert np.isfinite(prediction.score)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3])
def test_good_images_alone_are_reported_as_left_out(dataset, tmp_path, capsys, count):
    folder = tmp_path / "good"
    folder.mkdir()
    for path in sorted((dataset / "plate" / "train" / "good").iterdir())[:count]:
        Image.open(path).save(folder / path.name)
    config = few_config(folder, data__source="folder", data__category="")
    results = run(config, tmp_path / "run")
    said = capsys.readouterr().err
    if count == 1:
        assert "no test images: calibrated only" in said
        assert "note: one good image" in said
        return
    assert results["evaluated_on"] == "calibration"
    calibration = load_calibration(load_run(tmp_path / "run"))
    found = sorted(float(row["score"]) for row in scores_of(tmp_path / "run"))
    np.testing.assert_allclose(found, calibration.good_scores, rtol=1e-5)
    assert "3 good images, no test images" in (tmp_path / "run" / "report.html").read_text()


def test_more_shots_than_images_are_refused(dataset, tmp_path):
    with pytest.raises(UserError, match=r"data\.shots 21: the training set has 20 good images"):
        run(few_config(dataset, data__shots=21), tmp_path / "run")


def test_shots_depend_on_the_seed(dataset, tmp_path, capsys):
    names = []
    for seed in (0, 1, 1):
        splits = load_splits(few_config(dataset, data__shots=3, seed=seed))
        assert len(splits.train) == 3
        names.append([record.name for record in splits.train])
    assert names[0] != names[1] == names[2]
