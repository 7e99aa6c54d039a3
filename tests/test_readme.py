"""Runs every command of README.md, in its order and in one folder, on small data.

A command is run by the recipe of its shape: its program, its files and its flags are those of the
text; the names of folders (GOOD_DIR, ...) become real ones, and fields that the text does not give
are set so that training takes a few steps of small images. A command without a recipe, and a name
without a folder, fail: add what runs it to `RECIPES` or `places`.
"""

import dataclasses
import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli import ROOT, environment
from tests.documents import README, Command, commands_of, read_block
from tests.factory import SIZES
from tests.test_documents import check
from tests.test_notebooks import RESULTS as NOTEBOOKS
from vtadl_jax import experiment
from vtadl_jax import options as schema
from vtadl_jax.compiling.topology import has_tpu_compiler
from vtadl_jax.evaluation.predictor import Predictor
from vtadl_jax.main import default_workdir
from vtadl_jax.runtime.command import split_config

COMMANDS = commands_of(README)
CI = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
KEPT = ("data.category", "optimizer.learning_rate")  # fields of `SIZES` that a command chooses
NAME = re.compile(r"\b[A-Z][A-Z_]*[A-Z]\b")  # of a place, as GOOD_DIR


@dataclasses.dataclass(frozen=True)
class Bench:
    """Where commands run: `folder` is the working directory, `places` the folders of names."""

    folder: Path
    places: dict[str, str]

    def filled(self, command: Command) -> Command:
        """Returns the command with folders in place of names; fails for an unknown name."""

        def place(found: re.Match) -> str:
            assert found.group() in self.places, f"{command}: no folder for {found.group()}"
            return self.places[found.group()]

        return dataclasses.replace(command, words=tuple(NAME.sub(place, w) for w in command.words))


@pytest.fixture
def bench(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parts = dataset / "gear"
    mvtec = tmp_path / "mvtec"
    for category in ("screw", "bottle", *(p.name for p in dataset.iterdir() if p.is_dir())):
        given = dataset / category
        shutil.copytree(given if given.is_dir() else parts, mvtec / category)
    good, new = str(parts / "train/good"), str(parts / "test/dent")
    places = {
        "DIR": good,
        "GOOD_DIR": good,
        "BAD_DIR": new,
        "MASK_DIR": str(parts / "ground_truth/dent"),
        "MVTEC_DIR": str(mvtec),
        "NEW_DIR": new,
        "FILE": f"{new}/000.png",
        "DIR_OR_FILE_OR_GLOB": f"{new}/*.png",
        "OUT": str(tmp_path / "out"),
    }
    return Bench(tmp_path, places)


def small(command: Command) -> list[str]:
    """Returns overrides for short training of small images, of fields that the text leaves open."""
    _, text, fields = split_config([command.module, *command.arguments])
    config, _ = experiment.load(text, fields)
    known = {name for name, _, _ in schema.fields_of(config)}
    given = {field.removeprefix("--config.").partition("=")[0] for field in fields}
    sizes = {
        **SIZES,
        "image_size": (64, 64),
        "num_train_steps": 2,
        "log_every_steps": 1,
        "eval.num_pictures": 2,
    }
    if not config.num_epochs and not config.num_train_steps:  # fitted, without steps
        del sizes["num_train_steps"]
    return [
        f"--config.{name}={','.join(map(str, value)) if isinstance(value, tuple) else value}"
        for name, value in sizes.items()
        if name in known and name not in given and name not in KEPT
    ]


def called(command: Command, *more: str) -> int:
    """Calls a program's `main` in this process and returns its exit code."""
    module = importlib.import_module(command.module)
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"{command.module}.__main__")
    return module.main([command.module, *command.arguments, *more])


def flag(command: Command, name: str, default: str = "") -> str:
    words = list(command.arguments)
    for i, word in enumerate(words):
        if word == f"--{name}":
            return words[i + 1]
        if word.startswith(f"--{name}="):
            return word.partition("=")[2]
    return default


