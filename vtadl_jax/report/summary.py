"""Builds the content of the report page from an evaluation: figures, curves and tables."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from numpy.typing import NDArray

from vtadl_jax import metrics
from vtadl_jax.config import Config
from vtadl_jax.evaluation.calibration import COPIES, CROSS_FIT, Calibration
from vtadl_jax.evaluation.metric_table import SHOWN, TITLES
from vtadl_jax.evaluation.outputs import EvalOutputs
from vtadl_jax.evaluation.results import TEST, Results
from vtadl_jax.options import flatten
from vtadl_jax.report.closing import (
    MORE_IMAGES,
    NOT_A_TEST,
    good_images,
    percent,
    without_it,
)
from vtadl_jax.report.disagreement import sentence
from vtadl_jax.report.page import Curve, EncodedCard, Report
from vtadl_jax.runtime.console import read_metrics
from vtadl_jax.runtime.text_table import plural
from vtadl_jax.training.division import images_needed
from vtadl_jax.training.updates import HEADER, load_updates, rows_of

CURVE_POINTS = 200
INSIDE = ("data.category", "data.defects")  # names of folders inside the data
NOT_CHARTED = ("images_per_second", "grad_norm")


def make_report(
    config: Config,
    results: Results,
    outputs: EvalOutputs,
    scores: NDArray[Any],
    calib: Calibration,
    cards: Sequence[EncodedCard],
    metrics_file: Path,
) -> Report:
    """Returns the content of the page for an evaluation.

    scores: [N], calibrated, of `outputs`. cards: of the images on the page. metrics_file: the run's
    metrics.jsonl, which may be absent.
    """
    decided = results.at_threshold["image"]
    category = config.data.category or Path(config.data.root).name
    part = "" if len(cards) == len(scores) else f"; the page shows {len(cards)} of them"
    tested = results.evaluated_on == TEST
    images = (
        f"{results.num_test_images} test images, {results.num_anomalous} of them defective"
        if tested
        else f"{plural(len(scores), good_images(results.calibrated_by))}, no test images"
    )
    return Report(
        title=f"{category or config.data.source}: {config.detector}",
        subtitle=f"{images}{part}; {_training_images(results)}",
        notice="" if tested else _capital(f"{NOT_A_TEST}; {MORE_IMAGES}"),
        summary=_figures(results, decided),
        cards=cards,
        map_low=calib.map_low,
        map_high=calib.map_high,
        threshold=decided["threshold"],
        threshold_note=_origin(decided, calib) + ("; no test image was used" if tested else ""),
        curves=_curves(results, outputs, scores),
        training=_training(metrics_file),
        tables=[*_tables(results), *_updates(metrics_file.parent)],
        config_text="\n".join(
            f"{name} = {shown(name, value, config.data.root)!r}" for name, value in flatten(config)
        ),
        versions=results.versions,
        experts=_capital(sentence(results.experts)),
    )


def shown(name: str, value: Any, root: str) -> Any:
    """Returns a field's value as the page shows it: of a place on this machine, only the end.

    root: of the data; a place inside it is shown relative to it, any other by its last name.
    """
    if isinstance(value, tuple):
        return tuple(shown(name, item, root) for item in value)
    parts = re.split(r"[/\\]", value.rstrip("/\\")) if isinstance(value, str) else []
    if len(parts) < 2 or (
        name in INSIDE and ".." not in parts and not PurePath(value).is_absolute()
    ):
        return value
    if root and value != root and PurePath(value).is_relative_to(root) and ".." not in parts:
        return str(PurePath(value).relative_to(root))
    return parts[-1]


def _training_images(results: Results) -> str:
    """Returns a sentence about the training images and steps."""
    steps = f" for {results.step} steps" if results.step else ""
    anomalous = sum(results.num_train_anomalous.values())
    if not anomalous:
        return f"trained{steps} on good images"
    good = (results.num_train_images or 0) - anomalous
    return f"trained{steps} on {good} good and {anomalous} defective images"


def _origin(decided: Mapping[str, Any], calib: Calibration) -> str:
    rate = decided["false_alarm_rate_asked"]
    if rate is None:
        return "set by the user"
    if calib.calibrated_by == COPIES:
        return "just above moved copies of the one good image: guarantees no false-alarm rate"
    images, about = plural(calib.num_images, good_images(calib.calibrated_by)), ""
    if calib.calibrated_by == CROSS_FIT:
        images += f", each scored by {without_it(calib.num_images, calib.num_folds)}"
        about = "about "
    if calib.num_images < (needed := images_needed(rate)):
        kept = percent(1 / (calib.num_images + 1))
        return (
            f"just above the highest of {images}, too few to guarantee {percent(rate)} false "
            f"alarms: that takes {needed:.0f}; expect {kept} on average"
        )
    return f"set on {images} for {about}{percent(rate)} false alarms"


def _figures(results: Results, decided: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    shown = []
    for metric in SHOWN:
        if (value := results.metrics.get(metric.name)) is not None:
            meaning = metric.meaning
            if interval := results.intervals.get(metric.name):
                meaning += f"; 95 % interval {interval[0]:.3f} to {interval[1]:.3f}"
            shown.append((metric.title, f"{value:.3f}", meaning))
    if (positives := decided["tp"] + decided["fn"]) > 0:
        shown.append(
            ("found", f"{decided['tp']} of {positives}", "defective images above the threshold")
        )
    if (negatives := decided["fp"] + decided["tn"]) > 0:
        that = "" if results.evaluated_on == TEST else ", which they set"
        told = f"good images above the threshold{that}"
        shown.append(("false alarms", f"{decided['fp']} of {negatives}", told))
    return shown


def _curves(results: Results, outputs: EvalOutputs, scores: NDArray[Any]) -> list[Curve]:
    curves = []
    if results.metrics["image_auroc"] is not None:
        for name, labels, curve, area in (
            (
                "ROC of images",
                ("false-positive rate", "true-positive rate"),
                metrics.roc_curve,
                f"AUROC {results.metrics['image_auroc']:.3f}",
            ),
            (
                "Precision and recall of images",
                ("recall", "precision"),
                metrics.pr_curve,
                f"average precision {results.metrics['image_average_precision']:.3f}",
            ),
        ):
            x, y, _ = curve(scores, outputs.labels)
            thinned = metrics.thin(x, y, CURVE_POINTS)
            curves.append(Curve(name, *labels, thinned.x, thinned.y, area))
    limit = results.fpr_limit
    if results.metrics["aupro"] is not None and limit is not None:
        fpr, pro = metrics.pro_points(*outputs.with_truth(), limit, CURVE_POINTS)
        area = f"AU-PRO {results.metrics['aupro']:.3f} up to {limit:g}"
        labels = ("false-positive rate of pixels", "mean overlap with defects")
        curves.append(Curve("PRO of regions", *labels, fpr, pro, area))
    return curves


def _training(path: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Returns the logged terms by step, the last value if a step ran twice."""
    found: dict[str, dict[int, float]] = {}
    for record in read_metrics(path):
        for name, value in record.items():
            term = name.removeprefix("train/")
            if name.startswith("train/") and term not in NOT_CHARTED:
                found.setdefault(term, {})[record["step"]] = value
    return {
        name: (sorted(values), [values[step] for step in sorted(values)])
        for name, values in found.items()
    }


