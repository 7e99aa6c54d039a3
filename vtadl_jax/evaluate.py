"""Evaluates a trained run on its test images again, and writes the report.

python -m vtadl_jax.evaluate --workdir runs/mvtec-screw

Evaluates the newest checkpoint again: calibrates on the held-out good images, or fits again without
each part of the good images if the run cross-fits, scores the test images and replaces results and
calibration in the workdir. Images that have moved since training are given with --data_root,
--data_bad, --data_masks and --data_regions. A false-alarm rate given as a flag also applies to
later predictions; a threshold applies to these results only.
A failed or stopped evaluation leaves what was there.
Exit codes: 0 done, 2 a mistake the user can fix, 3 the model's scores are not finite, 75 stopped by
SIGTERM, 130 interrupted.
"""

import functools
import re
import sys
from pathlib import Path
from typing import Any

from absl import flags

from vtadl_jax import options as config_lib
from vtadl_jax import sweep
from vtadl_jax.config import Config
from vtadl_jax.data.records import Splits
from vtadl_jax.data.sources import load_splits
from vtadl_jax.errors import TrainingDiverged, UserError
from vtadl_jax.evaluation.left_out import LeftOut
from vtadl_jax.evaluation.scoring import Evaluator
from vtadl_jax.evaluation.trained_run import load_run
from vtadl_jax.experiment import make_detector
from vtadl_jax.report.folder import check_place
from vtadl_jax.report.write import evaluate, say_results
from vtadl_jax.runtime import sharding
from vtadl_jax.runtime.command import run_command
from vtadl_jax.runtime.compilation_cache import use_own_cache
from vtadl_jax.runtime.console import say
from vtadl_jax.runtime.lock import locked
from vtadl_jax.runtime.preemption import StopRequest
from vtadl_jax.training.assembly import assemble
from vtadl_jax.training.division import divide
from vtadl_jax.training.known_images import (
    describe,
    differences,
    load_marks,
    marks_of,
    trained_and_tested,
)
from vtadl_jax.training.regions import load_regions
from vtadl_jax.training.stored import CONFIG, load_config

FLAGS = flags.FlagValues()
_define = functools.partial(flags.DEFINE_string, flag_values=FLAGS)
_number = functools.partial(flags.DEFINE_float, default=None, flag_values=FLAGS)
_WORKDIR = _define("workdir", "", "Folder of the run.")
_PLACES = {
    "root": _define("data_root", "", "Folder of the images now. Default: as in training."),
    "bad": _define("data_bad", "", "Folder of defective images now. Default: as in training."),
    "masks": _define("data_masks", "", "Folder of their masks now. Default: as in training."),
    "regions": _define(
        "data_regions", "", "Folder of a region for each image now. Default: as in training."
    ),
}
_CATEGORY = _define("category", "", "In a sweep's workdir: a category, or 'all' for the table too.")
_OVERRIDES = {
    "image_threshold": _number("image_threshold", help="Defect if image score >= threshold."),
    "pixel_threshold": _number("pixel_threshold", help="Defect if map value >= threshold."),
    "image_false_alarm_rate": _number(
        "image_false_alarm_rate", help="Share of good images above the calibrated threshold."
    ),
    "pixel_false_alarm_rate": _number(
        "pixel_false_alarm_rate",
        help="Share of good images' pixels above the calibrated threshold.",
    ),
    "original_size": flags.DEFINE_bool(
        "original_size",
        None,
        "Pixel metrics at each image's original size, as eval.original_size.",
        flag_values=FLAGS,
    ),
}


def evaluate_run(
    workdir: Path,
    overrides: dict[str, Any],
    data_root: str = "",
    data_bad: str = "",
    data_masks: str = "",
    data_regions: str = "",
) -> dict[str, Any]:
    """Calibrates and evaluates the newest checkpoint of a workdir; returns what results.json holds.

    overrides: values of fields of the config's `eval`, for these results and their calibration.
    data_root, data_bad, data_masks, data_regions: where the images, and the files of where each is
    inspected, are now; '': as in training. Raises UserError for data_regions of a run with one
    region for all images, which it keeps.
    """
    config = load_config(workdir)
    fields: dict[str, Any] = {f"eval.{name}": value for name, value in overrides.items()}
    places = {"root": data_root, "bad": data_bad, "masks": data_masks, "regions": data_regions}
    if data_regions and ((kept := load_regions(workdir)) is None or kept.area is not None):
        raise UserError(
            f"--data_regions {data_regions}: {workdir} has no region for each image: leave it out"
        )
    fields |= {f"data.{name}": place for name, place in places.items() if place}
    config = config_lib.replace(config, fields)
    with locked(workdir), StopRequest().listening():
        return _evaluate(workdir, config)


