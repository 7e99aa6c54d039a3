"""Counts false alarms of fitted detectors on good images that they do not know, for few images.

python -m vtadl_jax.benchmarks.false_alarms --config configs/patch_memory.py \
  --config.data.root=DIR --n 4,8,16 --splits 20

Good training images only. For each number of images and each split, drawn by seed, that many are
fitted and calibrated as a run does it, with cross-fitting and turned copies where a run would take
them, and up to --most of the others count alarms. Prints a Markdown table of the mean rate over the
splits, beside the rate that the program states. Exit codes: 0 done, 2 a mistake.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from vtadl_jax import experiment
from vtadl_jax.benchmarks.timing import check_json, write_json
from vtadl_jax.config import Config
from vtadl_jax.data.decode import load_image
from vtadl_jax.data.records import Record, shuffled
from vtadl_jax.data.sources import load_splits
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.detectors.contract import Detector, Variables
from vtadl_jax.errors import UserError
from vtadl_jax.evaluation.calibration import (
    COPIES,
    CROSS_FIT,
    Calibration,
    expected_rate,
    largest_rate,
)
from vtadl_jax.evaluation.left_out import LeftOut
from vtadl_jax.evaluation.scoring import Evaluator
from vtadl_jax.options import replace
from vtadl_jax.runtime import sharding
from vtadl_jax.runtime.console import say, track
from vtadl_jax.training.assembly import assemble
from vtadl_jax.training.division import decide, divide, is_fitted
from vtadl_jax.training.fitting import gather_rows, solve
from vtadl_jax.training.setup import read_pretrained, with_channels
from vtadl_jax.training.stored import make_geometry

FLAGS = flags.FlagValues()
_N = flags.DEFINE_list("n", ["4", "8", "16"], "Numbers of good images.", flag_values=FLAGS)
_SPLITS = flags.DEFINE_integer(
    "splits", 20, "Splits of each number.", lower_bound=1, flag_values=FLAGS
)
_MOST = flags.DEFINE_integer(
    "most", 100, "Most images that count alarms in a split.", lower_bound=1, flag_values=FLAGS
)
_JSON = flags.DEFINE_string("json", "", "Also write the figures to this file.", flag_values=FLAGS)
_MARKDOWN = flags.DEFINE_string(
    "markdown", "", "Also write the table to this file.", flag_values=FLAGS
)

LEAST_OTHERS = 10  # images that count alarms
TITLES = (
    "good images",
    "calibrated by",
    "stated rate",
    "bound",
    "false alarms",
    "standard error",
    "of them unlike all",
    "p ≤ 0.2",
)


class Bench:
    """A fitted detector, compiled once, and its good images in memory."""

    def __init__(self, config: Config):
        splits = load_splits(config)
        if config.data.channels == 0:
            config = with_channels(config, splits.train)
        self.config, self.geometry = config, make_geometry(config)
        self.detector = experiment.make_detector(config)
        if not is_fitted(config, self.detector):
            raise UserError(
                f"detector {config.detector!r} is trained in steps: give a config of a fitted one, "
                f"or --config.num_train_steps=0 --config.num_epochs=0"
            )
        self.pretrained = read_pretrained(config, self.detector)
        assembly = assemble(config, 1, self.detector, self.pretrained)
        self.initial: Variables = jax.device_get(assembly.make_state().variables)
        self.splits, self.category = splits, splits.category
        good = [record for record in splits.train if not record.label]
        self.good = in_memory(good, self.geometry, config)
        self.mesh = sharding.make_mesh(1)
        self.scorer = self.evaluator(config).scorer

    def evaluator(self, config: Config) -> Evaluator:
        """Returns an evaluator with a split's seed."""
        return Evaluator(config, self.detector, self.geometry, self.mesh)

    def split(self, count: int, seed: int, most: int) -> dict[str, Any]:
        """Fits and calibrates on `count` images, and counts alarms among up to `most` others."""
        ordered = shuffled(self.good, seed)
        config = replace(self.config, {"seed": seed})
        config, _ = decide(config, self.detector, ordered[:count])
        evaluator = self.evaluator(config)
        evaluator.scorer = self.scorer
        variables, calibration = fit_and_calibrate(
            evaluator, self.detector, self.initial, ordered[:count], self.geometry
        )
        new = ordered[count : count + most]
        outputs = evaluator.run(variables, new, "", calibrated=calibration)
        scores = calibration.image_scores(outputs.terms, outputs.descriptions)
        unlike = calibration.unlike(outputs.descriptions)
        by_terms = calibration.image_scores(outputs.terms) >= calibration.image_threshold
        return {
            "calibration": calibration,
            "orientations": config.data.orientations,
            "others": len(scores),
            "alarms": float((scores >= calibration.image_threshold).mean()),
            "unlike_only": float((unlike & ~by_terms).mean()),
            "p_0.2": float((calibration.p_values(scores) <= 0.2).mean()),
        }


