"""Prediction on odd folders, full disks and broken scores: every image is judged or named, and the
scores so far stay. The detector is a line, and nothing is trained."""

import csv
import os
import signal

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tests.cli import run_main
from tests.data.factory import fails, write
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.detectors.contract import Detector, Scores
from vtadl_jax.evaluation.calibration import calibrate
from vtadl_jax.evaluation.novelty import describe
from vtadl_jax.evaluation.predictor import Predictor
from vtadl_jax.report import predictions

PART = np.random.default_rng(0).integers(90, 110, (16, 16), np.uint8)


def brightness(_, images):
    """Scores the brightest pixel; not at all if all are 7."""
    bright = jnp.where((images == 7).all(), jnp.nan, images.astype(jnp.float32).mean(-1) / 255)
    return Scores(bright.max((1, 2))[:, None], bright, None)


def make_predictor(bits=0, channels=1, batch_size=1, good=None, **options):
    detector = Detector(lambda key: {}, brightness, ("brightest",), (1.0,))
    terms = np.array([[0.4], [0.45], [0.42]])
    described = None if good is None else describe(good)
    calibration = calibrate(("brightest",), terms, terms, weights=(1.0,), descriptions=described)
    geometry = Geometry((16, 16), bits=bits)
    options |= {"channels": channels, "batch_size": batch_size}
    return Predictor(detector, {}, geometry, calibration, **options)


@pytest.fixture(scope="module")
def predictor():
    return make_predictor()


@pytest.fixture
def run(predictor, monkeypatch, tmp_path, capsys):
    """Runs the command on tmp_path / 'in'; returns (exit code, stderr, rows by name)."""
    monkeypatch.setattr(Predictor, "from_workdir", lambda *_, **__: predictor)

    def run(*flags, output="out"):
        arguments = ("--workdir=w", f"--input={tmp_path / 'in'}", f"--output={tmp_path / output}")
        done = run_main(capsys, "vtadl_jax.predict", *arguments, *flags)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stderr, rows_of(tmp_path / output / "predictions.csv")

    return run


def rows_of(path):
    if not path.is_file():
        return None
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {row["name"]: row for row in rows}


def test_every_file_is_judged_or_named(run, tmp_path):
    folder = tmp_path / "in"
    for name in ("a.png", "b.webp", "te\udcefl.png", "=1+1.png", "E.PNG"):
        write(folder / name, PART)
    write(folder / "c.jfif", PART, format="JPEG")
    write(folder / "d.gif", PART)
    write(folder / "dark.png", np.full((16, 16), 7, np.uint8))
    (folder / "empty.tif").write_bytes(b"")
    os.mkfifo(folder / "pipe.png")
    (folder / "notes.txt").write_text("x")
    code, said, rows = run()
    assert code == 1
    expected = ["'=1+1.png", "a.png", "b.webp", "c.jfif", "E.PNG", "te\\xefl.png"]
    assert list(rows) == expected
    assert "6 of 10 images scored" in said
    assert "notes.txt" in said
    left = rows_of(tmp_path / "out" / "left_out.csv")
    assert sorted(left) == ["d.gif", "dark.png", "empty.tif", "pipe.png"]
    assert "score is nan" in left["dark.png"]["reason"]
    assert all(name in said for name in left)
    for row in rows.values():
        assert (tmp_path / "out" / "overlays" / row["overlay"]).is_file()
        assert np.load(tmp_path / "out" / "maps" / row["map"]).shape == (16, 16)


