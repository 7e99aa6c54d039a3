"""Adds good images to a run, or takes images out of it: a new run beside the old one.

python -m vtadl_jax.update --workdir W --good DIR --output W2

The new run has the old one's config and images, those of --good in addition, and none of --remove:
names of training images, separated by commas, or a text file with one name a line. Fitted methods
are fitted again, to all images. Trained methods start from the old weights and take --steps more
steps on old and new images together. The threshold is calibrated again. The old run stays as it
is: to go back, use its folder. Rerun the same command after an interruption.
Exit codes: as vtadl_jax.main.
"""

import functools
import sys
from pathlib import Path
from typing import Any

from absl import flags

from vtadl_jax import options as options_lib
from vtadl_jax.config import Config
from vtadl_jax.data.finding import find_images
from vtadl_jax.errors import UserError
from vtadl_jax.evaluation.predictor import Predictor
from vtadl_jax.evaluation.trained_run import load_calibration, load_run
from vtadl_jax.experiment import make_detector
from vtadl_jax.run import run as run_experiment
from vtadl_jax.runtime.command import run_command
from vtadl_jax.runtime.console import say
from vtadl_jax.runtime.files import read_json
from vtadl_jax.training.setup import RESULTS

FLAGS = flags.FlagValues()
_define = functools.partial(flags.DEFINE_string, flag_values=FLAGS)
_WORKDIR = _define("workdir", "", "Folder of the run to start from.")
_GOOD = flags.DEFINE_multi_string(
    "good", [], "Folder of good images to add; may be given several times.", flag_values=FLAGS
)
_REMOVE = _define("remove", "", "Names of training images to leave out, or a file of them.")
_OUTPUT = _define("output", "", "Folder of the new run.")
_STEPS = flags.DEFINE_integer(
    "steps",
    0,
    "Training steps of a trained method. Default: a fifth of the old run's.",
    0,
    flag_values=FLAGS,
)
SHARE = 5  # the default steps are the old run's, divided by this


def run() -> int:
    """Makes the new run that the flags describe, and compares it with the old one."""
    for flag in (_WORKDIR, _OUTPUT):
        if not flag.value:
            raise UserError(f"no --{flag.name}: {FLAGS[flag.name].help}")
    if not _GOOD.value and not _REMOVE.value:
        raise UserError("neither --good nor --remove: nothing would change")
    old, new = (Path(flag.value).expanduser() for flag in (_WORKDIR, _OUTPUT))
    for folder in _GOOD.value:
        find_images(folder)  # before anything is loaded
    before = load_run(old)
    config = updated(before.config, old, _GOOD.value, names_of(_REMOVE.value), _STEPS.value)
    results = run_experiment(config, new)
    for line in compared(old, new, results, _GOOD.value, load_calibration(before).image_threshold):
        say(line)
    return 0


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
    config: Config, old: Path, good: list[str], removed: tuple[str, ...], steps: int
) -> Config:
    """Returns the config of the new run. old: the folder of the run that it starts from.

    Raises UserError for --steps of a method that is fitted only.
    """
    fields: dict[str, Any] = {
        "data.more": (*config.data.more, *(str(Path(f).expanduser().resolve()) for f in good)),
        "data.without": (*config.data.without, *removed),
        "data.trimmed": (),  # the new run ranks all its images
    }
    trained = config.num_train_steps or config.num_epochs
    if make_detector(config).loss is None or not trained:
        if steps:
            raise UserError(f"--steps {steps}: {config.detector!r} is fitted and has no steps")
        return options_lib.replace(config, fields)
    if config.detector == "experts":
        if steps:
            raise UserError(f"--steps {steps}: 'experts' is trained from the start: leave it out")
        say("note: the parts of 'experts' depend on each other: they are trained from the start")
        return options_lib.replace(config, fields)
    count = steps or max(load_run(old).step // SHARE, 1)
    say(f"{count} steps from the weights of {old}, on old and new images")
    fields |= {"start_from": str(old.resolve()), "num_train_steps": count}
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