def _tables(results: Results) -> list[tuple[str, list[str], list[list[Any]]]]:
    tables = []
    if results.by_defect:
        names = ["pixel_auroc", "aupro"] if results.by_defect_pixels else []
        rows = []
        for defect, row in results.by_defect.items():
            pixels = results.by_defect_pixels.get(defect, {})
            found = [row["image_auroc"], *(pixels.get(name) for name in names)]
            rows.append([defect, str(row["num_images"]), str(row["detected"]), *map(_text, found)])
        titles = [TITLES[name] for name in ("image_auroc", *names)]
        tables.append(("By defect", ["defect", "images", "found", *titles], rows))
    if every := results.experts.get("by_expert"):
        alone = results.image_auroc_by_term
        rows = [
            [
                name,
                f"{one['weight']:.2f}",
                _text(alone.get(name)),
                *(str(one[key]) for key in ("flagged", "alone", "alone_defective")),
            ]
            for name, one in every.items()
        ]
        header = ["expert", "weight", TITLES["image_auroc"], "images flagged"]
        tables.append(("Experts", [*header, "flagged alone", "of these defective"], rows))
    rows = [[name, _text(value)] for name, value in results.image_auroc_by_term.items()]
    header = ["term", TITLES["image_auroc"]]
    if any(value is not None for value in results.image_auroc_by_term.values()):
        tables.append(("Image AUROC of each term of the score", header, rows))
    return tables


def _updates(workdir: Path) -> list[tuple[str, list[str], list[list[str]]]]:
    """Returns the table of the updates that made a run, none for a run from the start."""
    updates = load_updates(workdir)
    return [("Updates", HEADER, rows_of(updates))] if updates else []


def _capital(text: str) -> str:
    """Returns a note as a sentence; '' stays empty."""
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
