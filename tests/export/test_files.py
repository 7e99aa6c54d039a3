"""Files of exports: the same scores as the workdir, without its packages; damage is refused."""

import hashlib
import json
import zipfile

import numpy as np
import pytest

from tests.cli import run_cli, run_main
from tests.factory import tiny_config
from vtadl_jax import run
from vtadl_jax.errors import UserError
from vtadl_jax.evaluation.predictor import Predictor
from vtadl_jax.evaluation.trained_run import load_calibration, load_run
from vtadl_jax.export import bundle, stablehlo
from vtadl_jax.export.saved import save_run

HEAVY = ("orbax", "grain", "optax", "tensorstore", "tensorflow", "tensorflow_datasets", "torch")
FITTED = {"detector": "position_gaussian", "num_epochs": 0, "num_train_steps": 0, "mesh__data": 1}


@pytest.fixture(scope="module")
def workdir(shared, dataset):
    """A fitted run; not to be changed."""

    def fit(folder):
        run.run(tiny_config(dataset, **FITTED), folder)
        return folder

    return shared("exported", fit)


@pytest.fixture(scope="module")
def saved(shared, workdir):
    def write(path):
        found = load_run(workdir)
        save_run(found, load_calibration(found), path)
        return path

    return shared("saved-file", write)


@pytest.fixture(scope="module")
def program(shared, workdir):
    def write(path):
        found = load_run(workdir)
        stablehlo.export_run(found, load_calibration(found), path, ["cpu"])
        return path

    return shared("program-file", write)


def images_of(*sides, count=3):
    shape = (count, *sides, 3)
    return list(np.random.default_rng(1).integers(0, 256, shape, np.uint8))


def test_a_saved_run_scores_as_its_workdir_bit_for_bit(workdir, saved):
    theirs, ours = Predictor.from_file(saved), Predictor.from_workdir(workdir)
    for a, b in zip(theirs(images_of(40, 60)), ours(images_of(40, 60)), strict=True):
        assert (a.score, a.p_value, a.terms) == (b.score, b.p_value, b.terms)
        assert (a.threshold, a.is_defective) == (b.threshold, b.is_defective)
        assert a.unlike_training == b.unlike_training
        np.testing.assert_array_equal(a.anomaly_map, b.anomaly_map)


@pytest.mark.slow
def test_a_program_scores_as_its_workdir_whatever_the_size(workdir, program, dataset):
    theirs, ours = Predictor.from_file(program, batch_size=2), Predictor.from_workdir(workdir)
    good = sorted((dataset / "gear" / "test" / "good").glob("*.png"))[:2]
    for images in (images_of(40, 60), [*images_of(32, 32, count=1), *images_of(9, 50)], good):
        for a, b in zip(theirs(images), ours(images), strict=True):
            assert a.score == pytest.approx(b.score, rel=1e-4, abs=1e-4)
            assert a.is_defective == b.is_defective
            assert bool(a.unlike_training) == bool(b.unlike_training)
            np.testing.assert_allclose(a.anomaly_map, b.anomaly_map, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_thresholds_of_a_program_change_without_another_export(program):
    image = images_of(32, 32, count=1)[0]
    usual, strict = (Predictor.from_file(program, threshold=t)(image) for t in (None, -1e9))
    assert strict.is_defective
    assert (strict.score, strict.threshold) == (usual.score, -1e9)


@pytest.mark.slow
def test_weights_may_be_inside_the_program(workdir, program, tmp_path):
    found = load_run(workdir)
    path = tmp_path / "inside.stablehlo"
    stablehlo.export_run(found, load_calibration(found), path, ["cpu"], weights_inside=True)
    assert not bundle.read_bundle(path).arrays()
    image = images_of(32, 32, count=1)[0]
    both = [Predictor.from_file(file)(image).score for file in (path, program)]
    assert both[0] == pytest.approx(both[1], rel=1e-5)
    with pytest.raises(UserError, match="is inside the program"):
        Predictor.from_file(path, threshold=1.0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["saved", "program"])
def test_a_fresh_process_needs_no_package_of_training(kind, request, tmp_path):
    file = request.getfixturevalue(kind)
    np.save(tmp_path / "image.npy", images_of(40, 30)[0])
    done = run_cli(
        "-c",
        "import sys, numpy as np; from vtadl_jax import Predictor; "
        f"p = Predictor.from_file({str(file)!r})(np.load({str(tmp_path / 'image.npy')!r})); "
        f"print(p.score, [name for name in {HEAVY} if name in sys.modules])",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split(" ", 1)[1].strip() == "[]"


@pytest.mark.slow
def test_a_bare_module_names_its_outputs(workdir, tmp_path, capsys):
    path = tmp_path / "part.mlirbc"
    arguments = (f"--workdir={workdir}", f"--output={path}", "--format=mlir", "--image_size=40,56")
    done = run_main(capsys, "vtadl_jax.export.__main__", *arguments)
    assert done.returncode == 0, done.stderr
    lines = done.stdout + done.stderr
    assert "input: uint8 [1, 40, 56, 3]" in lines
    assert "output 0: anomaly_map float32 [1, 40, 56]" in lines
    assert path.read_bytes()[:4] == b"ML\xefR"
    path.unlink()
    wrong = run_main(capsys, "vtadl_jax.export.__main__", *arguments[:3], "--image_size=40")
    assert wrong.returncode == 2
    assert "as 480,640" in wrong.stderr
    assert not path.exists()


def changed(saved, tmp_path, change):
    """A copy of a file whose members were changed: change(dict of members)."""
    with zipfile.ZipFile(saved) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    path = tmp_path / "changed.vtadl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def with_manifest(**fields):
    def change(members):
        manifest = json.loads(members[bundle.MANIFEST]) | fields
        members[bundle.MANIFEST] = json.dumps(manifest).encode()

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update({"config.json": b"{}"}), "config.json has another checksum"),
        (lambda m: m.pop("weights.safetensors"), r"members of its manifest \(weights"),
        (lambda m: m.update({"evil.py": b"1"}), r"members of its manifest \(evil.py\)"),
        (lambda m: m.pop("manifest.json"), "has no manifest"),
        (lambda m: m.update({"manifest.json": b"[]"}), "has no manifest"),
        (with_manifest(format=99), "install that version"),
        (with_manifest(kind="other"), "install that version"),
        (with_manifest(format=0), "format 0"),
    ],
)
def test_a_file_that_was_changed_is_refused_in_one_line(saved, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        Predictor.from_file(changed(saved, tmp_path, change))


def test_what_is_no_export_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UserError, match="damaged or not a file of"):
        Predictor.from_file(tmp_path / "notes.txt")
    with pytest.raises(UserError, match="no such file"):
        Predictor.from_file(tmp_path / "missing.vtadl")


