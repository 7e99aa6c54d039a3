"""Cells: what is run again, what is not, and what an error does."""

import json

import pytest

from tests.comparing.factory import fake_cell
from tests.factory import tiny_config
from vtadl_jax import comparison
from vtadl_jax.comparing import budget as budget_lib
from vtadl_jax.comparing import cells as cells_lib
from vtadl_jax.comparing import making
from vtadl_jax.comparing.arguments import Weights
from vtadl_jax.comparing.budget import BUDGET, Budget, choose_budget, within
from vtadl_jax.comparing.cells import load_cell, run_cell, stored_cells
from vtadl_jax.comparing.making import Protocol, mean_metrics
from vtadl_jax.comparing.methods import METHODS
from vtadl_jax.errors import Preempted, UserError
from vtadl_jax.evaluation.results import Results
from vtadl_jax.selection.sets import ImageSet

SET = ImageSet("bottle", "DIR", "bottle")


@pytest.fixture
def made(monkeypatch):
    """Stands for training: a list of what was asked for, and an error to raise."""
    asked, errors = [], []

    def make(method, arguments, folder, protocol):
        asked.append(method.name)
        if errors:
            raise errors[0]
        asked_for = ("method", "category", "arguments", "minutes", "num_folds")
        return {k: v for k, v in fake_cell(method.name).items() if k not in asked_for}

    monkeypatch.setattr(cells_lib, "make_cell", make)
    return asked, errors


def test_a_complete_cell_is_not_made_again(tmp_path, made):
    protocol = Protocol(tmp_path, 2.0)
    first = run_cell(METHODS["unet"], SET, protocol)
    assert run_cell(METHODS["unet"], SET, protocol) == first
    assert made[0] == ["unet"]
    with pytest.raises(UserError, match=r"minutes 2\.0, not 3\.0: give another"):
        run_cell(METHODS["unet"], SET, Protocol(tmp_path, 3.0))


@pytest.mark.parametrize(
    "error", [UserError("no masks"), MemoryError(), ValueError("shape"), FloatingPointError("nan")]
)
def test_an_error_is_kept_with_its_reason_and_tried_again(tmp_path, made, error):
    asked, errors = made
    errors.append(error)
    cell = run_cell(METHODS["unet"], SET, Protocol(tmp_path))
    assert cell["status"] == "failed"
    assert str(error) in cell["reason"]
    assert cell["reason"]
    errors.clear()
    assert run_cell(METHODS["unet"], SET, Protocol(tmp_path))["status"] == "complete"
    assert asked == ["unet", "unet"]


@pytest.mark.parametrize("error", [Preempted("by SIGTERM"), OSError(28, "No space left on device")])
def test_what_ends_all_cells_is_let_through(tmp_path, made, error):
    made[1].append(error)
    with pytest.raises(type(error)):
        run_cell(METHODS["unet"], SET, Protocol(tmp_path))
    assert load_cell(tmp_path / "bottle" / "unet") is None


def test_a_method_without_its_weights_is_skipped(tmp_path, made):
    cell = run_cell(METHODS["spade"], SET, Protocol(tmp_path))
    assert cell["status"] == "skipped"
    assert "--weights=spade=FILE" in cell["reason"]
    stands_in = Protocol(tmp_path, weights=Weights({}, "efficientnet_lite0", "f.pth"))
    assert run_cell(METHODS["spade"], SET, stands_in)["status"] == "complete"
    assert made[0] == ["spade"]


def test_a_damaged_cell_is_named(tmp_path):
    (tmp_path / "cell.json").write_text("{}")
    with pytest.raises(UserError, match="not a cell of a comparison"):
        load_cell(tmp_path)


def test_metrics_of_folds_are_means_and_spreads():
    found = mean_metrics([Results.from_dict({"image_auroc": v, "aupro": None}) for v in (0.6, 0.8)])
    assert found["image_auroc"]["mean"] == pytest.approx(0.7)
    assert found["image_auroc"]["spread"] == pytest.approx(0.02**0.5)
    assert found["aupro"] is None


