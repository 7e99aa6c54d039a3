"""Checkpoints of the authors' code as runs of ours, and back."""

import json

import numpy as np
import pytest

from tests.cli import run_main
from tests.detectors.test_official import small_config
from tests.factory import tiny_config
from tests.weights import torch_format as form
from vtadl_jax.data.synthetic.dataset import make_dataset
from vtadl_jax.detectors import official_names as names
from vtadl_jax.errors import UserError
from vtadl_jax.export import torch as export_torch
from vtadl_jax.import_weights import import_run
from vtadl_jax.runtime.command import split_config
from vtadl_jax.training.stored import CONFIG, save_config
from vtadl_jax.weights.files import read_arrays

SIZES = (
    "--config.model.vit.width=16",
    "--config.model.vit.depth=1",
    "--config.model.vit.mlp_dim=16",
    "--config.model.vit.num_heads=2",
    "--config.model.mdn.num_components=2",
)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """(files of both parts, their arrays), as PyTorch would have saved a small network."""
    folder, rng, config = (
        tmp_path_factory.mktemp("published"),
        np.random.default_rng(0),
        small_config(),
    )
    files, arrays = [], []
    for name, entries, legacy in (
        ("VT_AE.pt", names.autoencoder_entries(config.model), False),
        ("G_estimate.pt", names.mixture_entries(config.model), True),
    ):
        part = {e.name: 0.05 * rng.standard_normal(e.shape, np.float32) for e in entries}
        part = {n: np.abs(a) + 0.5 if n.endswith("var") else a for n, a in part.items()}
        if name == "VT_AE.pt":
            part |= names.counters(12)
        files.append(form.write(folder / name, part, legacy))
        arrays.append(part)
    return files, arrays


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "parts"
    return make_dataset(root, image_size=64, num_train=20, num_test_good=1, num_per_defect=1)


def command(capsys, files, workdir, *more):
    return run_main(
        capsys, "vtadl_jax.import_weights", "--autoencoder", str(files[0]),
        "--mixture", str(files[1]), "--workdir", str(workdir), *SIZES, *more,
    )  # fmt: skip


