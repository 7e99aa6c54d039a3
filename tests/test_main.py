"""The whole program on rendered parts: the files of a run, and bad folders."""

import csv
import functools
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tests.cli import run_cli, run_main
from tests.factory import tiny_config, with_fields
from tests.training.steps import QUICK
from vtadl_jax import metrics, run
from vtadl_jax.data.records import Record
from vtadl_jax.errors import UserError
from vtadl_jax.evaluate import evaluate_run
from vtadl_jax.evaluation.trained_run import load_calibration, load_run
from vtadl_jax.report.opening import announce
from vtadl_jax.report.summary import shown
from vtadl_jax.runtime.lock import locked
from vtadl_jax.training.division import Division

NUM_TEST = 4 + 5 * 2


def test_results_agree_with_the_scores_that_were_written(finished):
    _, workdir, results = finished
    stored = json.loads((workdir / "results.json").read_text())
    assert stored == results
    with (workdir / "scores.csv").open() as f:
        rows = list(csv.DictReader(f))
    assert len(rows) == results["num_test_images"] == NUM_TEST
    labels = np.array([int(r["label"]) for r in rows])
    assert labels.sum() == results["num_anomalous"] == 10
    scores = np.array([float(r["score"]) for r in rows])
    assert metrics.auroc(scores, labels) == pytest.approx(results["image_auroc"])
    for term, value in results["image_auroc_by_term"].items():
        assert metrics.auroc(np.array([float(r[term]) for r in rows]), labels) == pytest.approx(
            value
        )


def test_scores_are_the_sum_of_standardised_terms(finished):
    _, workdir, _ = finished
    calibration = json.loads((workdir / "calibration.json").read_text())
    with (workdir / "scores.csv").open() as f:
        rows = list(csv.DictReader(f))
    for row in rows:
        z = [
            (float(row[name]) - mean) / spread
            for name, mean, spread in zip(
                calibration["terms"], calibration["mean"], calibration["spread"], strict=True
            )
        ]
        assert sum(z) == pytest.approx(float(row["score"]), rel=1e-3, abs=1e-3)


def test_a_run_leaves_pictures_logs_and_config(finished):
    _, workdir, _ = finished
    assert len(list((workdir / "overlays").glob("*.png"))) == NUM_TEST
    with Image.open(workdir / "overview.png") as sheet:
        assert sheet.width > sheet.height / 40
    assert json.loads((workdir / "config.json").read_text())["image_size"] == [32, 48]
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert {"train/nll", "train/mse", "train/dissimilarity"} <= lines[0].keys()
    assert [line["step"] for line in lines if "eval/aupro" in line] == [2, 4]
    assert list((workdir / "tensorboard").iterdir())


