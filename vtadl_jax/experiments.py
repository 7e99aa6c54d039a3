"""Runs a list of experiments, each with several seeds, and writes one table and plot of them.

python -m vtadl_jax.experiments --plan configs/plans/ablations.txt --data DIR --workdir runs/plan

A line of a plan is `name | arguments of python -m vtadl_jax.main`; '{data}' in it stands for DIR,
'#' begins a comment. Each experiment and seed is a run of its own in the workdir, in a process of
its own. Complete runs are skipped: rerun the same command to continue after an interruption. The
workdir then holds results.md, results.json and results.svg; `--markdown FILE` writes a second copy
of results.md. `--table_only` writes them from the existing runs.

python -m vtadl_jax.experiments --select --plan configs/plans/select.txt --data DIR:SCREW,NUT

--select chooses a variant for each set without its test images: variants are trained on a part of
the good images and ranked by defects drawn on the others. The workdir then holds selection.md, .csv
and .json, and for each set drawn.png, a picture of the drawn defects. `--by sets` ranks by the test
images of the other sets instead; `--agreement` adds how well both rankings agree with the set's own
test images. Lines of the plan choose no images; --data may be given several times.
Exit codes: 0 done, 2 a mistake the user can fix or a run that failed, 3 a loss or score that is not
finite, 75 stopped by SIGTERM, 130 interrupted.
"""

import functools
import shlex
import subprocess
import sys
import time
from pathlib import Path

from absl import flags

from vtadl_jax import sweep
from vtadl_jax.errors import UserError
from vtadl_jax.evaluation.results import RESULTS_FILE, Results
from vtadl_jax.evaluation.selection import DRAWN
from vtadl_jax.plans import Experiment, read_plan
from vtadl_jax.report.experiments import Measured, summarise, to_markdown, to_svg
from vtadl_jax.runtime.command import run_command
from vtadl_jax.runtime.console import say
from vtadl_jax.runtime.files import read_json, write_json, write_text, writing
from vtadl_jax.runtime.lock import locked
from vtadl_jax.selection.choose import SETS, choose
from vtadl_jax.selection.sets import Protocol, parse_sets
from vtadl_jax.training.stored import CONFIG, load_config

FLAGS = flags.FlagValues()
_define = functools.partial(flags.DEFINE_string, flag_values=FLAGS)
_PLAN = _define("plan", "", "File with one line per experiment.")
_DATA = flags.DEFINE_multi_string(
    "data",
    [],
    "Value of {data} in the plan. With --select: DIR of one set or of several, or "
    "DIR:CATEGORY,CATEGORY; may be given several times.",
    flag_values=FLAGS,
)
_WORKDIR = _define("workdir", "runs/experiments", "Folder for the runs and the table.")
_MARKDOWN = _define("markdown", "", "Second file for the table.")
_SEEDS = flags.DEFINE_integer(
    "seeds", 1, "Runs per experiment, with seeds 0, 1, …", flag_values=FLAGS
)
_TABLE_ONLY = flags.DEFINE_bool(
    "table_only", False, "Write the table only; run nothing.", flag_values=FLAGS
)
_SELECT = flags.DEFINE_bool(
    "select", False, "Rank the plan's variants without test images.", flag_values=FLAGS
)
_BY = flags.DEFINE_enum(
    "by",
    DRAWN,
    [DRAWN, SETS],
    "With --select: rank by drawn defects, or by the test images of the other sets.",
    flag_values=FLAGS,
)
_AGREEMENT = flags.DEFINE_bool(
    "agreement",
    False,
    "With --select: add how well the rankings agree with the test images.",
    flag_values=FLAGS,
)
_HELD_OUT = flags.DEFINE_float(
    "held_out", 0.25, "With --select: share of the good images to draw on.", flag_values=FLAGS
)
_DRAWN = flags.DEFINE_integer("drawn", 80, "With --select: defects to draw.", flag_values=FLAGS)
_DRAW_SEED = flags.DEFINE_integer(
    "draw_seed",
    0,
    "With --select: of the held-out images and of the drawing.",
    lower_bound=0,
    flag_values=FLAGS,
)
LEAST_DRAWN = 8  # one of each kind
RECORD = "experiment.json"  # in a run's folder: arguments, seed, commit and seconds


def is_done(experiment: Experiment, folder: Path) -> bool:
    """Returns whether the folder holds a complete run of these arguments.

    Raises UserError if it holds a run of other arguments.
    """
    record = read_record(folder)
    if record and record["arguments"] != list(experiment.arguments):
        raise UserError(
            f"{folder} holds the run of {shlex.join(record['arguments'])}: give another --workdir, "
            "or remove that folder"
        )
    if not (folder / CONFIG).is_file():
        return False
    return sweep.is_complete(load_config(folder), folder)


