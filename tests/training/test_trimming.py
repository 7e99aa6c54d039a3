"""Runs that leave their most novel training images out: which, what they store, how they go on."""

import shutil

import numpy as np
import pytest
from PIL import Image

from tests.cli import run_main
from tests.factory import tiny_config, with_fields
from vtadl_jax import evaluate, update
from vtadl_jax.errors import UserError
from vtadl_jax.evaluation.trained_run import load_calibration, load_run
from vtadl_jax.run import run
from vtadl_jax.training import trimming
from vtadl_jax.training.known_images import load_marks
from vtadl_jax.training.setup import make_setup
from vtadl_jax.training.trimming import ranked_size

FITTED = {"detector": "position_gaussian", "num_epochs": 0, "num_train_steps": 0, "mesh__data": 1}
NAME = "train/good/zz_intruder.png"


@pytest.fixture(scope="module")
def mixed(shared, dataset):
    """Drawn parts, one of them with a bright bar across it."""

    def make(folder):
        shutil.copytree(dataset, folder)
        good = folder / "gear" / "train" / "good"
        pixels = np.asarray(Image.open(sorted(good.glob("*.png"))[0])).copy()
        pixels[8:24, 12:18] = 255 - pixels[8:24, 12:18]
        Image.fromarray(pixels).save(good / "zz_intruder.png")
        return folder

    return shared("mixed-parts", make)


@pytest.fixture(scope="module")
def trimmed(shared, mixed):
    config = tiny_config(mixed, data__trim=0.1, **FITTED)

    def fit(folder):
        run(config, folder, report=False)
        return folder

    return config, shared("trimmed-run", fit)


def test_the_run_stores_what_it_left_out(trimmed):
    _, workdir = trimmed
    stored = load_run(workdir).config.data
    assert len(stored.trimmed) == 2  # a tenth of 21
    assert NAME in stored.trimmed
    known = load_marks(workdir)["train"]
    assert len(known) == 19
    assert not set(stored.trimmed) & set(known)


def test_a_run_continues_without_a_new_ranking(trimmed, capsys):
    config, workdir = trimmed
    setup = make_setup(config, workdir)
    assert setup.config.data.trimmed == load_run(workdir).config.data.trimmed
    assert len(setup.records) + len(setup.holdout) >= 19
    assert "images have changed" not in capsys.readouterr().err
    with pytest.raises(UserError, match=r"data\.trim is"):
        make_setup(with_fields(config, data__trim=0.2), workdir)


def test_an_evaluation_has_the_same_images(trimmed, tmp_path, capsys):
    workdir = shutil.copytree(trimmed[1], tmp_path / "run")
    evaluate.evaluate_run(workdir, {})
    assert load_calibration(load_run(workdir)).num_images == 19
    assert "images have changed" not in capsys.readouterr().err


def test_an_update_ranks_again(trimmed):
    config = with_fields(trimmed[0], data__trimmed=("a.png",))
    found = update.updated(config, trimmed[1], [], ("b.png",), 0, 0, 0.0)
    assert (found.data.trimmed, found.data.without) == ((), ("b.png",))


def test_a_list_without_a_share_is_refused(mixed, tmp_path):
    config = tiny_config(mixed, data__trimmed=(NAME,), **FITTED)
    with pytest.raises(UserError, match=r"use data\.without"):
        make_setup(config, tmp_path / "run")


def test_less_than_half_an_image_is_none(mixed, tmp_path, capsys):
    setup = make_setup(tiny_config(mixed, data__trim=0.02, **FITTED), tmp_path / "run")
    assert setup.config.data.trimmed == ()
    assert "none is left out" in capsys.readouterr().err


def test_filters_rank_small_images_at_their_size():
    assert ranked_size((512, 640)) == (256, 256)
    assert ranked_size((28, 30)) == (32, 32)
    assert ranked_size((100, 64)) == (96, 64)


def test_the_check_lists_suspects_that_an_update_takes(mixed, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(trimming, "SIZE", (32, 32))
    folder = tmp_path / "found"
    done = run_main(
        capsys,
        "vtadl_jax.prepare",
        "--check",
        "--suspects",
        f"--source={mixed}",
        "--category=gear",
        f"--suspects_dir={folder}",
        "--suspects_count=3",
    )
    assert done.returncode == 0, done.stderr
    assert "gear: 21 training images" in done.stdout
    names = update.names_of(str(folder / "suspects.txt"))
    assert len(names) == 3
    assert all(name.startswith("train/good/") for name in names)
    table = (folder / "suspects.csv").read_text().splitlines()
    assert len(table) == 22
    assert table[1].split(",")[:2] == ["1", names[0]]
    page = (folder / "suspects.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 3
    assert "http" not in page


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--suspects"], "give --check and --source"),
        (["--suspects_count=3", "--check", "--source=x"], "is read with --check --suspects only"),
        (["--suspects", "--check", "--source=x", "--features=resnet18"], "needs both"),
    ],
)
def test_flags_that_do_not_fit_are_refused(flags, said, capsys):
    done = run_main(capsys, "vtadl_jax.prepare", *flags)
    assert done.returncode == 2
    assert said in done.stderr
