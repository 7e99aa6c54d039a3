"""Metrics of a run on its test images, and the files that show them.

python -m vtadl_jax.evaluate --workdir runs/mvtec-screw

Evaluates the newest checkpoint again: calibrates on the held-out good images, scores the test
images and replaces results and calibration in the workdir. A false-alarm rate given as a flag is
thus also that of later predictions; a threshold holds for these results only.
Exit codes: 0 done, 2 a mistake the user can mend, 130 interrupted.
"""

import csv
import functools
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from vtadl_jax import __version__, metrics, sharding, sweep
from vtadl_jax import config as config_lib
from vtadl_jax.calibration import Calibration
from vtadl_jax.commands import run_command
from vtadl_jax.data.records import Record, split_holdout
from vtadl_jax.data.sources import load_splits
from vtadl_jax.errors import UserError
from vtadl_jax.report.gallery import Gallery
from vtadl_jax.report.page import write_page
from vtadl_jax.report.summary import make_report
from vtadl_jax.scoring import Evaluator, Outputs, flat
from vtadl_jax.workdir import CALIBRATION, load_config, load_run
from vtadl_jax.writers import say

FLAGS = flags.FlagValues()
_define = functools.partial(flags.DEFINE_string, flag_values=FLAGS)
_number = functools.partial(flags.DEFINE_float, default=None, flag_values=FLAGS)
_WORKDIR = _define("workdir", "", "Of the run.")
_ROOT = _define("data_root", "", "Where the images are now. Default: where they were in training.")
_CATEGORY = _define("category", "", "Of a sweep's workdir: a category, or 'all' for the table too.")
_OVERRIDES = {
    "image_threshold": _number("image_threshold", help="Image scores from here on are defects."),
    "pixel_threshold": _number("pixel_threshold", help="Map values from here on are defects."),
    "image_false_alarm_rate": _number("image_false_alarm_rate", help="To calibrate for."),
    "pixel_false_alarm_rate": _number("pixel_false_alarm_rate", help="To calibrate for."),
}
flags.DEFINE_bool("help", False, "Show this.", flag_values=FLAGS)
SMALL_FPR = 0.05  # at which AU-PRO is reported besides eval.fpr_limit


def compute_metrics(outputs: Outputs, scores: np.ndarray, fpr_limit: float) -> dict:
    """Image metrics of `scores` [N], pixel metrics of the maps; None where undefined.

    Thresholds among them were chosen on these very images: they bound what is possible.
    """
    result: dict[str, object] = dict.fromkeys(
        (
            "image_auroc",
            "image_average_precision",
            "image_pr_auc",
            "image_f1_max",
            "image_balanced_accuracy_max",
            "pixel_auroc",
            "pixel_average_precision",
            "aupro",
            "aupro_at",
        )
    )
    labels = outputs.labels
    if 0 < labels.sum() < len(labels):
        result["image_auroc"] = metrics.auroc(scores, labels)
        result["image_average_precision"] = metrics.average_precision(scores, labels)
        result["image_pr_auc"] = metrics.pr_auc(scores, labels)
        result["image_f1_max"] = metrics.f1_max(scores, labels)[0]
        result["image_balanced_accuracy_max"] = metrics.balanced_accuracy_max(scores, labels)[0]
    maps, masks = outputs.with_truth()
    if _have_both(masks):
        pixels, truth = flat(maps), flat(masks)
        result["pixel_auroc"] = metrics.auroc(pixels, truth)
        result["pixel_average_precision"] = metrics.average_precision(pixels, truth)
        limits = sorted({fpr_limit, SMALL_FPR})
        values = dict(zip(limits, metrics.aupro(maps, masks, limits), strict=True))
        result["aupro"] = values[fpr_limit]
        result["aupro_at"] = {f"{limit:g}": value for limit, value in values.items()}
    return result


def decide(outputs: Outputs, scores: np.ndarray, calib: Calibration, settings) -> dict:
    """What the thresholds do on the test images. They were set without these, from good images of
    the training set or by the user."""
    found = {}
    pairs = {"image": (scores, outputs.labels)}
    if outputs.has_mask.any():
        maps, masks = outputs.with_truth()
        pairs["pixel"] = (flat(maps), flat(masks))
    for what, (values, truth) in pairs.items():
        fixed = settings[f"{what}_threshold"]
        threshold = getattr(calib, f"{what}_threshold") if fixed is None else fixed
        asked = None if fixed is not None else getattr(calib, f"{what}_false_alarm_rate")
        regions = {}
        if what == "pixel":
            regions["regions"] = metrics.detected_regions(maps, masks, threshold)
        found[what] = {
            **metrics.decisions(values, truth, threshold),
            **regions,
            "set_by": "good training images" if fixed is None else "the user",
            "false_alarm_rate_asked": asked,
        }
    return found