def read_record(folder: Path) -> dict | None:
    """Returns the record of a run, None if there is none."""
    path = folder / RECORD
    try:
        record = read_json(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as e:
        raise UserError(f"{path} can't be read ({e}): remove it to run again") from e
    kinds = {"arguments": list, "seed": int, "seconds": float, "commit": str}
    if wrong := [name for name, kind in kinds.items() if type(record.get(name)) is not kind]:
        raise UserError(f"{path} has no {wrong[0]} of a run: remove it to run again")
    return record


def run_experiment(experiment: Experiment, seed: int, folder: Path, data: str) -> None:
    """Starts or continues one run. Raises UserError if the program fails."""
    arguments = [argument.replace("{data}", data) for argument in experiment.arguments]
    before = (read_record(folder) or {}).get("seconds", 0.0)
    start = time.perf_counter()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "vtadl_jax.main", *arguments),
            *(f"--config.seed={seed}", f"--workdir={folder}"),
        ],
        check=False,
    )
    record = {
        "arguments": list(experiment.arguments),
        "seed": seed,
        "seconds": before + time.perf_counter() - start,
        "commit": commit(),
    }
    if folder.is_dir():  # absent after an early error: a run starts only in an absent folder
        write_json(folder / RECORD, record)
    if done.returncode:
        raise UserError(
            f"{experiment.name}, seed {seed}, ended with exit code {done.returncode}: see above"
        )


def commit() -> str:
    """Returns the commit of this checkout, with '+' for changed files; '-' outside a checkout."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "-"


def collect(experiments: list[Experiment], workdir: Path) -> list[Measured]:
    """Returns the complete runs, in the plan's order."""
    found = []
    for experiment in experiments:
        folders = sorted(workdir.glob(f"{experiment.name}/seed-*"))
        for folder in folders:
            record = read_record(folder)
            if record and is_done(experiment, folder):
                results = Results.load(folder / RESULTS_FILE)
                found.append(Measured(experiment.name, experiment.command, record, results))
    return found


def tabulate(experiments: list[Experiment], workdir: Path, markdown: str = "") -> None:
    """Writes results.md, .svg and .json of the complete runs, and results.md to `markdown` too."""
    rows = summarise(collect(experiments, workdir))
    if not rows:
        return
    text = to_markdown(rows)
    for path in (workdir / "results.md", *([Path(markdown)] if markdown else [])):
        write_text(path, text)
    write_text(workdir / "results.svg", to_svg(rows))
    write_json(workdir / "results.json", [row.as_dict() for row in rows])


def run() -> int:
    """Runs what the flags ask for."""
    if not _PLAN.value:
        raise UserError("no --plan: give a file with one line per experiment")
    if _SEEDS.value < 1:
        raise UserError(f"--seeds {_SEEDS.value}: use 1 or more")
    experiments, workdir = read_plan(Path(_PLAN.value)), Path(_WORKDIR.value).expanduser()
    if _SELECT.value:
        return run_selection(experiments, workdir)
    for flag in (_AGREEMENT, _BY, _HELD_OUT, _DRAWN, _DRAW_SEED):
        if flag.value != flag.default:
            raise UserError(f"--{flag.name} {flag.value} is for --select: add --select")
    if len(_DATA.value) > 1:
        raise UserError(f"--data {_DATA.value[1]}: only --select takes several: give one")
    data = "".join(_DATA.value)
    if not data and any("{data}" in a for e in experiments for a in e.arguments):
        raise UserError("no --data: give --data DIR, for which {data} in the plan stands")
    for experiment in [] if _TABLE_ONLY.value else experiments:
        for seed in range(_SEEDS.value):
            folder = workdir / experiment.name / f"seed-{seed}"
            if is_done(experiment, folder):
                say(f"{experiment.name}, seed {seed}: complete")
                continue
            say(f"{experiment.name}, seed {seed}")
            run_experiment(experiment, seed, folder, data)
            tabulate(experiments, workdir, _MARKDOWN.value)
    workdir.mkdir(parents=True, exist_ok=True)
    tabulate(experiments, workdir, _MARKDOWN.value)
    if (workdir / "results.md").is_file():
        print((workdir / "results.md").read_text(encoding="utf-8"))
    return 0


def run_selection(variants: list[Experiment], workdir: Path) -> int:
    """Ranks variants as the flags of --select say, and prints the tables."""
    for flag in (_SEEDS, _TABLE_ONLY, _MARKDOWN):
        if flag.value != flag.default:
            raise UserError(f"--{flag.name} {flag.value} does not go with --select: leave it out")
    if _DRAWN.value < LEAST_DRAWN:
        raise UserError(f"--drawn {_DRAWN.value}: use {LEAST_DRAWN} or more")
    sets = parse_sets(_DATA.value)
    with writing(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
    protocol = Protocol(workdir, _HELD_OUT.value, _DRAWN.value, seed=_DRAW_SEED.value)
    with locked(workdir):
        print(choose(variants, sets, protocol, _BY.value, _AGREEMENT.value))
    say(f"see {workdir / 'selection.md'}")
    return 0


def main(argv: list[str]) -> int:
    return run_command(FLAGS, argv, __doc__, run, "rerun the same command to continue")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
