"""The documents' commands: their programs, flags, configs and files exist. None is run here.

`test_readme.py` runs those of the README.
"""

import copy
import importlib
import inspect
from pathlib import Path

import pytest
from absl import flags

from tests.cli import ROOT
from tests.documents import DOCUMENTS, Command, commands_of, read_block
from vtadl_jax import experiment
from vtadl_jax.compiling.program import step_names
from vtadl_jax.errors import UserError
from vtadl_jax.runtime.command import split_config

COMMANDS = list(dict.fromkeys(c for document in DOCUMENTS for c in commands_of(document)))
OWN = [command for command in COMMANDS if command.module.startswith("vtadl_jax.")]
FILES = ("configs/", "launch/", "notebooks/", ".ci/", "tests/")


def check(command: Command) -> None:
    """Parses a `python -m vtadl_jax.X` command. Raises UserError for what the program refuses."""
    module = importlib.import_module(command.module)
    if hasattr(module, "__path__"):  # a package's program, as vtadl_jax.export
        module = importlib.import_module(f"{command.module}.__main__")
    if not hasattr(module, "FLAGS"):  # argparse within main
        source = inspect.getsource(module)
        if hasattr(module, "measure_chosen"):  # shared by two benchmarks
            source += inspect.getsource(module.measure_chosen)
        for word in command.arguments:
            if word.startswith("-") and f'"{word.partition("=")[0]}"' not in source:
                raise UserError(f"{word} is not a flag of {command.module}")
        return
    arguments, table, most = list(command.arguments), module.FLAGS, 0
    if arguments[:1] == [getattr(module, "FETCH", "")]:  # import_weights fetch [NAME]
        arguments, table, most = arguments[1:], module.FETCH_FLAGS, 1
    own, config, fields = split_config([command.module, *arguments])
    own = [word for word in own if word != "--help"]
    values = copy.deepcopy(table)
    values.unparse_flags()
    try:
        rest = values(own)[1:]
    except flags.Error as error:
        raise UserError(" ".join(str(error).split())) from error
    if rest[most:]:
        raise UserError(f"argument {rest[most]!r} is not understood")
    if config:
        read, _ = experiment.load(config, fields)
        if command.module == "vtadl_jax.compile" and values["step"].value not in step_names(read):
            raise UserError(f"--step {values['step'].value}")
    elif fields and not ("methods" in values and values["methods"].value):
        raise UserError(f"{fields[0]} without --config")


def test_there_are_commands():
    assert {c.file for c in OWN} >= {"README.md"}
    assert len(OWN) > 20


@pytest.mark.parametrize("command", OWN, ids=str)
def test_a_command_parses(command):
    try:
        check(command)
    except ModuleNotFoundError as error:
        if str(error.name).startswith("vtadl_jax"):
            raise
        pytest.skip(f"needs {error.name}")


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_the_files_that_a_command_names_are_there(command):
    for word in command.words:
        name = word.removeprefix("./").partition("=")[2] or word.removeprefix("./")
        if name.startswith(FILES) and "*" not in name:
            assert (ROOT / name.partition(":")[0]).exists(), name


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("python -m vtadl_jax.main --config configs/bset.py", "no such file: did you mean"),
        ("python -m vtadl_jax.main --config configs/best.py --config.sise=3", "unknown field"),
        ("python -m vtadl_jax.main --config configs/best.py --config.batch_size=x", "batch_size"),
        ("python -m vtadl_jax.predict --workdri runs/x", "workdri"),
        ("python -m vtadl_jax.predict runs/x", "'runs/x' is not understood"),
        ("python -m vtadl_jax.evaluate --config.seed=3", "without --config"),
        ("python -m vtadl_jax.benchmarks.metrics --jsno x", "--jsno is not a flag"),
        ("python -m vtadl_jax.compile --config configs/mvtec.py --step sim", "--step sim"),
    ],
)
def test_a_command_that_does_not_parse_is_found(line, message):
    (command,) = read_block(line, "x.md")
    with pytest.raises(UserError, match=message):
        check(command)


def test_a_block_is_read_as_a_shell_does(tmp_path):
    block = """
S="python -m vtadl_jax.compile --step ssim"   # a comment
$S --name 'two words' \\
  --dump && .venv/bin/python -m pytest
# nothing

python3 -m venv .venv
"""
    found = list(read_block(block, "x.md"))
    assert [c.module for c in found] == ["vtadl_jax.compile", "pytest", "venv"]
    assert found[0].arguments == ("--step", "ssim", "--name", "two words", "--dump")
    document = Path(tmp_path / "x.md")
    document.write_text(f"a\n\n   ```sh{block}```\n\n```python\nimport vtadl_jax\n```\n")
    assert commands_of(document) == found
