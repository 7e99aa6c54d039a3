"""Where a run is kept and where its data are: default workdirs, folders named all, moved data."""

import json
import shutil

import pytest

from tests.cli import run_main
from tests.data.factory import noise, write
from tests.factory import tiny_config
from vtadl_jax import sweep
from vtadl_jax.data.files import product_name
from vtadl_jax.experiment import load, name_of
from vtadl_jax.main import default_workdir
from vtadl_jax.options import replace
from vtadl_jax.training.stored import save_config

FITTED = (
    *("--config=configs/position_gaussian.py", "--config.image_size=16,16", "--config.mesh.data=1"),
    *("--config.eval.batch_size=4", "--config.eval.num_pictures=1", "--config.num_epochs=0"),
    *("--config.batch_size=4", "--config.data.source=folder", "--config.data.category="),
)


@pytest.mark.parametrize(
    ("root", "name"),
    [
        ("/a/screw", "screw"),
        ("/a/bottle/good", "bottle-good"),
        ("/a/bottle/train/OK/", "bottle-train-OK"),
        ("/a/b/../cable/images", "cable-images"),
        ("/data/train", "data-train"),
        ("/", ""),
        ("", ""),
    ],
)
def test_the_name_of_a_product(root, name):
    assert product_name(root) == name


def test_the_default_workdir_names_the_product(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def default(root="", category=""):
        config = tiny_config(root, "position_gaussian", data__category=category)
        return default_workdir(config, "x").as_posix()

    assert default("/a/bottle/good") == "runs/x-bottle-good"
    assert default("/a/cable/good") == "runs/x-cable-good"
    assert default("good") == f"runs/x-{tmp_path.name}-good"
    assert default("/a/parts/good", "nut") == "runs/x-nut"
    assert default("/a", "../../nut") == "runs/x-..-..-nut"
    assert default() == "runs/x"
    # A run that an earlier version kept in runs/x-good continues there, that of other data not.
    old = tiny_config("/a/bottle/good", "position_gaussian", data__category="")
    (tmp_path / "runs/x-good").mkdir(parents=True)
    save_config(old, tmp_path / "runs/x-good/config.json")
    assert default("/a/bottle/good") == "runs/x-good"
    assert default("/a/cable/good") == "runs/x-cable-good"


@pytest.mark.parametrize(
    ("stem", "argument", "category", "name"),
    [
        ("demo", "", "plate", "demo"),
        ("demo", "gear", "gear", "demo"),
        ("demo", "vtadl", "plate", "demo-vtadl"),
        ("demo", "vtadl-gear", "gear", "demo-vtadl"),
        ("image_mixture", "mnist-all", "all", "image_mixture-mnist"),
        ("best", "elpv", "", "best-elpv"),
        ("best", "a/b", "", "best-a-b"),
    ],
)
def test_the_argument_of_a_config_names_the_experiment(stem, argument, category, name):
    assert name_of(stem, argument, category) == name


def test_a_category_given_as_a_field_leaves_the_name():
    config, name = load("configs/best.py:screw", ["--config.data.category=nut"])
    assert (config.data.category, name) == ("nut", "best")


def test_a_run_in_the_folder_of_the_old_name_continues(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small, name = load("configs/demo.py:vtadl")
    mixture, _ = load("configs/demo.py")
    assert default_workdir(small, name, "demo").as_posix() == "runs/demo-vtadl-plate"
    assert default_workdir(mixture, "demo", "demo").as_posix() == "runs/demo-plate"
    old = tmp_path / "runs/demo-plate"
    old.mkdir(parents=True)
    save_config(mixture, old / "config.json")  # of the other method
    assert default_workdir(small, name, "demo").as_posix() == "runs/demo-vtadl-plate"
    save_config(small, old / "config.json")
    assert default_workdir(small, name, "demo").as_posix() == "runs/demo-plate"
    (tmp_path / "runs/demo-vtadl-plate").mkdir()
    save_config(small, tmp_path / "runs/demo-vtadl-plate/config.json")
    assert default_workdir(small, name, "demo").as_posix() == "runs/demo-vtadl-plate"


def test_a_sweep_in_the_folder_of_the_old_name_continues(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config, name = load("configs/image_mixture.py:mnist-all", ["--config.data.root=/a"])
    new, old = "runs/image_mixture-mnist-all", tmp_path / "runs/image_mixture-all/3"
    assert default_workdir(config, name, "image_mixture").as_posix() == new
    old.mkdir(parents=True)
    save_config(replace(config, {"data.category": "3"}), old / "config.json")
    assert default_workdir(config, name, "image_mixture").as_posix() == "runs/image_mixture-all"
    other, _ = load("configs/image_mixture.py:kmnist-all", ["--config.data.root=/a"])
    found = default_workdir(other, "image_mixture-kmnist", "image_mixture")
    assert found.as_posix() == "runs/image_mixture-kmnist-all"


def test_a_folder_named_all_is_no_sweep(tmp_path, capsys):
    write(tmp_path / "parts/all/0.png", noise((8, 6)))
    write(tmp_path / "mvtec/all/train/good/0.png", noise((8, 6)))
    write(tmp_path / "mvtec/nut/train/good/0.png", noise((8, 6)))

    def asked(root, source="folder", category="all"):
        fields = {"data__source": source, "data__category": category}
        found, every = sweep.resolve_all(tiny_config(root, "position_gaussian", **fields))
        return every or found.data.source

    assert asked(tmp_path / "parts/all", category="") == "folder"
    assert asked(tmp_path / "parts") == "folder"
    assert asked(tmp_path / "parts", "mvtec_layout") == "folder"
    assert asked(tmp_path / "mvtec", "mvtec_layout") == "mvtec_layout"
    assert "'all' is the one of that name in" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "mvtec/all")
    assert asked(tmp_path / "mvtec", "mvtec_layout") is True
    assert asked("", "mnist") is True
    assert asked("", "mvtec_layout") is True
    assert capsys.readouterr().err == ""


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """A run's workdir and the folder to which its images, defects and masks were moved."""
    root = tmp_path_factory.mktemp("moved")
    for i in range(12):
        write(root / f"one/good/{i}.png", noise((16, 16), i))
    mask = noise((16, 16)) // 128 * 255
    for i in range(4):
        write(root / f"one/bad/{i}.png", noise((16, 16), 20 + i))
        write(root / f"one/masks/{i}.png", mask)
    return root


def train(capsys, root, place, *more):
    places = (("root", "good"), ("bad", "bad"), ("masks", "masks"))
    flags = [f"--config.data.{field}={root / place / folder}" for field, folder in places]
    return run_main(capsys, "vtadl_jax.main", *FITTED, *flags, f"--workdir={root / 'run'}", *more)


def test_data_that_moved_are_evaluated_and_continued(moved, capsys):
    root = moved
    done = train(capsys, root, "one")
    assert done.returncode == 0, done.stderr
    assert "10 images to train, 10 of them to calibrate by leave-one-out" in done.stderr
    assert "(2 good, 4 defective, 4 with a mask); fitted in one pass, no steps" in done.stderr
    before = json.loads((root / "run/results.json").read_text())
    (root / "one").rename(root / "two")
    evaluate = ("vtadl_jax.evaluate", f"--workdir={root / 'run'}")
    done = run_main(capsys, *evaluate, f"--data_root={root}/two/good")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("does not exist: set --data_bad=DIR")
    places = (f"--data_bad={root}/two/bad", f"--data_masks={root}/two/masks")
    done = run_main(capsys, *evaluate, f"--data_root={root}/two/good", *places)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    assert json.loads((root / "run/results.json").read_text())["aupro"] == before["aupro"]
    done = train(capsys, root, "two")
    assert done.returncode == 0, done.stderr
    assert "continuing from step 0" in done.stderr
    # The run knows the new place from now on; what has changed there is told.
    (root / "two/good/11.png").unlink()
    write(root / "two/bad/9.png", noise((16, 16), 99))
    done = run_main(capsys, *evaluate)
    assert done.returncode == 0, done.stderr
    assert "warning: since this run was started, images have changed" in done.stderr
    assert "test images: 1 added (for example bad/9.png)" in done.stderr
    shutil.copytree(root / "two", root / "three")
    write(root / "three/good/0.png", noise((16, 16), 55))
    done = train(capsys, root, "three")
    assert done.returncode == 2
    assert "holds a run of other images (data.root=" in done.stderr.splitlines()[-1]


def test_evaluation_draws_no_data(finished, tmp_path, capsys):
    _, workdir, _ = finished
    shutil.copytree(workdir, tmp_path / "run")
    stored = json.loads((workdir / "config.json").read_text())
    stored["data"] |= {"source": "synthetic", "root": str(tmp_path / "drawn")}
    (tmp_path / "run/config.json").write_text(json.dumps(stored))
    done = run_main(capsys, "vtadl_jax.evaluate", f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 2
    assert "set --data_root=DIR to the folder where training drew them" in done.stderr
    assert not (tmp_path / "drawn").exists()