def test_a_budget_is_measured_once(tmp_path, monkeypatch):
    config = tiny_config()
    measured = []

    def measure(config, workdir, minutes):
        measured.append(minutes)
        return Budget(steps=12, full_steps=100, batch_size=8, images=40, step_seconds=2.0,
                      minutes=minutes)  # fmt: skip

    monkeypatch.setattr(budget_lib, "measure", measure)
    folder = tmp_path / "cell"
    first = choose_budget(config, folder, 1.0)
    assert choose_budget(config, folder, 1.0) == first
    assert choose_budget(config, folder, 2.0).minutes == 2.0  # no run was begun
    assert measured == [1.0, 2.0]
    (folder / "run").mkdir()
    with pytest.raises(UserError, match="runs of 2 minutes of steps each, not 1"):
        choose_budget(config, folder, 1.0)
    (folder / BUDGET).write_text("{")
    with pytest.raises(UserError, match="can't be read"):
        choose_budget(config, folder, 1.0)


def test_times_are_extrapolated_from_a_step():
    budget = Budget(steps=12, full_steps=100, batch_size=8, images=40, step_seconds=2.0)
    assert budget.epochs(12) == pytest.approx(2.4)
    assert budget.seconds_of(100) == pytest.approx(1000.0)
    assert Budget(images=40).seconds_of(100) is None
    config = within(tiny_config(optimizer__warmup_steps=50), budget)
    assert (config.num_train_steps, config.optimizer.warmup_steps) == (12, 1)
    assert config.checkpoint_every_steps == 150
    fitted = tiny_config()
    assert within(fitted, Budget()).num_train_steps == fitted.num_train_steps


def test_folds_that_are_run():
    plain, folded = tiny_config(), tiny_config(data__folds=5)
    assert making.folds_of(plain, 3) == [0]
    assert making.folds_of(folded, 0) == [0, 1, 2, 3, 4]
    assert making.folds_of(folded, 2) == [0, 1]
    with pytest.raises(UserError, match="--folds 6: there are 5"):
        making.folds_of(folded, 6)


@pytest.fixture
def data(tmp_path):
    for name in ("bottle", "screw"):
        (tmp_path / "data" / name / "train" / "good").mkdir(parents=True)
    return tmp_path / "data"


def command(tmp_path, data, *more):
    return comparison.main(
        ["comparison", f"--data={data}", f"--workdir={tmp_path / 'cells'}", *more]
    )


def test_the_command_goes_on_after_an_error(tmp_path, data, made, capsys):
    asked, errors = made
    assert command(tmp_path, data, "--methods=unet,context_mdn", "--categories=screw,bottle") == 0
    assert asked == ["unet", "context_mdn"] * 2
    errors.append(UserError("no masks"))
    assert command(tmp_path, data, "--methods=unet,unet_tiny", "--categories=screw") == 1
    assert asked[4:] == ["unet_tiny"]
    assert "screw, unet_tiny: failed: no masks" in capsys.readouterr().err
    stored = json.loads((tmp_path / "cells" / "comparison.json").read_text())
    assert [cell["status"] for cell in stored["cells"]] == [
        "failed", "complete", "complete", "complete", "complete",
    ]  # fmt: skip
    assert [cell["category"] for cell in stored["cells"]] == ["screw"] * 3 + ["bottle"] * 2
    assert comparison.main(["c", f"--workdir={tmp_path / 'cells'}", "--report_only"]) == 1
    assert len(asked) == 5
    assert len(stored_cells(tmp_path / "cells", [])) == 5
    assert {p.suffix for p in (tmp_path / "cells").glob("comparison.*")} == {
        ".json", ".csv", ".md", ".html",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--minutes=0",), "--minutes 0: use more than 0"),
        (("--categories=nut",), "--categories 'nut': --data has bottle, screw"),
        (("--methods=nothing",), "--methods 'nothing'"),
        (("--group_gap=bottle",), "give CATEGORY=N"),
        (("--report_only",), "holds no cells"),
        (("--report_only", "--latency_only"), "leave it or --latency_only out"),
    ],
)
def test_mistakes_on_the_command_line(tmp_path, data, capsys, flags, message):
    assert command(tmp_path, data, *flags) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "cells").exists()