def in_memory(records: Sequence[Record], geometry: Geometry, config: Config) -> list[Record]:
    """Returns records with their pixels at the network's size."""
    found = []
    for record in track(records, len(records), "decode images"):
        pixels = load_image(record.image, config.data.channels, config.data.bits)
        pixels = geometry.image(pixels, config.data.channels)
        found.append(dataclasses.replace(record, image=pixels))
    return found


def fit_and_calibrate(
    evaluator: Evaluator,
    detector: Detector,
    initial: Variables,
    images: Sequence[Record],
    geometry: Geometry,
) -> tuple[Variables, Calibration]:
    """Returns variables fitted to images, and their calibration, as a run makes them."""
    config = evaluator.config
    division = divide(config, images)
    assert detector.fit is not None, "only fitted detectors are measured"
    rows = gather_rows(detector.fit, initial, division.fitted, geometry, config)
    variables = solve(detector.fit, initial, rows, config)
    if division.num_folds:
        left_out = LeftOut.of(evaluator, initial, variables, division, show=False)
        return left_out.fitted, left_out.calibrate(evaluator, 0)
    tails = evaluator.tail_rows(variables, division.holdout)
    variables = evaluator.fit_tails(variables, tails)
    calibration = evaluator.calibrate(variables, division.holdout, 0, division.fitted, tails)
    return variables, calibration


def measure(bench: Bench, counts: Sequence[int], splits: int, most: int) -> list[dict[str, Any]]:
    """Returns a row for each number of images that leaves others to count alarms."""
    rows = []
    for count in counts:
        others = len(bench.good) - count
        if others < LEAST_OTHERS:
            say(f"{count} images left out: of {len(bench.good)} good ones {others} would be left")
            continue
        found = []
        for seed in track(range(splits), splits, f"{count} images"):
            found.append(bench.split(count, seed, most))
        rows.append(row_of(count, found, bench.config.eval.image_false_alarm_rate))
    return rows


def row_of(count: int, found: Sequence[dict[str, Any]], rate: float) -> dict[str, Any]:
    """Returns the means over the splits, with the rates that the program states."""
    calibration: Calibration = found[0]["calibration"]
    number, folds = calibration.num_images, calibration.num_folds
    alarms = np.array([one["alarms"] for one in found])
    guarantees = calibration.calibrated_by != COPIES
    stated = expected_rate(number, rate) if guarantees else None
    return {
        "images": count,
        "calibrated_by": calibration.calibrated_by,
        "calibration_images": number,
        "folds": folds,
        "stated_rate": stated,
        "bound": None if stated is None else largest_rate(stated, number, folds),
        "alarm_rate": float(alarms.mean()),
        "standard_error": float(alarms.std(ddof=min(1, len(alarms) - 1)) / len(alarms) ** 0.5),
        "alarm_rates": alarms.tolist(),
        "unlike_only": float(np.mean([one["unlike_only"] for one in found])),
        "p_0.2": float(np.mean([one["p_0.2"] for one in found])) if guarantees else None,
        "others": found[0]["others"],
        "orientations": [one["orientations"] for one in found],
    }


def table_of(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the lines of a Markdown table."""
    lines = [f"| {' | '.join(TITLES)} |", f"|--:|---{'|--:' * (len(TITLES) - 2)}|"]
    for row in rows:
        how = f"{row['calibration_images']} held out"
        if row["calibrated_by"] == CROSS_FIT:
            loo = row["folds"] == row["calibration_images"]
            how = "leave-one-out" if loo else f"{row['folds']} folds"
        elif row["calibrated_by"] == COPIES:
            how = "moved copies"
        names = ("stated_rate", "bound", "alarm_rate", "standard_error", "unlike_only", "p_0.2")
        cells = ["-" if row[n] is None else f"{100 * row[n]:.1f} %" for n in names]
        lines.append(f"| {' | '.join((str(row['images']), how, *cells))} |")
    return lines


def run(text: str, overrides: Sequence[str]) -> None:
    """Measures what the command line names; prints and writes the figures."""
    if not text:
        raise UserError("no config: give --config FILE, for example --config configs/demo.py")
    check_json(_JSON.value)
    try:
        counts = [int(number) for number in _N.value]
    except ValueError:
        counts = [0]
    if min(counts, default=0) < 1:
        raise UserError(f"--n {','.join(_N.value)}: give numbers of images, for example 4,8,16")
    config, name = experiment.load(text, overrides)
    bench = Bench(config)
    rows = measure(bench, counts, _SPLITS.value, _MOST.value)
    if not rows:
        raise UserError(f"--n {','.join(_N.value)}: {len(bench.good)} good images are too few")
    lines = table_of(rows)
    figures = {
        "config": name,
        "category": bench.category,
        "detector": config.detector,
        "image_size": list(config.image_size),
        "false_alarm_rate": config.eval.image_false_alarm_rate,
        "splits": _SPLITS.value,
        "rows": rows,
    }
    if _MARKDOWN.value:
        Path(_MARKDOWN.value).write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_json(figures, _JSON.value)
    print("\n".join(lines))


def main(argv: list[str]) -> int:
    return experiment.run_experiment_command(FLAGS, argv, __doc__, run, "nothing was written")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
