"""Adds good images to a run, or takes images out of it: a new run beside the old one.

python -m vtadl_jax.update --workdir W --good DIR --output W2
python -m vtadl_jax.update --workdir W --sorted sorted.json --output W2
python -m vtadl_jax.update --workdir W2 --history
python -m vtadl_jax.update --workdir W2 --back 0 --output W3

The new run has the old one's config and images, those of --good and the good ones of --sorted in
addition, and none of --remove: names of training images, separated by commas, or a text file with
one name a line. Fitted methods are fitted again, to all images. Trained methods start from the old
weights and take --steps more steps on old and new images together; --ewc keeps weights that matter
for the old images. The threshold is calibrated again. The old run stays as it is. Rerun the same
command after an interruption.

--history prints the updates that made a run. --back N copies the run after update N, 0 for the one
before the first, to --output, bit for bit.
Exit codes: as vtadl_jax.main.
"""

import functools
import math
import sys
from pathlib import Path
from typing import Any

from absl import flags

from vtadl_jax import options as options_lib
from vtadl_jax.config import Config
from vtadl_jax.data.finding import find_images
from vtadl_jax.data.sorted_images import read_sorted
from vtadl_jax.errors import UserError, printable
from vtadl_jax.evaluation.predictor import Predictor
from vtadl_jax.evaluation.trained_run import load_calibration, load_run
from vtadl_jax.experiment import make_detector
from vtadl_jax.run import run as run_experiment
from vtadl_jax.runtime.command import run_command
from vtadl_jax.runtime.console import say
from vtadl_jax.runtime.files import read_json
from vtadl_jax.runtime.text_table import plural, table
from vtadl_jax.training.going_back import go_back
from vtadl_jax.training.setup import RESULTS
from vtadl_jax.training.stored import load_config
from vtadl_jax.training.updates import HEADER, first_steps_of, load_updates, record_update, rows_of

FLAGS = flags.FlagValues()
_define = functools.partial(flags.DEFINE_string, flag_values=FLAGS)
_WORKDIR = _define("workdir", "", "Folder of the run to start from.")
_GOOD = flags.DEFINE_multi_string(
    "good", [], "Folder of good images to add; may be given several times.", flag_values=FLAGS
)
_SORTED = flags.DEFINE_multi_string(
    "sorted",
    [],
    "File that the page of a prediction saved: its images that are good after all are added; may "
    "be given several times.",
    flag_values=FLAGS,
)
_REMOVE = _define("remove", "", "Names of training images to leave out, or a file of them.")
_OUTPUT = _define("output", "", "Folder of the new run.")
_STEPS = flags.DEFINE_integer(
    "steps",
    0,
    "Training steps of a trained method. Default: a fifth of the first run's.",
    0,
    flag_values=FLAGS,
)
_EWC = flags.DEFINE_float(
    "ewc",
    0.0,
    "Trained methods: strength of elastic weight consolidation, as start_penalty; 0: none.",
    0.0,
    flag_values=FLAGS,
)
_HISTORY = flags.DEFINE_bool(
    "history", False, "Print the updates that made the run, and end.", flag_values=FLAGS
)
_BACK = flags.DEFINE_integer(
    "back",
    None,
    "Copy the run after this update to --output; 0: the run before the first.",
    0,
    flag_values=FLAGS,
)
SHARE = 5  # the default steps are the first run's, divided by this
NAMED = 10  # images on a line


def run() -> int:
    """Makes the new run that the flags describe, and compares it with the old one."""
    if not _WORKDIR.value:
        raise UserError(f"no --workdir: {FLAGS['workdir'].help}")
    old = Path(_WORKDIR.value).expanduser()
    if _HISTORY.value:
        show_history(old)
        return 0
    if not _OUTPUT.value:
        raise UserError(f"no --output: {FLAGS['output'].help}")
    new = Path(_OUTPUT.value).expanduser()
    changes = [f"--{f.name}" for f in (_GOOD, _SORTED, _REMOVE) if f.value]
    if _BACK.value is not None:
        if changes:
            raise UserError(f"--back copies a run and takes no {changes[0]}: update the copy then")
        load_config(old)
        say(go_back(old, _BACK.value, new))
        return 0
    if not changes:
        raise UserError("neither --good nor --sorted nor --remove: nothing would change")
    for folder in _GOOD.value:
        find_images(folder)  # before anything is loaded
    good = [*_GOOD.value, *(path for file in _SORTED.value for path in sorted_good(file))]
    before = load_run(old)
    first = first_steps_of(old, before.config, before.step)
    removed = names_of(_REMOVE.value)
    config = updated(before.config, old, good, removed, _STEPS.value, first, _EWC.value)
    steps = config.num_train_steps if config.start_from == str(old.resolve()) else 0
    how = f"consolidation {config.start_penalty:g}" if config.start_penalty else ""
    results = run_experiment(
        config,
        new,
        remember=lambda marks: record_update(old, new, marks, steps, first, how),
    )
    for line in compared(old, new, results, good, load_calibration(before).image_threshold):
        say(line)
    return 0