def _evaluate(workdir: Path, config: Config) -> dict[str, Any]:
    check_place(workdir)
    try:
        splits = load_splits(config, make_detector(config).needs, draw=False)
    except UserError as error:
        raise UserError(with_own_flags(str(error))) from error
    compare_images(workdir, splits, config)
    division = divide(config, splits.train)
    use_own_cache()
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
    sharding.check_batch("eval.batch_size", config.eval.batch_size, mesh)
    found = load_run(workdir, mesh)
    evaluator = Evaluator(config, found.detector, found.geometry, mesh)
    left_out = None
    try:
        if division.num_folds:
            initial = assemble(config, 1, found.detector).make_state().variables
            left_out = LeftOut.of(evaluator, initial, found.variables, division)
            calibration = left_out.calibrate(evaluator, found.step)
        else:
            calibration = evaluator.calibrate(
                found.variables, division.holdout, found.step, division.fitted
            )
        results = evaluate(
            evaluator,
            found.variables,
            calibration,
            splits.test,
            train=division.records,
            holdout=division.holdout,
            left_out=left_out,
            out=workdir,
        )
    except TrainingDiverged as e:
        raise TrainingDiverged(
            f"checkpoint {found.step} of {workdir}: {e}: train again in another --workdir with a "
            f"smaller optimizer.learning_rate"
        ) from e
    say_results(results, workdir)
    return results.to_dict()


def with_own_flags(text: str) -> str:
    """Returns a message with the flags of this command in place of those of training."""
    text = text.replace("--config.data.category=NAME", "--data_root=DIR/NAME")
    return re.sub(r"--config\.data\.(root|bad|masks|regions)\b", r"--data_\1", text)


def compare_images(workdir: Path, splits: Splits, config: Config) -> None:
    """Prints how the images differ from those that the run was trained and tested on.

    Raises UserError if defective images are new and good images to test with them would be some
    that the run was trained on.
    """
    before = load_marks(workdir)
    if before is None:
        say(f"note: {workdir} has no list of its images, so they are not compared")
        return
    now = marks_of(splits)
    text = describe(differences(before, now))
    if text:
        say(f"warning: since this run was started, images have changed: {text}")
    if seen := trained_and_tested(before, now):
        told = f"{len(seen)} of the {len(now['test'])} test images (for example {seen[0]})"
        if config.data.bad and not load_config(workdir).data.bad:
            raise UserError(
                f"--data_bad {config.data.bad}: run {workdir} was trained without it, on all good "
                f"images; {told} would be of these: train again with "
                f"--config.data.bad={config.data.bad} in another --workdir"
            )
        say(
            f"warning: {told} were training images of this run: its figures are too good; for a "
            f"test, train again in another --workdir"
        )


def run() -> int:
    """Evaluates the runs that the flags name."""
    if not _WORKDIR.value:
        raise UserError("no --workdir: give the folder of a run")
    workdir, category = Path(_WORKDIR.value).expanduser(), _CATEGORY.value
    overrides = {n: f.value for n, f in _OVERRIDES.items() if f.value is not None}
    every = category == sweep.ALL and not (workdir / category / CONFIG).is_file()
    if category == sweep.ALL and not every:
        say(f"note: --category=all is the run {workdir / category}, not every one")
    runs = sweep.runs_in(workdir) if every else [workdir / category]
    for folder in runs:
        say(str(folder))
        places = {f"data_{name}": flag.value for name, flag in _PLACES.items()}
        evaluate_run(folder, overrides, **places)
    if every:
        sweep.tabulate(workdir, show=True)
    return 0


def main(argv: list[str]) -> int:
    return run_command(FLAGS, argv, __doc__, run, "nothing has changed")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
