"""New good images in a run: equal to a fit of all of them; the old run stays as it is."""

import json
import shutil

import jax
import numpy as np
import pytest

from tests.cli import run_main
from tests.factory import tiny_config
from vtadl_jax import run, update
from vtadl_jax.data.sorted_images import KIND, checksum
from vtadl_jax.data.sources.layouts import mvtec_layout
from vtadl_jax.evaluation.predictor import Predictor
from vtadl_jax.evaluation.trained_run import load_run
from vtadl_jax.training.known_images import load_marks

FITTED = {"detector": "position_gaussian", "num_epochs": 0, "num_train_steps": 0, "mesh__data": 1}


@pytest.fixture(scope="module")
def parts(shared, dataset):
    """(data, more): drawn parts with two thirds of the good images, and a folder of the others."""

    def split(folder):
        data, more = folder / "data", folder / "more"
        shutil.copytree(dataset, data)
        more.mkdir()
        images = sorted((data / "gear" / "train" / "good").glob("*.png"))
        for image in images[14:]:
            shutil.move(image, more / image.name)
        return data, more

    return shared("update-parts", split)


@pytest.fixture(scope="module")
def workdir(shared, parts):
    def fit(folder):
        run.run(tiny_config(parts[0], **FITTED), folder)
        return folder

    return shared("update-run", fit)


def updating(capsys, *arguments):
    return run_main(capsys, "vtadl_jax.update", *arguments)