def show_history(workdir: Path) -> None:
    """Prints a row for each update that made a run, and the images of each."""
    load_config(workdir)
    updates = load_updates(workdir)
    if not updates:
        print(f"{printable(workdir)} was not updated: it was trained from the start")
        return
    rows = [[printable(cell) for cell in row] for row in rows_of(updates)]
    for line in table(HEADER, rows, right=(True, False, True, True, True, False, False, False)):
        print(line)
    for number, each in enumerate(updates, 1):
        for what, names in (("added", each.added), ("removed", each.removed)):
            if names:
                print(f"update {number} {what}: {_named(list(names))}")


def sorted_good(file: str) -> list[str]:
    """Returns the good images of a file of the page; says which are not added, and why."""
    found = read_sorted(Path(file).expanduser())
    for what, paths in (
        ("not found, not added", found.missing),
        ("changed since scored, not added", found.changed),
        ("with a missed defect, not trained on", found.defective),
    ):
        if paths:
            say(f"--sorted: {plural(len(paths), 'image')} {what}: {_named(list(map(str, paths)))}")
    say(f"--sorted: {plural(len(found.good), 'image')} good after all, by {printable(file)}")
    return [str(path) for path in found.good]


def _named(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if names[NAMED:] else ""
    return ", ".join(map(printable, names[:NAMED])) + more


def names_of(text: str) -> tuple[str, ...]:
    """Returns the names in a flag: separated by commas, or the lines of a file."""
    path = Path(text).expanduser()
    if text and path.is_file():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--remove {text} can't be read ({error})") from error
        return tuple(line.strip() for line in lines if line.strip())
    return tuple(name.strip() for name in text.split(",") if name.strip())


def updated(
    config: Config,
    old: Path,
    good: list[str],
    removed: tuple[str, ...],
    steps: int,
    first: int,
    ewc: float,
) -> Config:
    """Returns the config of the new run.

    old: the folder of the run that it starts from. first: the steps of the run that was trained
    from the start. Raises UserError for --steps and --ewc of a method that takes no more steps.
    """
    fields: dict[str, Any] = {
        "data.more": (*config.data.more, *(str(Path(f).expanduser().resolve()) for f in good)),
        "data.without": (*config.data.without, *removed),
        "data.trimmed": (),  # the new run ranks all its images
        "start_penalty": 0.0,
    }
    if not math.isfinite(ewc):
        raise UserError(f"--ewc {ewc}: give a finite number, 0 for none")
    trained = config.num_train_steps or config.num_epochs
    asked = f"--steps {steps}" if steps else f"--ewc {ewc:g}" if ewc else ""
    if (
        make_detector(options_lib.replace(config, {"start_penalty": 0.0})).loss is None
        or not trained
    ):
        if asked:
            raise UserError(f"{asked}: {config.detector!r} is fitted and has no steps")
        return options_lib.replace(config, fields)
    if config.detector == "experts":
        if asked:
            raise UserError(f"{asked}: 'experts' is trained from the start: leave it out")
        say("note: the parts of 'experts' depend on each other: they are trained from the start")
        return options_lib.replace(config, fields)
    count = steps or max(first // SHARE, 1)
    say(f"{count} steps from the weights of {old}, on old and new images")
    fields |= {"start_from": str(old.resolve()), "num_train_steps": count, "start_penalty": ewc}
    return options_lib.replace(config, fields)


def compared(
    old: Path, new: Path, results: dict[str, Any], good: list[str], threshold: float
) -> list[str]:
    """Returns lines on what changed: metrics of the same test images, false alarms among the added
    images by the old run, and the threshold."""
    try:
        before = read_json(old / "results.json")
    except (OSError, ValueError):
        before = {}
    lines = [
        f"{name}: {before[name]:.3f} before, {results[name]:.3f} now"
        for name in RESULTS
        if isinstance(before.get(name), float) and isinstance(results.get(name), float)
    ]
    paths = [path for folder in good for path in find_images(folder).images]
    if paths:
        found = Predictor.from_workdir(old)(paths)
        alarms = sum(prediction.is_defective for prediction in found)
        lines.append(f"the old run calls {alarms} of the {len(paths)} added images defective")
    now = load_calibration(load_run(new)).image_threshold
    lines.append(f"image threshold: {threshold:.4g} before, {now:.4g} now, on scales of their own")
    lines.append(f"the old run stays in {old}; the new one is {new}")
    return lines


def main(argv: list[str]) -> int:
    return run_command(FLAGS, argv, __doc__, run, "rerun the same command to continue")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