def train(command: Command, bench: Bench) -> None:
    """Trains, with small sizes; the run is calibrated and, with images to test, has a report, a
    sweep its summary. Without --workdir it does not continue the run of a command before it, to
    which it may be an alternative on other images."""
    _, text, fields = split_config([command.module, *command.arguments])
    config, name = experiment.load(text, fields)
    workdir = Path(flag(command, "workdir") or default_workdir(config, name))
    if not flag(command, "workdir"):
        shutil.rmtree(workdir, ignore_errors=True)
    one = [] if any("--config.mesh." in field for field in fields) else ["--config.mesh.data=1"]
    assert called(command, *small(command), *one) == 0
    if config.data.category == "all":
        assert (workdir / "summary.md").is_file()
        return
    assert (workdir / "calibration.json").is_file()
    if config.data.category or config.data.bad:
        assert (workdir / "results.json").is_file()
        assert (workdir / "report.html").is_file()


def evaluate(command: Command, bench: Bench) -> None:
    """Evaluates the run that a command before it trained."""
    results = Path(flag(command, "workdir")) / "results.json"
    results.unlink(missing_ok=True)
    assert called(command) == 0
    assert results.is_file()


def predict(command: Command, bench: Bench) -> None:
    """Predicts with the run that a command before it trained."""
    output = Path(flag(command, "output"))
    shutil.rmtree(output, ignore_errors=True)
    assert called(command) == 0
    assert len((output / "predictions.csv").read_text().splitlines()) > 1


def export_run(command: Command, bench: Bench) -> None:
    """Exports the run that a command before it trained."""
    output = Path(flag(command, "output"))
    output.unlink(missing_ok=True)
    assert called(command) == 0
    assert output.stat().st_size > 1000


def serve(command: Command, bench: Bench) -> None:
    """Opens the file that a command before it exported; tests/serving starts the service."""
    check(command)
    assert Predictor.from_file(flag(command, "model")).warm_up().terms


def prepare(command: Command, bench: Bench) -> None:
    """Checks or converts a folder; the drawn images have no faults."""
    assert called(command) == 0


def compile_step(command: Command, bench: Bench) -> None:
    """Compiles the step of a small model for the devices of the text; those of a TPU have a test of
    their own, for the compiler serves one process at a time."""
    if flag(command, "topology") or flag(command, "sweep"):
        return check(command)
    assert called(command, *small(command), f"--output={bench.folder / 'compiled'}") == 0
    return None