@pytest.mark.slow
def test_an_imported_run_is_evaluated_predicted_trained_and_exported(
    published, parts, tmp_path, capsys
):
    files, arrays = published
    workdir = tmp_path / "run"
    done = command(
        capsys, files, workdir, "--config.mesh.data=1", "--config", "configs/official.py:gear",
        "--config.eval.num_pictures=1", "--config.batch_size=1", "--config.num_train_steps=1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "every name and shape as expected" in done.stdout + done.stderr
    config = json.loads((workdir / "config.json").read_text())
    assert (config["detector"], config["data"]["category"]) == ("official", "gear")

    outs = [tmp_path / "VT_AE.safetensors", tmp_path / "G_estimate.safetensors"]
    done = run_main(
        capsys, "vtadl_jax.export.__main__", "--format", "torch", "--workdir", str(workdir),
        "--autoencoder", str(outs[0]), "--mixture", str(outs[1]),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "step 0: " in done.stderr
    for path, want in zip(outs, arrays, strict=True):
        got = read_arrays(path)
        assert got.keys() == want.keys()
        for name, array in want.items():
            if not name.endswith(names.COUNTER):
                np.testing.assert_array_equal(got[name], array)
    with pytest.raises(UserError, match="exists: give another path"):
        export_torch.export_run(workdir, *outs)

    done = run_main(
        capsys, "vtadl_jax.evaluate", "--workdir", str(workdir), "--data_root", str(parts)
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((workdir / "results.json").read_text())["step"] == 0
    image = next((parts / "gear" / "test" / "good").glob("*.png"))
    done = run_main(
        capsys, "vtadl_jax.predict", "--workdir", str(workdir), "--input", str(image),
        "--output", str(tmp_path / "predictions"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "predictions" / "predictions.csv").is_file()

    done = run_main(
        capsys, "vtadl_jax.main", "--config", "configs/official.py:gear",
        "--workdir", str(workdir), *SIZES,
        "--config.eval.num_pictures=1", "--config.batch_size=1", "--config.num_train_steps=1",
        "--config.data.root", str(parts), "--config.mesh.data=1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "continuing from step 0" in done.stdout + done.stderr


def broken(kind, files, tmp_path):
    """The files of both parts, one of them wrong; what the message says; what must not appear."""
    autoencoder, mixture = files
    arrays, marker = read_arrays(mixture), tmp_path / "it_ran"
    bad = tmp_path / "bad.pt"
    if kind == "shape":
        form.write(bad, arrays | {"pi.weight": np.zeros((2, 17), np.float32)})
        message = "pi.weight is [2, 17], not [2, 16]"
    elif kind == "missing":
        form.write(bad, {name: a for name, a in arrays.items() if name != "mu.weight"})
        message = "mu.weight is missing"
    elif kind == "left over":
        form.write(bad, arrays | {"beta.weight": np.zeros(3, np.float32)})
        message = "beta.weight is left over"
    elif kind == "swapped":
        bad, message = autoencoder, "pi.weight is missing"
    elif kind == "malicious":
        call = form.Call(form.Global("os", "system"), (f"touch {marker}",))
        form.write_zip(bad, form.structure_of(arrays, False) | {"x": call}, arrays)
        message = "it wants to call os.system, and nothing of it was run"
    else:
        bad.write_bytes(mixture.read_bytes()[:-9])
        message = "copy it again"
    return (autoencoder, bad), message, marker


KINDS = ("shape", "missing", "left over", "swapped", "malicious", "truncated")


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_file_is_refused_and_nothing_is_written(published, tmp_path, kind):
    files, message, marker = broken(kind, published[0], tmp_path)
    with pytest.raises(UserError) as caught:
        import_run(small_config(), *files, tmp_path / "run")
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()
    assert not marker.exists()


@pytest.mark.parametrize("kind", ["malicious", "truncated"])
def test_the_command_says_so_in_one_line_and_exits_with_2(published, tmp_path, kind, capsys):
    files, message, marker = broken(kind, published[0], tmp_path)
    done = command(capsys, files, tmp_path / "run")
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()
    assert not marker.exists()


def test_a_taken_workdir_and_another_detector_are_refused(published, tmp_path):
    (tmp_path / "something").touch()
    with pytest.raises(UserError, match="is not an empty folder"):
        import_run(small_config(), *published[0], tmp_path)
    with pytest.raises(UserError, match=r"'vtadl': start from configs/official\.py"):
        import_run(tiny_config(), *published[0], tmp_path / "run")


@pytest.mark.slow
def test_a_failure_while_writing_leaves_nothing(published, tmp_path, monkeypatch):
    def fail(config, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vtadl_jax.import_weights.save_config", fail)
    with pytest.raises(UserError, match=r"No space left on device\): make room"):
        import_run(small_config(), *published[0], tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("argv", "default", "split"),
    [
        (
            ["p", "--workdir=w", "--config.model.vit.width=8", "--mixture", "m"],
            "configs/official.py",
            (["p", "--workdir=w", "--mixture", "m"], "configs/official.py",
             ["--config.model.vit.width=8"]),
        ),
        (
            ["p", "--config.seed=1", "--config", "c.py:x", "--mixture=m", "--config.dtype", "f"],
            "configs/official.py",
            (["p", "--mixture=m"], "c.py:x", ["--config.seed=1", "--config.dtype=f"]),
        ),
        (["p", "-config=c.py", "train"], "", (["p", "train"], "c.py", [])),
        (["p"], "", (["p"], "", [])),
    ],
)  # fmt: skip
def test_flags_of_the_config_are_told_apart(argv, default, split):
    assert split_config(argv, default) == split


def test_only_official_runs_are_exported(tmp_path):
    save_config(tiny_config(), tmp_path / CONFIG)
    with pytest.raises(UserError, match="only runs of 'official' are exported"):
        export_torch.export_run(tmp_path, tmp_path / "a.pt", tmp_path / "b.pt")
