"""The dry run says what a run would do, and writes nothing."""

import dataclasses
import json
from pathlib import Path

import pytest

from tests.cli import run_main
from tests.factory import tiny_config, with_fields
from tests.test_contract import RUN, config_of
from vtadl_jax import estimates
from vtadl_jax.data.synthetic.dataset import missing_images
from vtadl_jax.dry_run import dry_run, dry_run_all, lines_of, lines_of_all
from vtadl_jax.errors import UserError
from vtadl_jax.run import announce
from vtadl_jax.runtime.lock import locked
from vtadl_jax.runtime.text_table import WIDTH
from vtadl_jax.training import measuring
from vtadl_jax.training.measuring import Cost
from vtadl_jax.training.setup import make_setup
from vtadl_jax.training.stored import checkpoint_steps

MEASURED = estimates.Measured(
    None,
    Cost(0.5, 3, 7.0, {"state": 2**20, "temporary": 3 * 2**20}),
    Cost(0.25, 1, 2.0),
    peak=2**30,
)
FITTED = dataclasses.replace(MEASURED, fit=Cost(0.1, 4, 1.0), steps=None)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(measuring, "SECONDS", 0.0)


@pytest.fixture
def estimate_of(dataset, monkeypatch):
    """A function (workdir, fields) → the estimate of a tiny VT-ADL, with given costs."""

    def make(workdir: Path, costs=MEASURED, detector="vtadl", **fields):
        config = tiny_config(dataset, detector=detector, mesh__data=1, **fields)
        monkeypatch.setattr(estimates, "measure", lambda setup: costs)
        return estimates.estimate(config, workdir)

    return make


def files_in(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN)
def test_every_detector_is_measured_and_nothing_is_written(name, dataset, tmp_path, capsys):
    config = config_of(name, dataset, mesh__data=1)
    before = files_in(dataset)
    found = dry_run(config, tmp_path / "run")
    assert files_in(tmp_path) == []
    assert files_in(dataset) == before
    detector = found.setup.assembly.detector
    assert (found.measured.fit is not None) == (detector.fit is not None)
    assert (found.measured.steps is not None) == (found.setup.num_steps > 0)
    assert found.total > 0
    out, err = capsys.readouterr()
    announce(found.setup)
    assert capsys.readouterr().err in err  # as a run says it
    assert f"in {tmp_path / 'run'}, which is new" in " ".join(out.split())
    assert all(len(line) <= WIDTH or str(tmp_path) in line for line in out.splitlines())


def test_times_add_up_from_their_parts(estimate_of, tmp_path):
    found = estimate_of(tmp_path / "run", num_train_steps=10, checkpoint_every_steps=4)
    assert found.training == 0.5 * 10
    # 14 test images at the end, 4 held-out ones at steps 4, 8 and 10, in batches of 8.
    assert found.scored_batches == 2 + 3
    assert found.compiling == 9.0
    assert found.total == pytest.approx(found.reading + 9.0 + 5.0 + 0.25 * 5)
    text = " ".join(" ".join(lines_of(found)).split())
    assert "10 steps of 8 images, 5.0 epochs" in text
    assert "about 5s on 1 cpu device (0.5s a step, mean of 3 after one to warm up" in text
    assert "1 MiB of state and images and 3 MiB of temporary buffers" in text
    assert "1,024 MiB of host memory" in text


def test_evaluations_between_are_counted(estimate_of, tmp_path):
    fields = {"num_train_steps": 10, "checkpoint_every_steps": 0, "eval_every_steps": 3}
    found = estimate_of(tmp_path / "run", **fields)
    assert found.scored_batches == 4 * 2 + 4  # steps 3, 6, 9 and 10


def test_a_fit_is_told_without_its_solution(estimate_of, tmp_path):
    fields = {"num_train_steps": 0, "num_epochs": 0}
    found = estimate_of(tmp_path / "run", FITTED, "position_gaussian", **fields)
    assert found.fitting == pytest.approx(0.1 * 3 * 2)  # 20 images in batches of 8, and folds
    assert found.scored_batches == 2 + 10  # 10 folds of 2 images
    text = " ".join(" ".join(lines_of(found)).split())
    assert "fitted in one pass over the images, no steps" in text
    assert "solving on the host comes after it, once and for each of 10 folds, and is not" in text
    assert "in all at least" in text