def test_an_image_unlike_all_training_images_is_defective_with_its_reason(
    run, monkeypatch, tmp_path
):
    good = np.random.default_rng(1).integers(90, 110, (20, 16, 16, 1), np.uint8)
    predictor = make_predictor(good=good, threshold=1e6)
    monkeypatch.setattr(Predictor, "from_workdir", lambda *_, **__: predictor)
    write(tmp_path / "in" / "part.png", PART)
    write(tmp_path / "in" / "lamp.png", PART // 10)
    code, said, rows = run()
    assert code == 0
    assert (rows["part.png"]["decision"], rows["part.png"]["unlike_training"]) == ("good", "")
    assert rows["lamp.png"]["decision"] == "defective"
    assert "darker than the darkest" in rows["lamp.png"]["unlike_training"]
    assert "lamp.png is unlike all training images: " in said
    assert predictor(PART // 10).is_defective


def test_images_that_share_a_name_have_overlays_and_maps_of_their_own(run, tmp_path):
    for name in ("a.png", "a.jpg", "a.jpg.png", "A.png", "x" * 248 + ".png"):
        write(tmp_path / "in" / name, PART)
    code, _, rows = run("--maps=tiff")
    assert code == 0
    for column in ("overlay", "map"):
        assert len({row[column].casefold() for row in rows.values()}) == 5
    assert rows["a.jpg"]["map"] == "a.jpg.tiff"


def test_overlays_of_large_images_are_drawn_from_a_reduced_one(run, tmp_path):
    write(tmp_path / "in" / "a.png", np.tile(PART, (100, 5)))
    assert run()[0] == 0
    assert np.load(tmp_path / "out" / "maps" / "a.png.npy").shape == (1600, 80)
    assert run("--maps=none", output="out2")[0] == 0
    pictures = []
    for output in ("out", "out2"):
        with Image.open(tmp_path / output / "overlays" / "a.png") as picture:
            pictures.append(np.asarray(picture).astype(int))
    assert np.abs(pictures[0] - pictures[1]).mean() < 2


@pytest.mark.parametrize("flag", ["--threshold=nan", "--threshold=inf"])
def test_a_threshold_is_a_number(run, tmp_path, flag):
    write(tmp_path / "in" / "a.png", PART)
    code, said, rows = run(flag)
    assert (code, rows) == (2, None)
    assert said.startswith(f"error: {flag.replace('=', ' ')}: give a finite number")
    with fails("threshold nan"):
        make_predictor(threshold=np.nan)


def test_a_score_that_is_no_number_is_no_decision(predictor):
    with fails("the score is nan"):
        predictor(np.full((16, 16), 7, np.uint8))


@pytest.mark.parametrize("error", [28, 13])  # disk full, permission denied
@pytest.mark.parametrize("place", ["save_picture", "save_map"])
def test_scores_so_far_are_kept_if_something_cannot_be_written(
    run, tmp_path, monkeypatch, place, error
):
    for i in range(4):
        write(tmp_path / "in" / f"{i}.png", PART)
    real, calls = getattr(predictions, place), []

    def failing(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            with predictions.writing(tmp_path / "x"):
                raise OSError(error, os.strerror(error))
        return real(*arguments)

    monkeypatch.setattr(predictions, place, failing)
    code, said, rows = run()
    assert code == 2
    assert f"error: {tmp_path / 'x'} can't be written ({os.strerror(error)})" in said
    assert list(rows) == ["0.png", "1.png", "2.png"]
    assert "3 of 4 images scored" in said


def test_an_output_that_cannot_be_made(run, tmp_path):
    write(tmp_path / "in" / "a.png", PART)
    (tmp_path / "file").write_text("x")
    code, said, _ = run(output="file/out")
    assert code == 2
    assert said.count("\n") == 1
    assert "Not a directory" in said


def test_scores_so_far_are_kept_if_it_is_told_to_stop(run, tmp_path, monkeypatch):
    for i in range(4):
        write(tmp_path / "in" / f"{i}.png", PART)
    real = predictions.save_picture

    def stopping(picture, folder, name):
        real(picture, folder, name)
        if name == "2.png":
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(predictions, "save_picture", stopping)
    before = signal.getsignal(signal.SIGTERM)
    code, said, rows = run()
    assert code == 143
    assert list(rows) == ["0.png", "1.png", "2.png"]
    assert "3 of 4 images scored" in said
    assert signal.getsignal(signal.SIGTERM) is before


def test_bits_reach_every_way_in(tmp_path):
    values = PART.astype(np.uint16) * 16
    path = write(tmp_path / "a.png", values)
    twelve, sixteen = make_predictor(bits=12), make_predictor()
    ways = [path, str(path), path.read_bytes(), bytearray(path.read_bytes()), values]
    with Image.open(path) as opened:
        scores = {p.score for p in twelve([*ways, opened])}
    assert len(scores) == 1
    assert scores != {sixteen(values).score}
    assert sixteen(path).score == sixteen(values).score