def start_locally(command: Command, bench: Bench) -> None:
    """Starts the processes, each with small sizes."""
    count, *rest = command.arguments
    main = Command(command.file, ("python", "-m", "vtadl_jax.main", *rest))
    work = f"--workdir={bench.folder / 'local'}"
    done = subprocess.run(
        [ROOT / command.words[0], count, *rest, *small(main), work],
        cwd=bench.folder,
        env={**environment(), "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"on {count} cpu device" in done.stderr
    assert (bench.folder / "local" / "results.json").is_file()


def start_in_the_cloud(command: Command, bench: Bench) -> None:
    """Runs the script with programs that only write down how they are called, in place of gcloud
    and git; the command that it sends to the workers parses. No TPU is asked for."""
    tools, calls = bench.folder / "tools", bench.folder / "calls.txt"
    tools.mkdir(exist_ok=True)
    for name in ("gcloud", "git"):
        (tools / name).write_text(f'#!/bin/sh\nprintf "%s\\n" {name} "$@" >> {calls}\n')
        (tools / name).chmod(0o755)
    done = subprocess.run(
        [ROOT / command.words[0], *command.arguments],
        cwd=bench.folder,
        env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (sent,) = re.findall(r"\.venv/bin/(python -m vtadl_jax\.main .*)", calls.read_text())
    check(*read_block(sent, command.file))
    assert "--workdir=../runs/" in sent
    assert ".py-" not in sent


def make_environment(command: Command, bench: Bench) -> None:
    """The first step of `.ci/run`, which makes its environments so."""
    assert command.words[1:] == ("-m", "venv", ".venv")
    assert '"$2" -m venv "$environments/$1"' in CI


def install(command: Command, bench: Bench) -> None:
    """`.ci/run` installs the checkout; here, the extras of the text are those of setup.py."""
    assert 'pip" install -q --no-compile -e ".[$3]"' in CI
    what = [word for word in command.words[1:] if not word.startswith("-")][1:]
    for word in what:
        found = re.fullmatch(r"(?:\.|vtadl_jax)(?:\[([a-z,]+)\])?", word)
        assert found, f"{word}: not this project"
        for extra in filter(None, (found.group(1) or "").split(",")):
            assert f'"{extra}": [' in (ROOT / "setup.py").read_text(encoding="utf-8")


def run_tests(command: Command, bench: Bench) -> None:
    """`.ci/run` runs the quick tests, by the same command."""
    assert command.arguments == ()
    assert '"$bin/python" -m pytest\n' in CI


def run_notebook(command: Command, bench: Bench) -> None:
    """test_notebooks.py runs the scripts."""
    assert Path(command.words[1]).stem in NOTEBOOKS


def enter(command: Command, bench: Bench) -> None:
    """Getting the checkout and entering it or its environment: nothing that a test could run."""


RECIPES: dict[str, Callable[[Command, Bench], None]] = {
    r"\S*python3? -m vtadl_jax\.main ": train,
    r"\S*python3? -m vtadl_jax\.evaluate ": evaluate,
    r"\S*python3? -m vtadl_jax\.predict ": predict,
    r"\S*python3? -m vtadl_jax\.export ": export_run,
    r"\S*python3? -m vtadl_jax\.serve ": serve,
    r"\S*python3? -m vtadl_jax\.prepare ": prepare,
    r"\S*python3? -m vtadl_jax\.compile ": compile_step,
    r"\S*python3? -m venv ": make_environment,
    r"\S*python3? -m pytest$": run_tests,
    r"\S*python3? notebooks/\w+\.py$": run_notebook,
    r"\S*pip install ": install,
    r"launch/local\.sh ": start_locally,
    r"launch/tpu_vm\.sh ": start_in_the_cloud,
    r"(git clone|cd|\.|source) ": enter,
}


def recipe_of(command: Command) -> Callable[[Command, Bench], None]:
    found = [recipe for shape, recipe in RECIPES.items() if re.match(shape, command.text)]
    assert found, f"{command}: no recipe runs it, add one to {Path(__file__).name}"
    if "--help" in command.words:
        return lambda command, bench: print(called(command))
    return found[0]


def test_every_command_has_a_recipe_and_every_name_a_folder(bench):
    assert len(COMMANDS) > 5
    for command in COMMANDS:
        recipe_of(command)
        if recipe_of(command) is not start_in_the_cloud:
            bench.filled(command)


@pytest.mark.parametrize("line", ["make all", "python -m vtadl_jax.mian --config configs/best.py"])
def test_a_command_without_a_recipe_is_refused(line):
    with pytest.raises(AssertionError, match="no recipe runs it"):
        recipe_of(*read_block(line, "README.md"))


def test_a_name_without_a_folder_is_refused(bench):
    with pytest.raises(AssertionError, match="no folder for SOME_DIR"):
        bench.filled(*read_block("python -m vtadl_jax.predict --input=SOME_DIR/x", "README.md"))


@pytest.mark.slow
def test_every_command_runs(bench):
    for command in COMMANDS:
        print(command.text, flush=True)
        recipe = recipe_of(command)
        recipe(command if recipe is start_in_the_cloud else bench.filled(command), bench)


@pytest.mark.tpu_compile
@pytest.mark.parametrize(
    "command",
    [c for c in COMMANDS if c.module == "vtadl_jax.compile" and "--topology" in c.text],
    ids=str,
)
def test_a_command_for_a_tpu_compiles(command, bench):
    if not has_tpu_compiler():
        pytest.skip("the TPU's compiler (extra tpu) is not installed")
    assert called(command, *small(command), f"--output={bench.folder}") == 0
    assert list(bench.folder.glob("*.html"))