def test_a_run_that_is_there_is_told(finished, tmp_path):
    config, workdir, _ = finished
    before = [(path, path.stat().st_mtime_ns) for path in files_in(workdir)]
    setup = make_setup(config, workdir)
    done = max(checkpoint_steps(workdir))
    found = estimates.Estimate(setup, MEASURED, done, 1.0)
    assert found.steps_left == 0
    text = " ".join(" ".join(lines_of(found)).split())
    assert "holds a run that is complete at step 4: is evaluated again" in text
    longer = dataclasses.replace(setup, num_steps=10)
    found = estimates.Estimate(longer, MEASURED, done, 1.0)
    text = " ".join(" ".join(lines_of(found)).split())
    assert "holds a run: continues from step 4" in text
    assert "6 steps are left" in text
    assert [(path, path.stat().st_mtime_ns) for path in files_in(workdir)] == before


def test_errors_are_those_of_a_run(finished, dataset, tmp_path):
    config, workdir, _ = finished
    other = with_fields(config, seed=1)
    with pytest.raises(UserError, match="holds the run of another config: seed is 0 there"):
        dry_run(other, workdir)
    with pytest.raises(UserError, match="batch_size 64 is larger than the 16 training images"):
        dry_run(tiny_config(dataset, mesh__data=1, batch_size=64), tmp_path / "run")
    (tmp_path / "used").mkdir()
    with locked(tmp_path / "used"), pytest.raises(UserError, match=r"is in use by process \d+"):
        dry_run(tiny_config(dataset, mesh__data=1), tmp_path / "used")
    assert not (tmp_path / "run").exists()


def test_drawn_images_are_not_left(tmp_path, capsys, monkeypatch):
    drawn = []
    config = tiny_config(tmp_path / "parts", data__source="synthetic", data__category="plate")
    with estimates.drawn_elsewhere(config) as elsewhere:
        drawn.append(Path(elsewhere.data.root))
        drawn[0].mkdir()
    assert not drawn[0].exists()
    assert elsewhere.data.source == "synthetic"
    assert files_in(tmp_path) == []
    count = missing_images(tmp_path / "parts", ("plate",))
    assert f"{count} images would be drawn into {tmp_path / 'parts'}" in capsys.readouterr().err
    with (
        pytest.raises(UserError, match=f"^no {tmp_path / 'parts'}/x$"),
        estimates.drawn_elsewhere(config) as elsewhere,
    ):
        raise UserError(f"no {elsewhere.data.root}/x")


def test_all_categories_are_measured_once(dataset, tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(estimates, "measure", lambda setup: calls.append(setup) or MEASURED)
    config = tiny_config(dataset, mesh__data=1, data__category="all")
    found = dry_run_all(config, tmp_path / "runs")
    assert [one.setup.category for one in found] == ["gear", "nut", "plate"]
    assert len(calls) == 1
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines()]
    assert ["gear", "16", "4", "14", "4"] in [row[:5] for row in rows]
    assert ["all", "12"] in [row[:2] for row in rows]
    assert files_in(tmp_path) == []
    assert lines_of_all([]) == ["every category is complete"]


def test_the_flag_is_in_the_help(capsys):
    assert "--[no]dry_run" in run_main(capsys, "vtadl_jax.main", "--help").stdout


@pytest.mark.slow
def test_the_command_writes_nothing_and_a_run_then_does(dataset, tmp_path, capsys):
    arguments = (
        "--config", "configs/image_mixture.py", "--config.data.source=mvtec_layout",
        f"--config.data.root={dataset}", "--config.data.category=gear",
        "--config.image_size=32,32", "--config.batch_size=8", "--config.eval.batch_size=8",
        "--config.mesh.data=1", "--workdir", str(tmp_path / "runs" / "one"),
    )  # fmt: skip
    done = run_main(capsys, "vtadl_jax.main", *arguments, "--dry_run")
    assert done.returncode == 0, done.stderr
    assert "which is new" in " ".join(done.stdout.split())
    assert files_in(tmp_path) == []
    run_main(capsys, "vtadl_jax.main", *arguments)
    assert json.loads((tmp_path / "runs" / "one" / "results.json").read_text())["step"] == 0
    again = run_main(capsys, "vtadl_jax.main", *arguments, "--dry_run")
    assert "is complete at step 0" in " ".join(again.stdout.split())
