"""The runner of experiments: plans, what is left to do, and the table."""

import json
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.factory import tiny_config, tiny_dataset
from vtadl_jax import experiments
from vtadl_jax.config import schedule_of
from vtadl_jax.errors import UserError
from vtadl_jax.evaluation.results import Results
from vtadl_jax.report.experiments import Measured, summarise, to_markdown, to_svg
from vtadl_jax.training.stored import save_config

PLAN = "# two\nfloor | --config configs/baseline_filters.py --config.data.root={data}/a\nbest | x\n"


def plan(tmp_path, text):
    path = tmp_path / "plan.txt"
    path.write_text(text, encoding="utf-8")
    return path


def measured(name, seed, auroc, aupro=0.5):
    stored = {"image_auroc": auroc, "pixel_auroc": 0.9, "aupro": aupro, "step": 7}
    record = {"seed": seed, "seconds": 10.0 * (seed + 1), "commit": "abc"}
    return Measured(name, f"python {name}", record, Results.from_dict(stored))


def test_a_plan_is_read(tmp_path):
    (first, second) = experiments.read_plan(plan(tmp_path, PLAN.replace("best | x", "b est | x")))
    assert first.name == "floor"
    assert first.arguments[-1] == "--config.data.root={data}/a"
    assert second == experiments.Experiment("b-est", ("x",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no experiment"),
        ("floor --config x", "line 1"),
        ("a | x\n\na | y", "line 3: a is there twice"),
        ("a | --config.seed=3", "leave it out"),
        ("a | --workdir there", "leave it out"),
        ("a/b | x", "folder"),
        ("a | 'x", "line 1"),
    ],
)
def test_a_plan_that_cannot_be_understood(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        experiments.read_plan(plan(tmp_path, text))


def test_mean_and_spread_over_seeds():
    runs = [measured("a", 0, 0.7), measured("b", 0, 0.6, None), measured("a", 1, 0.9)]
    first, second = summarise(runs)
    mean, spread = first.values["image_auroc"]
    assert (mean, spread) == (pytest.approx(0.8), pytest.approx(0.1 * 2**0.5))
    assert (first.num_seeds, first.steps, first.seconds) == (2, 7, 15.0)
    assert second.values["aupro"] is None
    assert second.values["image_auroc"] == (0.6, None)
    text = to_markdown([first, second])
    assert "| a | 0.800 ± 0.141 | 0.900 ± 0.000 | 0.500 ± 0.000 | 2 | 7 | 15 | abc |" in text
    assert "| b | 0.600 | 0.900 | - | 1 |" in text
    assert "- b: `python b`" in text
    assert len(ElementTree.fromstring(to_svg([first, second]))) > 10


@pytest.fixture
def fake_program(monkeypatch):
    """Stands for `python -m vtadl_jax.main`: writes a run of the seed that it was given."""
    calls = []
    real = subprocess.run

    def run(command, **options):
        if "vtadl_jax.main" not in command:
            return real(command, **options)
        calls.append(command)
        values = dict(c.lstrip("-").split("=", 1) for c in command if "=" in c)
        if "fail" in command:
            return subprocess.CompletedProcess(command, 2)
        folder = Path(values["workdir"])
        folder.mkdir(parents=True, exist_ok=True)
        config = tiny_config(seed=int(values["config.seed"]))
        save_config(config, folder / "config.json")
        results = {
            **measured("", 0, 0.5 + config.seed / 10).results.to_dict(),
            "schedule": schedule_of(config),
        }
        (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    return calls


def command(tmp_path, text, *more):
    path = plan(tmp_path, text)
    data = () if any(flag.startswith("--data=") for flag in more) else ("--data=D",)
    return experiments.main(
        ["experiments", f"--plan={path}", f"--workdir={tmp_path / 'runs'}", *data, *more]
    )


def test_complete_runs_are_left_and_missing_ones_made(tmp_path, fake_program):
    text = "a | --config {data}/x\nb | --config y\n"
    assert command(tmp_path, text, "--seeds=2") == 0
    assert len(fake_program) == 4
    assert "D/x" in fake_program[0]
    (tmp_path / "runs" / "a" / "seed-1" / "results.json").unlink()
    assert command(tmp_path, text, "--seeds=2", f"--markdown={tmp_path / 'copy.md'}") == 0
    assert len(fake_program) == 5
    stored = json.loads((tmp_path / "runs" / "results.json").read_text())
    assert [row["num_seeds"] for row in stored] == [2, 2]
    assert stored[0]["values"]["image_auroc"][0] == pytest.approx(0.55)
    assert (tmp_path / "copy.md").read_text() == (tmp_path / "runs" / "results.md").read_text()


def test_other_arguments_do_not_pass_for_the_same_run(tmp_path, fake_program, capsys):
    assert command(tmp_path, "a | --config x\n") == 0
    assert command(tmp_path, "a | --config z\n") == 2
    assert "holds the run of --config x" in capsys.readouterr().err
    assert len(fake_program) == 1


def test_a_run_that_fails_is_named(tmp_path, fake_program, capsys):
    assert command(tmp_path, "a | fail\n") == 2
    assert "a, seed 0, ended with exit code 2" in capsys.readouterr().err


@pytest.mark.slow
def test_a_real_run(tmp_path):
    tiny_dataset(tmp_path / "data" / "parts")
    text = (
        "p | --config configs/position_gaussian.py:gear --config.data.root={data}/parts "
        "--config.image_size=32,32 --config.eval.num_pictures=0"
    )
    assert command(tmp_path, text, f"--data={tmp_path / 'data'}") == 0
    (row,) = json.loads((tmp_path / "runs" / "results.json").read_text())
    assert row["values"]["image_auroc"][1] is None
    assert row["seconds"] > 0
