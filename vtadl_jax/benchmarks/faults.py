"""Tests recovery from faults: injects faults at random moments and reruns the same command.

python -m vtadl_jax.benchmarks.faults --trials 30

Prints a table by fault. A trial passes if the second run finishes, its parameters are bit for bit
those of a run without faults, and it lost no more steps than since the last checkpoint. Exit codes:
0 all passed, 1 some failed, 2 a mistake.
"""

import contextlib
import dataclasses
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags

from vtadl_jax.benchmarks.measures import crashes, started
from vtadl_jax.benchmarks.timing import check_json, write_json
from vtadl_jax.data.synthetic.dataset import make_dataset
from vtadl_jax.errors import UserError
from vtadl_jax.runtime.command import run_command
from vtadl_jax.runtime.console import say

FLAGS = flags.FlagValues()
_TRIALS = flags.DEFINE_integer("trials", 30, "Number of faults.", 1, flag_values=FLAGS)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the moments of the faults.", flag_values=FLAGS)
_FAULT = flags.DEFINE_string("fault", "", "Only faults with this in their name.", flag_values=FLAGS)
_JSON = flags.DEFINE_string("json", "", "Also write every trial to this file.", flag_values=FLAGS)
ATTEMPTS = 4  # the fault's moment may be missed
DISK_MIB = 24


class Trials:
    """Trials in folders below `base`, and the runs without faults for comparison."""

    def __init__(self, base: Path, seed: int):
        self._base, self._rng = base, random.Random(seed)
        self._undisturbed: dict[tuple[str, int], list[np.ndarray]] = {}

    def data(self, folder: Path) -> Path:
        return make_dataset(
            folder / "data", image_size=32, num_train=20, num_test_good=4, num_per_defect=2
        )

    def undisturbed(self, source: str, processes: int) -> list[np.ndarray]:
        """Returns the parameters at the end of a run without faults."""
        key = source, processes
        if key not in self._undisturbed:
            folder = self._base / f"undisturbed-{source}-{processes}"
            place = started.Place(folder, self.data(folder), processes=processes)
            if source == "prepared":
                started.prepare(place)
            program = place.start()
            if program.wait() != 0:
                raise UserError(f"a run without any fault failed: {program.text[-1000:]}")
            self._undisturbed[key] = crashes.parameters(place.workdir)
        return self._undisturbed[key]

    def run(self, number: int, fault: str) -> crashes.Outcome:
        processes = 2 if fault == "killed peer process" else 1
        source = "prepared" if fault == "kill -9 during prepare" else "folder"
        want = self.undisturbed(source, processes)
        for attempt in range(ATTEMPTS):
            folder = self._base / f"{number}-{attempt}"
            place = started.Place(folder, self.data(folder), processes=processes)
            small = crashes.small_disk(place.disk, DISK_MIB) if fault == "full disk" else None
            with small or contextlib.nullcontext():
                try:
                    return crashes.trial(fault, place, self._rng, want)
                except started.Missed:
                    say(f"  missed the moment, attempt {attempt + 1} of {ATTEMPTS}")
        raise UserError(f"{fault}: the run was always over before it: try again")


def table(outcomes: Sequence[crashes.Outcome]) -> str:
    """Returns one line per fault."""
    lines = [
        f"{'fault':28}{'trials':>7}{'resumed':>9}{'same bits':>11}{'most steps lost':>17}"
        f"{'since save':>12}  exit codes"
    ]
    for fault in crashes.FAULTS:
        rows = [o for o in outcomes if o.fault == fault]
        if rows:
            lost, risk = (max(getattr(o, name) for o in rows) for name in ("lost", "at_risk"))
            codes = ", ".join(map(str, sorted({o.code for o in rows})))
            lines.append(
                f"{fault:28}{len(rows):7}{sum(o.resumed for o in rows):9}"
                f"{sum(o.equal for o in rows):11}{lost:17}{risk:12}  {codes}"
            )
    good = sum(o.good for o in outcomes)
    lines.append(f"{good} of {len(outcomes)} as they should be")
    return "\n".join(lines)


def run() -> int:
    check_json(_JSON.value)
    faults = [name for name in crashes.FAULTS if _FAULT.value in name]
    if not faults:
        raise UserError(f"--fault {_FAULT.value!r}: known are {', '.join(crashes.FAULTS)}")
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        trials = Trials(Path(folder), _SEED.value)
        for number in range(_TRIALS.value):
            fault = faults[number % len(faults)]
            outcome = trials.run(number, fault)
            outcomes.append(outcome)
            verdict = "good" if outcome.good else "BAD"
            say(f"{number + 1} of {_TRIALS.value}: {fault}: {verdict}: {outcome.message}")
    print(table(outcomes))
    if _JSON.value:
        write_json({"trials": [dataclasses.asdict(o) for o in outcomes]}, _JSON.value)
    return 0 if all(o.good for o in outcomes) else 1


def main(argv: list[str]) -> int:
    return run_command(FLAGS, argv, __doc__, run, "nothing was kept")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