@pytest.mark.slow
def test_rerunning_a_finished_run_only_evaluates(dataset, tmp_path, capsys):
    config, workdir = tiny_config(dataset, **QUICK), tmp_path / "run"
    results = run.run(config, workdir)
    assert "compiled the train step" in capsys.readouterr().err
    again = run.run(config, workdir)
    assert "compiled the train step" not in capsys.readouterr().err
    assert again["image_auroc"] == results["image_auroc"]
    assert again["aupro"] == results["aupro"]


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished run, to be spoilt."""
    return shutil.copytree(finished[1], tmp_path / "copy")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model.mdn.num_components", 5),
        ("model.decoder.features", [8, 8, 8, 4]),
        ("data.category", "washer"),
        ("seed", 3),
    ],
)
def test_a_config_of_another_run_than_the_checkpoint_is_refused(copied, field, value):
    path = copied / "config.json"
    stored = json.loads(path.read_text())
    *groups, name = field.split(".")
    functools.reduce(dict.__getitem__, groups, stored)[name] = value
    path.write_text(json.dumps(stored))
    with pytest.raises(UserError, match=rf"copy/config\.json is of another run .*: {field} is "):
        load_run(copied)


@pytest.mark.parametrize(
    "text", ["", "[]", "null", '{"detector": 5}', '{"detector": "vtadl", "data": 1}']
)
def test_a_config_of_another_kind_is_told_in_one_line(copied, text):
    (copied / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"copy/config\.json") as told:
        load_run(copied)
    assert "\n" not in str(told.value)


def test_a_calibration_of_another_detector_is_refused(copied):
    path = copied / "calibration.json"
    stored = json.loads(path.read_text())
    path.write_text(json.dumps({**stored, "terms": ["a", "b", "c"]}))
    with pytest.raises(UserError, match="is calibrated for another detector, with the terms a, b"):
        load_calibration(load_run(copied))


def test_a_folder_of_checkpoints_behind_a_link_is_not_written_to(finished, copied, tmp_path):
    (copied / "checkpoints").rename(tmp_path / "elsewhere")
    (copied / "checkpoints").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"copy/checkpoints is a link, and nothing is written"):
        run.run(finished[0], copied)
    assert load_run(copied).step == 4


def test_a_workdir_in_use_is_refused(finished, copied):
    config, _, _ = finished
    with locked(copied):
        for start in (lambda: run.run(config, copied), lambda: evaluate_run(copied, {})):
            with pytest.raises(UserError, match=r"copy is in use by process \d+ on"):
                start()
        assert load_run(copied).step == 4  # reading needs no lock


def test_the_page_tells_no_place_of_this_machine(finished, dataset):
    _, workdir, _ = finished
    page = (workdir / "report.html").read_text()
    assert str(dataset.parent) not in page
    assert f"data.root = &#x27;{dataset.name}&#x27;" in page
    assert str(Path.home()) not in page


@pytest.mark.parametrize(
    ("value", "root", "wanted"),
    [
        ("runs/ann/vit.npz", "parts", "vit.npz"),
        ("/home/ann/secret/parts", "/home/ann/secret/parts", "parts"),
        ("../ann/parts/", "../ann/parts/", "parts"),
        ("/home/ann/secret/parts/bad/a", "/home/ann/secret/parts", "bad/a"),
        ("~/weights/vit.npz", "parts", "vit.npz"),
        ("C:\\Users\\ann\\vit.npz", "parts", "vit.npz"),
        (("/home/ann/a", "b/c"), "", ("a", "c")),
        ("screw", "/data/screw", "screw"),
        (3, "/data", 3),
    ],
)
def test_a_place_is_shown_by_its_end(value, root, wanted):
    assert shown("init_from", value, root) == wanted


def test_folders_inside_the_data_are_shown_whole():
    assert shown("data.category", "line/screw", "/data") == "line/screw"
    assert shown("data.category", "/home/ann/screw", "/data") == "screw"


def test_another_config_in_the_same_workdir_is_refused(finished):
    config, workdir, _ = finished
    other = with_fields(config, seed=3)
    before = (workdir / "config.json").read_text()
    with pytest.raises(UserError, match="seed is 0 there and 3 here"):
        run.run(other, workdir)
    assert (workdir / "config.json").read_text() == before


def test_a_folder_that_is_no_run_is_refused(dataset, tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="is not a run"):
        run.run(tiny_config(dataset), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["letter.txt"]


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
def test_channels_as_the_images_are(dataset, tmp_path, mode, channels):
    for name in ("train", "test"):
        shutil.copytree(dataset / "gear" / name, tmp_path / "gear" / name)
    paths = sorted(tmp_path.rglob("*.png"))
    for number, path in enumerate(paths):
        image = Image.open(path).convert(mode)
        if mode == "RGB":
            image.putpixel((number % 32, 3), (200, 0, 0))
        image.save(path)
    config = tiny_config(
        tmp_path, detector="position_gaussian", data__channels=0, num_epochs=0, num_train_steps=0
    )
    for _ in range(2):  # the second continues the first
        run.run(config, tmp_path / "run")
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert stored["data"]["channels"] == channels


@pytest.mark.slow
def test_defects_without_masks_and_no_test_images(dataset, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(dataset / "gear", root / "gear")
    shutil.rmtree(root / "gear" / "ground_truth")
    results = run.run(tiny_config(root, **QUICK), tmp_path / "no_masks")
    assert results["image_auroc"] is not None
    assert results["aupro"] is results["pixel_auroc"] is None
    assert results["num_without_mask"] == 10
    shutil.rmtree(root / "gear" / "test")
    results = run.run(tiny_config(root, **QUICK), tmp_path / "no_test")
    assert results["num_test_images"] == 0
    assert (tmp_path / "no_test" / "calibration.json").exists()


def truncate(folder):
    image = folder / "train" / "good" / "003.png"
    image.write_bytes(image.read_bytes()[:200])
    return str(image)


def empty_train(folder):
    shutil.rmtree(folder / "train" / "good")
    (folder / "train" / "good").mkdir()
    return str(folder / "train" / "good")


def orphan_mask(folder):
    (folder / "test" / "dent" / "001.png").unlink()
    return str(folder / "ground_truth" / "dent" / "001_mask.png")


def small_mask(folder):
    mask = folder / "ground_truth" / "dent" / "001_mask.png"
    with Image.open(mask) as image:
        image.resize((16, 16)).save(mask)
    return str(mask)


def broken_header(folder):
    image = folder / "test" / "good" / "002.png"
    image.write_bytes(b"not a picture")
    return str(image)


@pytest.mark.parametrize(
    "spoil",
    [truncate, empty_train, orphan_mask, small_mask, broken_header],
    ids=lambda f: f.__name__,
)
def test_bad_folders_are_one_line_that_names_the_file(dataset, tmp_path, spoil):
    root = tmp_path / "data"
    shutil.copytree(dataset / "gear", root / "gear")
    named = spoil(root / "gear")
    workdir = tmp_path / "run"
    with pytest.raises(UserError) as error:
        run.run(tiny_config(root, **QUICK, mesh__data=1), workdir)
    assert named in str(error.value)
    assert "\n" not in str(error.value)
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("needs", "repeats", "steps", "said"),
    [
        ((), 1, 7, "3 images to train, 1 to calibrate, 3 to test (1 good, 2 defective, 1 with a"),
        ((), 1, 7, "; 7 steps on "),
        ((), 1, 0, "; fitted in one pass, no steps, on "),
        (
            ("mask",),
            2,
            7,
            "4 images to train (1 of them defective, 1 with a mask, defective ones",
        ),
        (("label",), 1, 7, "4 images to train (1 of them defective), 1 to calibrate"),
    ],
)
def test_the_first_line_has_the_numbers(capsys, needs, repeats, steps, said):
    good, bare = (Record(np.zeros((2, 2), np.uint8), None, n, "x", str(n)) for n in (0, 1))
    marked = Record(good.image, good.image, 1, "x", "marked")
    train = [Record(good.image, None, 0, "good", f"train/{i}") for i in range(3)]
    setup = SimpleNamespace(
        records=[*train, *[marked] * repeats] if needs else train,
        holdout=[good],
        division=Division(tuple(train), (good,)),
        test=[good, bare, marked],
        category="nut",
        num_steps=steps,
        workdir="w",
        mesh=SimpleNamespace(size=1),
        config=SimpleNamespace(detector="x", data=SimpleNamespace(balanced_batches=False)),
        assembly=SimpleNamespace(detector=SimpleNamespace(needs=needs)),
    )
    announce(setup)
    assert said in capsys.readouterr().err


def test_unknown_category_lists_the_known_ones(dataset):
    with pytest.raises(UserError, match=r"did you mean 'gear'.*gear, nut, plate"):
        run.run(tiny_config(dataset, **QUICK, data__category="gaer"), dataset / "never")


def test_a_batch_larger_than_the_data_set_is_refused(dataset, tmp_path):
    with pytest.raises(UserError, match="batch_size 64 is larger than the 16 training images"):
        run.run(tiny_config(dataset, **QUICK, batch_size=64), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_command_trains_and_says_where_to_look(dataset, tmp_path, capsys):
    arguments = (
        "--config", "configs/image_mixture.py", "--config.data.source=mvtec_layout",
        f"--config.data.root={dataset}", "--config.data.category=gear",
        "--config.image_size=32,32", "--config.num_train_steps=2", "--config.log_every_steps=1",
        "--config.eval.num_pictures=2", "--config.batch_size=8", "--config.eval.batch_size=8",
        "--config.mesh.data=1", "--workdir", str(tmp_path / "run"),
    )  # fmt: skip
    done = run_main(capsys, "vtadl_jax.main", *arguments)
    assert done.returncode == 0, done.stderr
    for said in ("step 2/2", "16 images to train, 4 to calibrate, 14 to test", "report.html"):
        assert said in done.stderr
    assert len(list((tmp_path / "run" / "overlays").iterdir())) == 2
    again = run_main(capsys, "vtadl_jax.main", *arguments, "--config.num_train_steps=3")
    assert again.returncode == 0, again.stderr
    assert "continuing from step 2" in again.stderr
    assert "step 3/3" in again.stderr


@pytest.mark.optimized
def test_the_demo_finds_its_defects(tmp_path):
    result = run_cli(
        "vtadl_jax.main", "--config", "configs/demo.py",
        f"--config.data.root={tmp_path / 'demo'}", "--config.eval.num_pictures=2",
        "--workdir", str(tmp_path / "run"),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert found["image_auroc"] > 0.97
    assert found["aupro"] > 0.93
    decisions = found["at_threshold"]["image"]
    assert decisions["tp"] >= 0.85 * found["num_anomalous"]
    assert decisions["fp"] <= 2
    assert len(list((tmp_path / "run" / "overlays").iterdir())) == 2
