"""Evaluates a state and writes all files of its report. Computes no metrics itself."""

import contextlib
import csv
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vtadl_jax.data.records import Record
from vtadl_jax.detectors.contract import Variables
from vtadl_jax.errors import printable
from vtadl_jax.evaluation.calibration import COPIES, Calibration
from vtadl_jax.evaluation.left_out import LeftOut
from vtadl_jax.evaluation.metric_table import known
from vtadl_jax.evaluation.outputs import EvalOutputs
from vtadl_jax.evaluation.results import CALIBRATION as ON_HOLDOUT
from vtadl_jax.evaluation.results import (
    RESULTS_FILE,
    TEST,
    Results,
    how_calibrated,
    measure,
)
from vtadl_jax.evaluation.scoring import Evaluator
from vtadl_jax.evaluation.trained_run import CALIBRATION
from vtadl_jax.report.closing import place_lines, result_lines
from vtadl_jax.report.folder import PAGE, SCORES, draft
from vtadl_jax.report.gallery import Gallery
from vtadl_jax.report.names import cell
from vtadl_jax.report.page import write_page
from vtadl_jax.report.summary import make_report
from vtadl_jax.runtime.console import METRICS_FILE, say
from vtadl_jax.runtime.files import replacing, write_json

UNLIKE, RARITY = "unlike_training", "p_value"  # columns of tables


def evaluate(
    evaluator: Evaluator,
    variables: Variables,
    calibration: Calibration,
    test: Sequence[Record],
    *,
    train: Sequence[Record] = (),
    holdout: Sequence[Record] = (),
    left_out: LeftOut | None = None,
    out: Path | None = None,
) -> Results:
    """Scores `test` and returns the results; with `out`, writes the report's files there.

    These are calibration.json, results.json, scores.csv, report.html, overlays/ and overview.png:
    all of them, or none if anything fails. calibration: of these variables. train: the training
    records, for the counts. holdout: the records of the calibration, which are scored where `test`
    is empty, by `left_out` if the run cross-fitted; without both, and for a single good image, the
    results hold only the counts. Raises UserError for files that can't
    be written, and TrainingDiverged for scores that are not finite.
    """
    start = time.perf_counter()
    if calibration.calibrated_by == COPIES:
        holdout = ()
    evaluated_on, images = (TEST, test) if test else (ON_HOLDOUT, holdout)
    test = [dataclasses.replace(record, defect=printable(record.defect)) for record in images]
    if not test:
        if out is not None:
            calibration.save(out / CALIBRATION)
        return Results(step=calibration.step, **how_calibrated(calibration))
    with draft(out) if out else contextlib.nullcontext() as folder:
        experts = evaluator.detector.experts
        # Windows have no maps of single experts, which the comparison of experts reads.
        weights = experts.weights(variables) if experts and not evaluator.windows else {}
        gallery = folder and Gallery(folder, test, calibration, evaluator.config, weights)
        show = gallery.add if gallery else None
        if left_out is not None and evaluated_on == ON_HOLDOUT:
            outputs = left_out.run(evaluator, "evaluate", show, calibration)
        else:
            outputs = evaluator.run(variables, test, "evaluate", show, calibration)
        results = measure(outputs, test, calibration, evaluator.config, train, evaluated_on)
        results = dataclasses.replace(results, seconds=time.perf_counter() - start)
        if gallery and gallery.panel:
            results = dataclasses.replace(results, experts=gallery.panel.summary())
        if out and folder and gallery:
            gallery.finish()
            metrics_file = out / METRICS_FILE
            _write(folder, evaluator, results, outputs, test, calibration, gallery, metrics_file)
    return results


def _write(
    out: Path,
    evaluator: Evaluator,
    results: Results,
    outputs: EvalOutputs,
    test: Sequence[Record],
    calibration: Calibration,
    gallery: Gallery,
    metrics_file: Path,
) -> None:
    """Writes all files but the pictures."""
    scores = calibration.image_scores(outputs.terms, outputs.descriptions)
    terms = dict(zip(calibration.terms, outputs.terms.T, strict=True))
    reasons = [calibration.reason(description) for description in outputs.descriptions]
    calibration.save(out / CALIBRATION)
    rarity = [calibration.p_value(score) for score in scores]
    _write_scores(out / SCORES, test, scores, terms, gallery.overlays, reasons, rarity)
    report = make_report(
        evaluator.config, results, outputs, scores, calibration, gallery.cards, metrics_file
    )
    write_page(out / PAGE, report)
    write_json(out / RESULTS_FILE, results.to_dict())


def _write_scores(
    path: Path,
    test: Sequence[Record],
    scores: np.ndarray,
    terms: dict[str, np.ndarray],
    overlays: Sequence[str],
    reasons: Sequence[str],
    rarity: Sequence[float | None],
) -> None:
    """Writes a row for each image. terms: [N] by name; reasons: what is unlike training, or '';
    rarity: p-values."""
    with replacing(path, "w", newline="") as f:
        writer = csv.writer(f)
        names = map(cell, terms)
        writer.writerow(("name", "label", "defect", "score", *names, "overlay", UNLIKE, RARITY))
        columns = zip(test, overlays, reasons, rarity, scores, *terms.values(), strict=True)
        for record, overlay, reason, p_value, *numbers in columns:
            about = cell(record.name), record.label, cell(record.defect)
            rare = "" if p_value is None else f"{p_value:.6g}"
            writer.writerow((*about, *(f"{v:.7g}" for v in numbers), overlay, reason, rare))


def say_metrics(results: Results) -> None:
    """Prints the metrics of an evaluation during training, on one line."""
    if results.num_test_images == 0:
        say("no test images: calibrated only")
        return
    rows = (metric for metric in known(results.metrics) if metric.shown)
    values = ((metric.name, results.metrics.get(metric.name)) for metric in rows)
    shown = (f"{name} {'-' if value is None else format(value, '.4f')}" for name, value in values)
    say(f"step {results.step}  {'  '.join(shown)}  on {results.num_test_images} images")


def say_results(results: Results, workdir: Path) -> None:
    """Prints the last table of a training or an evaluation, and which files to open."""
    for line in (*result_lines(results), *place_lines(workdir)):
        say(printable(line))
