"""Reads plans: text files with a line `name | arguments of python -m vtadl_jax.main`."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from vtadl_jax.errors import UserError

OWN = ("--workdir", "--config.seed")  # set for each run


@dataclass(frozen=True)
class Experiment:
    """One line of a plan.

    name: of its folder and its row. arguments: of `python -m vtadl_jax.main`, with {data}.
    """

    name: str
    arguments: tuple[str, ...]

    @property
    def command(self) -> str:
        """Returns the command line that runs the experiment."""
        return shlex.join(("python", "-m", "vtadl_jax.main", *self.arguments))


def read_plan(path: Path) -> list[Experiment]:
    """Reads a file of experiments. Raises UserError naming the line that can't be understood."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"--plan {path} can't be read ({reason}): give a file of experiments"
        ) from error
    found: dict[str, Experiment] = {}
    for number, line in enumerate(lines, 1):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise UserError(f"{path} line {number}: {error}") from error
        if words:
            experiment = _experiment(words, f"{path} line {number}")
            if experiment.name in found:
                raise UserError(
                    f"{path} line {number}: {experiment.name} is there twice: rename it"
                )
            found[experiment.name] = experiment
    if not found:
        raise UserError(f"--plan {path} names no experiment: add a line 'name | --config FILE'")
    return list(found.values())


def _experiment(words: list[str], where: str) -> Experiment:
    bar = words.index("|") if "|" in words else 0
    name, arguments = "-".join(words[:bar]), tuple(words[bar + 1 :])
    if not name or not arguments or "/" in name:
        raise UserError(f"{where} is not 'name | arguments', with a name that can be a folder's")
    for argument in arguments:
        if argument.partition("=")[0] in OWN:
            raise UserError(f"{where}: {argument} is set for each run: leave it out")
    return Experiment(name, arguments)
