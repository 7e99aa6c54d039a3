"""Scoring new images: the same results as evaluation, at every image's own size."""

import csv
import dataclasses
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.cli import run_main
from tests.factory import tiny_config
from vtadl_jax import evaluate, run
from vtadl_jax.data.sources.layouts import mvtec_layout
from vtadl_jax.errors import UserError
from vtadl_jax.evaluation.predictor import Predictor
from vtadl_jax.evaluation.scoring import Evaluator
from vtadl_jax.evaluation.trained_run import load_calibration, load_run
from vtadl_jax.runtime import sharding


@pytest.fixture(scope="module")
def workdir(shared, dataset):
    """A VT-ADL that was trained on one device; not to be changed."""

    def train(folder):
        run.run(tiny_config(dataset, mesh__data=1), folder)
        return folder

    return shared("predicting", train)


def rows_of(path):
    with path.open() as f:
        return {row["name"]: row for row in csv.DictReader(f)}


@pytest.mark.slow
def test_predicting_the_test_folder_gives_the_scores_of_evaluation(
    dataset, workdir, tmp_path, capsys
):
    out = tmp_path / "out"
    folder = dataset / "gear" / "test"
    arguments = (f"--workdir={workdir}", f"--input={folder}", f"--output={out}")
    done = run_main(capsys, "vtadl_jax.predict", *arguments)
    assert done.returncode == 0, done.stderr
    found, expected = rows_of(out / "predictions.csv"), rows_of(workdir / "scores.csv")
    assert {f"test/{name}" for name in found} == expected.keys()
    predictor = Predictor.from_workdir(workdir)
    for name, row in found.items():
        assert f"{float(row['score']):.7g}" == expected[f"test/{name}"]["score"]
        flagged = float(row["score"]) >= float(row["threshold"])
        assert row["decision"] == ("defective" if flagged else "good")
        anomaly_map = np.load(out / "maps" / f"{name}.npy")
        assert anomaly_map.shape == (32, 32)
        assert anomaly_map.dtype == np.float32
        assert (out / "overlays" / name).is_file()
    assert float(row["threshold"]) == pytest.approx(predictor.calibration.image_threshold)


@pytest.mark.slow
def test_scores_and_maps_are_those_of_evaluation_bit_for_bit(dataset, workdir):
    mesh = sharding.make_mesh(1)
    found = load_run(workdir, mesh)
    records = mvtec_layout(dataset, "gear").test
    evaluator = Evaluator(found.config, found.detector, found.geometry, mesh)
    outputs = evaluator.run(found.variables, records, "evaluate")
    predictor = Predictor.from_workdir(workdir)
    predictions = predictor([record.image for record in records])
    scores = load_calibration(found).image_scores(outputs.terms)
    np.testing.assert_array_equal([p.score for p in predictions], scores)
    for prediction, anomaly_map in zip(predictions, outputs.maps, strict=True):
        np.testing.assert_array_equal(prediction.anomaly_map, anomaly_map)


@pytest.mark.slow
def test_several_devices_score_as_one_does(dataset, workdir):
    found = load_run(workdir)
    rest = {"channels": found.config.data.channels, "batch_size": 2}
    parts = (found.detector, found.variables, found.geometry, load_calibration(found))
    one = Predictor(*parts, **rest)
    two = Predictor(*parts, **rest, mesh=sharding.make_mesh(2))
    paths = [record.image for record in mvtec_layout(dataset, "gear").test[:5]]
    for a, b in zip(one(paths), two(paths), strict=True):
        for name, value in a.terms.items():
            assert b.terms[name] == pytest.approx(value, rel=1e-4, abs=1e-5)
        np.testing.assert_allclose(a.anomaly_map, b.anomaly_map, rtol=1e-4, atol=1e-4)
        assert np.abs(a.recon.astype(int) - b.recon).max() <= 1
    with pytest.raises(UserError, match="batch_size 1 is not divisible by 2"):
        Predictor(*parts, batch_size=1, mesh=sharding.make_mesh(2))


@pytest.mark.slow
def test_an_image_may_come_in_any_form_and_size(dataset, workdir):
    path = sorted((dataset / "gear" / "test" / "good").glob("*.png"))[0]
    predictor = Predictor.from_workdir(workdir)
    pixels = np.array(Image.open(path))
    forms = [path, str(path), Image.open(path), pixels, (pixels / 255).astype(np.float32)]
    scores = {predictor(form).score for form in forms}
    assert len(scores) == 1
    large = predictor(Image.open(path).resize((75, 50)))
    assert large.anomaly_map.shape == (50, 75)
    assert set(large.terms) == set(predictor.calibration.terms)
    assert large.is_defective == (large.score >= large.threshold)
    together = predictor([pixels] * 11)
    assert {p.score for p in together} == scores