def test_an_update_equals_a_fit_of_all_images(workdir, parts, dataset, tmp_path, capsys):
    before = sorted(path.read_bytes() for path in workdir.glob("*.json"))
    arguments = (f"--workdir={workdir}", f"--good={parts[1]}", f"--output={tmp_path / 'new'}")
    done = updating(capsys, *arguments)
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert "data.more: 6 good images" in said
    assert "of the 6 added images defective" in said
    assert "image_auroc" in said
    run.run(tiny_config(dataset, **FITTED), tmp_path / "whole")
    names = [set(load_marks(tmp_path / name)["train"]) for name in ("new", "whole")]
    assert [len(each) for each in names] == [20, 20]
    new, whole = (load_run(tmp_path / name) for name in ("new", "whole"))
    held_out = new.config.eval.cross_fit
    assert held_out == whole.config.eval.cross_fit
    # Few images are cross-fitted, so that both are fitted to all twenty, in another order.
    for a, b in zip(*(tree_of(found) for found in (new, whole)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert sorted(path.read_bytes() for path in workdir.glob("*.json")) == before


def test_updates_are_remembered_and_can_be_gone_back_to(workdir, parts, tmp_path, capsys):
    paths = sorted(parts[1].glob("*.png"))[:2]
    entries = [{"name": p.name, "sha256": checksum(p), "sorted": "good"} for p in paths]
    entries.append({"name": "gone.png", "sha256": "", "sorted": "good"})
    file = tmp_path / "sorted.json"
    file.write_text(json.dumps({"kind": KIND, "root": str(parts[1]), "images": entries}))
    first, second = tmp_path / "first", tmp_path / "second"
    done = updating(capsys, f"--workdir={workdir}", f"--sorted={file}", f"--output={first}")
    assert done.returncode == 0, done.stderr
    assert f"not added: {parts[1] / 'gone.png'}" in done.stdout + done.stderr
    assert "of the 2 added images defective" in done.stdout + done.stderr
    name = f"more/0/{paths[0].name}"
    done = updating(capsys, f"--workdir={first}", f"--remove={name}", f"--output={second}")
    assert done.returncode == 0, done.stderr
    assert [len(load_marks(each)["train"]) for each in (first, second)] == [16, 15]
    assert "<h2>Updates</h2>" in (second / "report.html").read_text()
    shown = updating(capsys, f"--workdir={second}", "--history").stdout
    assert f"update 1 added: {name}, more/1/{paths[1].name}" in shown
    assert f"update 2 removed: {name}" in shown
    back = tmp_path / "back"
    done = updating(capsys, f"--workdir={second}", "--back=1", f"--output={back}")
    assert done.returncode == 0, done.stderr
    scores = [Predictor.from_workdir(each)(paths[0]).score for each in (first, back)]
    assert scores[0] == scores[1]
    assert "was not updated" in updating(capsys, f"--workdir={workdir}", "--history").stdout


def tree_of(found, *part):
    variables = found.variables[part[0]] if part else found.variables
    return jax.tree.leaves(jax.device_get(variables))


def test_images_are_left_out_by_name_or_by_a_file_of_names(workdir, parts, tmp_path, capsys):
    names = [record.name for record in mvtec_layout(parts[0], "gear").train[:3]]
    (tmp_path / "names.txt").write_text("\n".join(names[1:]) + "\n")
    for number, removed in enumerate((names[0], str(tmp_path / "names.txt"))):
        out = tmp_path / str(number)
        done = updating(capsys, f"--workdir={workdir}", f"--remove={removed}", f"--output={out}")
        assert done.returncode == 0, done.stderr
        left = set(load_marks(out)["train"])
        assert len(left) == 14 - (1 + number)
        assert not left & set(names[:1] if number == 0 else names[1:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing would change"),
        (("--remove=no/such.png",), "not among the 14 training images"),
        (("--good=/no/such/folder",), "no images there"),
        (("--good=MORE", "--steps=5"), "is fitted and has no steps"),
        (("--good=MORE", "--ewc=5"), "is fitted and has no steps"),
        (("--sorted=/no/such.json",), "such.json can't be read"),
        (("--back=0",), "has 0 updates"),
        (("--back=0", "--good=MORE"), "takes no --good"),
    ],
)
def test_mistakes_end_in_one_line(workdir, parts, tmp_path, capsys, arguments, message):
    given = [argument.replace("MORE", str(parts[1])) for argument in arguments]
    done = updating(capsys, f"--workdir={workdir}", f"--output={tmp_path / 'new'}", *given)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_a_trained_method_starts_from_the_old_weights(parts, tmp_path, capsys):
    config = tiny_config(parts[0], detector="autoencoder", model__latent_dim=8, mesh__data=1)
    run.run(config, tmp_path / "old")
    arguments = (f"--workdir={tmp_path / 'old'}", f"--good={parts[1]}", "--steps=2")
    done = updating(capsys, *arguments, f"--output={tmp_path / 'new'}")
    assert done.returncode == 0, done.stderr
    assert "starting from step 4" in done.stdout + done.stderr
    old, new = (load_run(tmp_path / name) for name in ("old", "new"))
    assert new.step == 2
    pairs = zip(tree_of(old, "params"), tree_of(new, "params"), strict=True)
    apart = [np.abs(a - b).max() for a, b in pairs]
    assert 0 < max(apart) < 0.01  # two steps of Adam at 1e-3 away
    assert np.isfinite(Predictor.from_workdir(tmp_path / "new")(np.zeros((32, 32), np.uint8)).score)


@pytest.mark.slow
def test_a_second_update_takes_a_share_of_the_first_run(parts, tmp_path, capsys):
    sizes = {"model__latent_dim": 8, "mesh__data": 1, "num_train_steps": 10}
    run.run(tiny_config(parts[0], detector="autoencoder", **sizes), tmp_path / "run0")
    images = sorted(parts[1].glob("*.png"))
    for number in (1, 2):
        (tmp_path / f"good{number}").mkdir()
        shutil.copy(images[number], tmp_path / f"good{number}")
        arguments = [f"--workdir={tmp_path / f'run{number - 1}'}", f"--ewc={50 * number}"]
        arguments += [
            f"--good={tmp_path / f'good{number}'}",
            f"--output={tmp_path / f'run{number}'}",
        ]
        done = updating(capsys, *arguments)
        assert done.returncode == 0, done.stderr
    assert "start_penalty 100: weighted by" in done.stdout + done.stderr
    assert [load_run(tmp_path / f"run{i}").step for i in range(3)] == [10, 2, 2]
    last = load_run(tmp_path / "run2")
    assert "start" not in last.variables["frozen"]
    with np.load(tmp_path / "run2" / "frozen.npz") as stored:
        old = {name: stored[name] for name in stored.files if name.startswith("start/params")}
        fisher = [stored[name] for name in stored.files if name.startswith("start/fisher")]
    before = tree_of(load_run(tmp_path / "run1"), "params")
    assert len(old) == len(before)
    assert max(array.max() for array in fisher) > 0
    assert "consolidation" in (tmp_path / "run2" / "metrics.jsonl").read_text()


def test_names_may_have_spaces_around_them():
    assert update.names_of(" a.png, b.png ,") == ("a.png", "b.png")