def evaluate(
    evaluator: Evaluator,
    variables,
    calib: Calibration,
    test: Sequence[Record],
    out: Path | None = None,
) -> dict:
    """Score `test`; with `out`, write everything a person wants to see.

    calib: of these variables. Writes calibration.json, results.json, scores.csv, report.html,
    overlays/ and overview.png into `out`. Returns the results.
    """
    start = time.perf_counter()
    settings = evaluator.config.eval
    step = calib.step
    if out is not None:
        calib.save(out / CALIBRATION)
    if not test:
        return {"step": step, "num_test_images": 0}
    gallery = None if out is None else Gallery(out, test, calib, evaluator.config)
    outputs = evaluator.run(variables, test, "evaluate", gallery.add if gallery else None)
    scores = calib.image_scores(outputs.terms)
    at_threshold = decide(outputs, scores, calib, settings)
    defects = [record.defect for record in test]
    threshold = at_threshold["image"]["threshold"]
    results = {
        "step": step,
        "schedule": sweep.schedule_of(evaluator.config),
        **compute_metrics(outputs, scores, settings.fpr_limit),
        "fpr_limit": settings.fpr_limit,
        "image_auroc_by_term": _by_term(calib.terms, outputs),
        "intervals": intervals(outputs, scores, settings),
        "by_defect": metrics.by_defect(scores, outputs.labels, defects, threshold),
        "by_defect_pixels": _by_defect_pixels(outputs, defects, settings.fpr_limit),
        "at_threshold": at_threshold,
        "num_test_images": len(test),
        "num_anomalous": int(outputs.labels.sum()),
        "num_without_mask": int((~outputs.has_mask).sum()),
        "num_calibration_images": calib.num_images,
        "seconds": time.perf_counter() - start,
        "versions": {"vtadl_jax": __version__, "jax": jax.__version__},
    }
    if out is not None and gallery is not None:
        gallery.finish()
        _write_scores(out / "scores.csv", test, scores, outputs.terms, calib.terms)
        report = make_report(
            evaluator.config, results, outputs, scores, calib, gallery.cards, out / "metrics.jsonl"
        )
        write_page(out / "report.html", report)
        _replace(out / "results.json", json.dumps(results, indent=2) + "\n")
    return results


def intervals(outputs: Outputs, scores: np.ndarray, settings) -> dict[str, list[float]]:
    """95 % intervals by resampling the images, of the metrics that have one: name → [low, high].

    Empty unless eval.num_bootstrap asks for resamples.
    """
    found: dict[str, metrics.Interval] = {}
    count, labels = settings.num_bootstrap, outputs.labels
    if count and 0 < labels.sum() < len(labels):
        found |= metrics.image_intervals(scores, labels, num_resamples=count)
    maps, masks = outputs.with_truth()
    if count and _have_both(masks):
        found |= metrics.pixel_intervals(maps, masks, settings.fpr_limit, num_resamples=count)
    return {name: [interval.low, interval.high] for name, interval in found.items()}


def _have_both(masks: Sequence[np.ndarray]) -> bool:
    """Whether there are pixels of defects and of background."""
    return any(mask.any() for mask in masks) and not all(mask.all() for mask in masks)


def _by_defect_pixels(outputs: Outputs, defects: Sequence[str], fpr_limit: float) -> dict:
    maps, masks = outputs.with_truth()
    if not _have_both(masks):
        return {}
    kinds = [defects[int(i)] for i in np.flatnonzero(outputs.has_mask)]
    return metrics.by_defect_pixels(maps, masks, kinds, fpr_limit)


def _by_term(names: Sequence[str], outputs: Outputs) -> dict[str, float | None]:
    both = 0 < outputs.labels.sum() < len(outputs.labels)
    return {
        name: metrics.auroc(outputs.terms[:, i], outputs.labels) if both else None
        for i, name in enumerate(names)
    }


def _write_scores(path: Path, test, scores, terms, names) -> None:
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f)
        writer.writerow(("name", "label", "defect", "score", *names))
        for record, score, row in zip(test, scores, terms, strict=True):
            values = (f"{v:.7g}" for v in (score, *row))
            writer.writerow((record.name, record.label, record.defect, *values))
    temporary.replace(path)


def _replace(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def say_results(results: dict) -> None:
    """The metrics on one line."""
    names = ("image_auroc", "image_average_precision", "pixel_auroc", "aupro")
    if results["num_test_images"] == 0:
        say("no test images: calibrated only")
        return
    shown = (f"{n} {'-' if results[n] is None else format(results[n], '.4f')}" for n in names)
    say(f"step {results['step']}  {'  '.join(shown)}  on {results['num_test_images']} images")


def evaluate_run(workdir: Path, overrides: dict[str, Any], data_root: str = "") -> dict:
    """Calibrate and evaluate the newest checkpoint of a workdir again; see `evaluate`.

    overrides: of the config's `eval`, for these results and their calibration.
    """
    config = load_config(workdir).copy_and_resolve_references()
    with config.unlocked():
        config.data.root = data_root or config.data.root
        config.eval.update(overrides)
    config_lib.check_values(config)
    splits = load_splits(config)
    _, holdout = split_holdout(splits.train, config.data.holdout_fraction, config.seed)
    mesh = sharding.make_mesh(**config.mesh)
    sharding.check_batch("eval.batch_size", config.eval.batch_size, mesh)
    found = load_run(workdir, mesh)
    evaluator = Evaluator(config, found.detector, found.geometry, mesh)
    calib = evaluator.calibrate(found.variables, holdout, found.step)
    return evaluate(evaluator, found.variables, calib, splits.test, workdir)


def run() -> int:
    if not _WORKDIR.value:
        raise UserError("no --workdir: give that of a run")
    workdir, category = Path(_WORKDIR.value).expanduser(), _CATEGORY.value
    overrides = {n: f.value for n, f in _OVERRIDES.items() if f.value is not None}
    runs = sweep.runs_in(workdir) if category == sweep.ALL else [workdir / category]
    for folder in runs:
        say(str(folder))
        say_results(evaluate_run(folder, overrides, _ROOT.value))
    if category == sweep.ALL:
        sweep.tabulate(workdir, show=True)
    return 0


def main(argv: list[str]) -> int:
    return run_command(FLAGS, argv, __doc__, run, "nothing but calibration.json has changed")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
