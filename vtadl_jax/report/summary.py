"""From an evaluation to the report page: which figures, curves and tables it shows."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from numpy.typing import NDArray

from vtadl_jax import metrics
from vtadl_jax.calibration import Calibration
from vtadl_jax.config import flatten
from vtadl_jax.report.page import Curve, EncodedCard, Report
from vtadl_jax.scoring import Outputs

CURVE_POINTS = 200
LOGGED = ("loss", "nll", "mse", "dissimilarity")

FIGURES = (
    ("image_auroc", "image AUROC", "chance that a defective image scores above a good one"),
    ("image_average_precision", "image AP", "area below precision over recall, of images"),
    ("pixel_auroc", "pixel AUROC", "the same chance for pixels of defects and of background"),
    ("aupro", "AU-PRO", "part of each defect that is found, every defect counting the same"),
)


def make_report(
    config: ConfigDict,
    results: dict,
    outputs: Outputs,
    scores: NDArray[Any],
    calib: Calibration,
    cards: Sequence[EncodedCard],
    metrics_file: Path,
) -> Report:
    """metrics_file: the run's metrics.jsonl, which may be absent; the rest as `evaluate` has it."""
    decided = results["at_threshold"]["image"]
    category = config.data.category or Path(config.data.root).name
    part = "" if len(cards) == len(scores) else f"; the page shows {len(cards)} of them"
    return Report(
        title=f"{category or config.data.source}: {config.detector}",
        subtitle=(
            f"{results['num_test_images']} test images, {results['num_anomalous']} of them "
            f"defective, after {results['step']} steps of training on good images{part}"
        ),
        summary=_figures(results, decided),
        cards=cards,
        map_low=calib.map_low,
        map_high=calib.map_high,
        threshold=decided["threshold"],
        threshold_note=f"{_origin(decided, calib)}; no test image was used",
        curves=_curves(results, outputs, scores),
        training=_training(metrics_file),
        tables=_tables(results),
        config_text="\n".join(f"{name} = {value!r}" for name, value in flatten(config)),
        versions=results["versions"],
    )


def _origin(decided: dict, calib: Calibration) -> str:
    rate = decided["false_alarm_rate_asked"]
    if rate is None:
        return "set by the user"
    if (calib.num_images + 1) * rate < 1:
        return (
            f"just above the highest of {calib.num_images} good training images, which are too few "
            f"to promise {rate:.1%} false alarms"
        )
    return f"set on {calib.num_images} good training images for {rate:.0%} false alarms"


def _figures(results: dict, decided: dict) -> list[tuple[str, str, str]]:
    shown = []
    for key, name, meaning in FIGURES:
        if results[key] is not None:
            if interval := results["intervals"].get(key):
                meaning += f"; 95 % interval {interval[0]:.3f} to {interval[1]:.3f}"
            shown.append((name, f"{results[key]:.3f}", meaning))
    if (positives := decided["tp"] + decided["fn"]) > 0:
        shown.append(
            ("found", f"{decided['tp']} of {positives}", "defective images above the threshold")
        )
    if (negatives := decided["fp"] + decided["tn"]) > 0:
        shown.append(
            ("false alarms", f"{decided['fp']} of {negatives}", "good images above the threshold")
        )
    return shown


def _curves(results: dict, outputs: Outputs, scores: NDArray[Any]) -> list[Curve]:
    curves = []
    if results["image_auroc"] is not None:
        for name, labels, curve, area in (
            (
                "ROC of images",
                ("false-positive rate", "true-positive rate"),
                metrics.roc_curve,
                f"AUROC {results['image_auroc']:.3f}",
            ),
            (
                "Precision and recall of images",
                ("recall", "precision"),
                metrics.pr_curve,
                f"average precision {results['image_average_precision']:.3f}",
            ),
        ):
            x, y, _ = curve(scores, outputs.labels)
            thinned = metrics.thin(x, y, CURVE_POINTS)
            curves.append(Curve(name, *labels, thinned.x, thinned.y, area))
    if results["aupro"] is not None:
        limit = results["fpr_limit"]
        fpr, pro = metrics.pro_points(*outputs.with_truth(), limit, CURVE_POINTS)
        area = f"AU-PRO {results['aupro']:.3f} up to {limit:g}"
        labels = ("false-positive rate of pixels", "mean overlap with defects")
        curves.append(Curve("PRO of regions", *labels, fpr, pro, area))
    return curves


def _training(path: Path) -> dict[str, tuple[list[int], list[float]]]:
    """The logged terms by step, the last value of a step where it was run twice."""
    found: dict[str, dict[int, float]] = {name: {} for name in LOGGED}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        record = json.loads(line)
        for name in LOGGED:
            if f"train/{name}" in record:
                found[name][record["step"]] = record[f"train/{name}"]
    return {
        name: (sorted(values), [values[step] for step in sorted(values)])
        for name, values in found.items()
        if values
    }


def _tables(results: dict) -> list[tuple[str, list[str], list[list[Any]]]]:
    def text(value) -> str:
        return "-" if value is None else f"{value:.3f}"

    tables = []
    if results["by_defect"]:
        rows = []
        for defect, row in results["by_defect"].items():
            pixels = results["by_defect_pixels"].get(defect, {})
            found = [text(row["image_auroc"])]
            found += [text(pixels.get(name)) for name in ("pixel_auroc", "aupro")]
            rows.append([defect, str(row["num_images"]), str(row["detected"]), *found])
        header = ["defect", "images", "found", "image AUROC", "pixel AUROC", "AU-PRO"]
        tables.append(("By defect", header, rows))
    rows = [[name, text(value)] for name, value in results["image_auroc_by_term"].items()]
    tables.append(("Image AUROC of each term of the score", ["term", "image AUROC"], rows))
    return tables