@pytest.mark.slow
def test_many_images_compile_once(workdir):
    found, traced = load_run(workdir), []

    def score(variables, images):
        traced.append(images.shape)
        return found.detector.score(variables, images)

    detector = dataclasses.replace(found.detector, score=score)
    calibration = load_calibration(found)
    predictor = Predictor(detector, found.variables, found.geometry, calibration, batch_size=8)
    rng = np.random.default_rng(0)
    for count in (8, 1, 11, 3):
        height, width = rng.integers(9, 60, 2)
        images = list(rng.integers(0, 256, (count, height, width, 3), np.uint8))
        assert len(predictor(images)) == count
    assert traced == [(8, 32, 32, 3)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8), np.int32), "image of int32: give uint8"),
        (np.full((8, 8, 3), 2.0), "values from 2 to 2: scale it"),
        (np.zeros((8, 8, 5), np.uint8), "uint8"),
    ],
)
def test_what_is_not_an_image_is_refused(workdir, image, message):
    with pytest.raises(UserError, match=message):
        Predictor.from_workdir(workdir)(image)


@pytest.mark.slow
def test_unreadable_files_are_named_and_skipped(dataset, workdir, tmp_path, capsys):
    folder = tmp_path / "in put"
    shutil.copytree(dataset / "gear" / "test" / "good", folder / "a")
    (folder / "a" / "broken.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("not looked at")
    out = tmp_path / "out"
    arguments = (f"--workdir={workdir}", f"--input={folder}", f"--output={out}", "--maps=tiff")
    done = run_main(capsys, "vtadl_jax.predict", *arguments, "--nooverlays", "--threshold=-1e9")
    assert done.returncode == 1
    assert "broken.png" in done.stderr
    assert "4 of 5 images scored" in done.stderr
    rows = rows_of(out / "predictions.csv")
    assert len(rows) == 4
    assert {row["decision"] for row in rows.values()} == {"defective"}
    with Image.open(out / "maps" / f"{next(iter(rows))}.tiff") as image:
        assert image.mode == "F"
    assert not (out / "overlays").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": "{tmp}/none"}, "no images there"),
        ({"workdir": "{tmp}"}, "is not a run, it has no config.json: train first"),
        ({"workdir": "{tmp}/none"}, "none: give the workdir of a run"),
        ({"output": ""}, "no --output: give it (Folder for the results; must be new or empty.)"),
        ({"output": "{data}"}, "is not an empty folder: give another"),
        ({"workdir": ""}, "no --workdir"),
    ],
)
def test_mistakes_end_in_one_line(dataset, workdir, tmp_path, capsys, change, message):
    arguments = {"workdir": str(workdir), "input": str(dataset), "output": str(tmp_path / "o")}
    arguments |= {k: v.format(tmp=tmp_path, data=dataset) for k, v in change.items()}
    flags = [f"--{k}={v}" for k, v in arguments.items()]
    done = run_main(capsys, "vtadl_jax.predict", *flags)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "o").exists()


@pytest.mark.slow
def test_a_stale_calibration_is_not_used_but_the_checkpoints_own(workdir, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(workdir, copy)
    own = Predictor.from_workdir(copy).calibration
    text = (copy / "calibration.json").read_text()
    (copy / "calibration.json").write_text(text.replace('"step": 4', '"step": 2'))
    assert Predictor.from_workdir(copy).calibration == own
    evaluate.evaluate_run(copy, {"image_false_alarm_rate": 0.5})
    assert Predictor.from_workdir(copy).calibration.image_false_alarm_rate == 0.5


@pytest.mark.parametrize(
    ("command", "flag"),
    [("predict", "--input"), ("evaluate", "--data_root"), ("experiments", "--plan")],
)
def test_help_shows_the_usage_and_the_flags(capsys, command, flag):
    for argument in ("--help", "-help"):
        done = run_main(capsys, f"vtadl_jax.{command}", argument)
        assert done.returncode == 0
        assert f"python -m vtadl_jax.{command} " in done.stdout
        assert flag in done.stdout
        assert done.stderr == ""