def test_a_file_that_is_cut_short_is_refused(saved, tmp_path):
    content = saved.read_bytes()
    for share in (0.1, 0.6, 0.99):
        (tmp_path / "cut").write_bytes(content[: int(share * len(content))])
        with pytest.raises(UserError, match="damaged"):
            Predictor.from_file(tmp_path / "cut")


def test_the_page_and_the_manifest_say_what_the_file_is(saved):
    found = bundle.read_bundle(saved)
    page = found.members["page.html"].decode()
    for text in ("position_gaussian", "gear", "false-alarm rate", "image_auroc", "Apache-2.0"):
        assert text in page
    assert 'src="http' not in page
    assert found.manifest["decision"]["good_images"] > 0


def test_the_command_exports_predicts_and_validates(workdir, dataset, tmp_path, capsys):
    file, images = tmp_path / "part.vtadl", dataset / "gear" / "test"
    arguments = (f"--workdir={workdir}", f"--output={file}")
    done = run_main(capsys, "vtadl_jax.export.__main__", *arguments)
    assert done.returncode == 0, done.stderr
    again = run_main(capsys, "vtadl_jax.export.__main__", *arguments)
    assert again.returncode == 2
    assert "exists" in again.stderr
    out = tmp_path / "out"
    predicted = ("--nooverlays", "--maps=none", f"--input={images}", f"--output={out}")
    done = run_main(capsys, "vtadl_jax.predict", f"--model={file}", *predicted)
    assert done.returncode == 0, done.stderr
    result = tmp_path / "result.json"
    check = (f"--reference={workdir}", f"--exported={file}", "--limit=4", f"--output={result}")
    done = run_main(capsys, "vtadl_jax.validate", *check)
    assert done.returncode == 0, done.stderr
    found = json.loads(result.read_text())
    assert found["passed"]
    assert found["score_difference"]["largest"] == 0
    assert found["latency"]["exported"]["p50"] > 0


def test_an_export_of_another_run_does_not_validate(workdir, saved, dataset, tmp_path, capsys):
    def other(members):
        calibration = json.loads(members["calibration.json"])
        calibration["mean"] = [2 * value + 1 for value in calibration["mean"]]
        members["calibration.json"] = json.dumps(calibration).encode()
        manifest = json.loads(members[bundle.MANIFEST])
        digest = hashlib.sha256(members["calibration.json"]).hexdigest()
        manifest["members"]["calibration.json"]["sha256"] = digest
        members[bundle.MANIFEST] = json.dumps(manifest).encode()

    file = changed(saved, tmp_path, other)
    check = (f"--reference={workdir}", f"--exported={file}", "--limit=4")
    done = run_main(capsys, "vtadl_jax.validate", *check, f"--input={dataset / 'gear' / 'test'}")
    assert done.returncode == 1
    assert "NOT the same" in done.stderr + done.stdout
