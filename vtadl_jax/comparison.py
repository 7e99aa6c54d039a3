"""Compares methods on categories: what they cost, what they need, how well they find defects.

python -m vtadl_jax.comparison --data DIR --methods all --categories all --workdir W

The comparison of chapter 7 of Mishra's thesis as one command. A cell is one method on one category:
it is trained or fitted for at most --minutes, evaluated and measured. Complete cells are not run
again; rerun the same command to continue. A cell that fails is recorded with its reason and the
others go on. The workdir then holds comparison.html, .md, .csv and .json.

--methods takes names, chapter7, authors, others or all. --data DIR holds categories in MVTec AD's
layout; DIR:NAME,NAME some of them; it may be given several times. Supervised methods are tested on
folds whose parts were not trained on; --folds N runs the first N of them. A method with a frozen
encoder needs --weights=METHOD=FILE, or --encoder=NAME=FILE for another network that stands in.
The tables are of all cells in the workdir: --report_only writes them and runs nothing;
--latency_only measures memory and latency of complete cells again, for example on a quiet machine.
Exit codes: 0 done, 1 some cells failed, 2 a mistake the user can fix, 75 stopped by SIGTERM, 130
interrupted.
"""

import functools
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from vtadl_jax.comparing.arguments import parse_weights
from vtadl_jax.comparing.cells import (
    FAILED,
    counted,
    load_cell,
    refresh_latency,
    run_cell,
    stored_cells,
)
from vtadl_jax.comparing.making import COMPLETE, Protocol
from vtadl_jax.comparing.methods import parse_methods
from vtadl_jax.comparing.writing import write_all, write_into
from vtadl_jax.configs.segmentation import GAPS
from vtadl_jax.errors import UserError
from vtadl_jax.experiments import commit
from vtadl_jax.runtime.command import run_command
from vtadl_jax.runtime.compilation_cache import use_compilation_cache
from vtadl_jax.runtime.console import say
from vtadl_jax.runtime.files import writing
from vtadl_jax.runtime.lock import locked
from vtadl_jax.selection.sets import ImageSet, parse_sets

FLAGS = flags.FlagValues()
_define = functools.partial(flags.DEFINE_string, flag_values=FLAGS)
_multi = functools.partial(flags.DEFINE_multi_string, default=[], flag_values=FLAGS)
_bool = functools.partial(flags.DEFINE_bool, default=False, flag_values=FLAGS)
_DATA = _multi("data", help="DIR or DIR:CATEGORY,CATEGORY; may be given several times.")
_METHODS = _define("methods", "all", "Names, groups or all, with commas.")
_CATEGORIES = _define("categories", "all", "Names with commas, in the order to run, or all.")
_WORKDIR = _define("workdir", "runs/comparison", "Folder for the cells and the tables.")
_MINUTES = flags.DEFINE_float(
    "minutes", 20.0, "Of the training steps of a cell.", lower_bound=0.0, flag_values=FLAGS
)
_FOLDS = flags.DEFINE_integer(
    "folds", 0, "Of a supervised method's folds, how many to run; 0: all.", 0, flag_values=FLAGS
)
_WEIGHTS = _multi("weights", help="METHOD=FILE: a method's own pretrained weights.")
_ENCODER = _define("encoder", "", "NAME=FILE: a frozen encoder for methods without own weights.")
_GAP = _multi("group_gap", help="CATEGORY=N: numbers of one part's photographs are closer.")
_TPU = _define("tpu", "", "Topology for the TPU compiler's estimates, as v5e:1x1.")
_MARKDOWN = _define(
    "markdown", "", "Document whose tables, between two comment lines, are replaced."
)
_REPORT = _bool("report_only", help="Write the tables of the workdir only; run nothing.")
_LATENCY = _bool("latency_only", help="Measure the complete cells again; train nothing.")


def sets_of(data: list[str], categories: str) -> list[ImageSet]:
    """Returns the sets to run, in order. Raises UserError for a category that is not there."""
    found = {one.name: one for one in parse_sets(data)}
    wanted = [name.strip() for name in categories.split(",") if name.strip()]
    if wanted == ["all"]:
        return list(found.values())
    for name in wanted or [""]:
        if name not in found:
            raise UserError(f"--categories {name!r}: --data has {', '.join(found)}")
    return [found[name] for name in dict.fromkeys(wanted)]


def gaps_of(texts: list[str]) -> dict[str, int]:
    """Returns category → gap of CATEGORY=N, with the known ones of configs/segmentation.py."""
    found = dict(GAPS)
    for text in texts:
        name, _, number = text.partition("=")
        if not number.isdecimal():
            raise UserError(f"--group_gap {text!r}: give CATEGORY=N, as magnetic_tile=150")
        found[name] = int(number)
    return found


def run() -> int:
    """Runs what the flags ask for."""
    if _MINUTES.value <= 0:
        raise UserError(f"--minutes {_MINUTES.value:g}: use more than 0")
    if _REPORT.value and _LATENCY.value:
        raise UserError("--report_only measures nothing: leave it or --latency_only out")
    workdir = Path(_WORKDIR.value).expanduser()
    if _REPORT.value:
        return report(workdir, [])
    methods, sets = parse_methods(_METHODS.value), sets_of(_DATA.value, _CATEGORIES.value)
    protocol = Protocol(
        workdir,
        _MINUTES.value,
        _FOLDS.value,
        parse_weights(_WEIGHTS.value, _ENCODER.value),
        gaps_of(_GAP.value),
        _TPU.value,
        commit(),
    )
    with writing(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
    use_compilation_cache(workdir)
    pairs = [(method, one) for one in sets for method in methods]
    with locked(workdir):
        for number, (method, one) in enumerate(pairs, 1):
            stored = load_cell(protocol.folder(method, one))
            done = stored is not None and stored["status"] == COMPLETE
            state = ": complete" if done and not _LATENCY.value else ""
            say(f"{one.name}, {method.name} ({number} of {len(pairs)}){state}")
            (refresh_latency if _LATENCY.value else run_cell)(method, one, protocol)
            write_all(workdir, stored_cells(workdir, [s.name for s in sets]))
        return report(workdir, [one.name for one in sets])


def report(workdir: Path, categories: Sequence[str]) -> int:
    """Writes and prints the tables of all cells in the workdir; returns the exit code."""
    cells = stored_cells(workdir, categories)
    if not cells:
        raise UserError(f"{workdir} holds no cells: run the comparison without --report_only")
    text = write_all(workdir, cells)
    if _MARKDOWN.value:
        write_into(Path(_MARKDOWN.value), cells)
    print(text)
    say(f"{counted(cells)}: see {workdir / 'comparison.html'}")
    return int(any(cell["status"] == FAILED for cell in cells))


def main(argv: list[str]) -> int:
    return run_command(FLAGS, argv, __doc__, run, "rerun the same command to continue")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
