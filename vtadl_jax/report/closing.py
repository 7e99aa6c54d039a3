"""The last lines of a training or an evaluation: what was found, and which files to open."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vtadl_jax.errors import printable
from vtadl_jax.evaluation.calibration import COPIES, CROSS_FIT, HELD_OUT, largest_rate
from vtadl_jax.evaluation.metric_table import known
from vtadl_jax.evaluation.results import RESULTS_FILE, TEST, Results
from vtadl_jax.report.disagreement import sentence
from vtadl_jax.report.folder import PAGE, SCORES
from vtadl_jax.runtime.console import format_duration
from vtadl_jax.runtime.text_table import plural, table
from vtadl_jax.training.division import images_needed

ORIGINAL_SIZE = "evaluate --original_size, or --config.eval.original_size=true in training"
METRIC_ROWS = ("image_auroc", "pixel_auroc", "aupro", "au_spro")
NOT_A_TEST = (
    "no test images: these good images also set the threshold, so their false alarms are not a "
    "test; no defective images, so no AUROC"
)
MORE_IMAGES = (
    "for a test, train with defective images (data.bad), which also keeps some good ones for it"
)
ONE_IMAGE = (
    "note: one good image: nothing can be left out to see how a new good image scores. The "
    "threshold is just above the scores of slightly moved copies of it and guarantees no "
    "false-alarm rate, and there are no p-values; scores still rank images. With two or more good "
    "images, each is scored by a fit without it"
)
MOST_KINDS = 8  # kinds of defect that are listed one by one
FILES = {  # of a report → what they hold
    PAGE: "all images with heat maps; metrics, curves, a movable threshold",
    "overview.png": "some images of each kind, with heat maps",
    RESULTS_FILE: "all metrics",
    SCORES: "score, score terms and overlay of each image",
}


def result_lines(results: Results) -> list[str]:
    """Returns the table of what was found at the threshold, with the main metrics and notes."""
    tested, image = results.evaluated_on == TEST, results.at_threshold.get("image", {})
    if tested and results.num_test_images == 0:
        one = [ONE_IMAGE] if results.calibrated_by == COPIES else []
        return ["no test images: calibrated only", *one]
    rows = [*_decision_rows(results, image), *_metric_rows(results)]
    took = f", in {format_duration(results.seconds)}" if results.seconds is not None else ""
    step = f"at step {results.step} " if results.step else ""
    number, kind = results.num_test_images, "test image"
    if not tested:
        number, kind = results.num_calibration_images, good_images(results.calibrated_by)
        rows = [row for row in rows if row[1] != "-"]
    title = f"results {step}on {plural(number, kind)}{took}"
    return [title, *table(("", ""), rows), *kinds_lines(results), *notes(results)]


def _decision_rows(results: Results, image: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    if "tp" in image:
        good = image["fp"] + image["tn"]
        rows = [
            ("defective images found", f"{image['tp']} of {results.num_anomalous}"),
            ("false alarms", f"{image['fp']} among {plural(good, 'good image')}"),
            ("image threshold", f"{image['threshold']:.4g}, {_source(results, image)}"),
        ]
        if results.evaluated_on != TEST:
            rows = rows[1:]
    unlike = results.num_unlike_training
    if any(unlike.values()):
        told = f"{unlike.get('anomalous', 0)} defective, {unlike.get('good', 0)} good"
        rows.append(("unlike all training images", f"{told}; they count as defective"))
    return rows


def masks_outside(results: Results) -> str:
    """Returns in words how many masks have pixels that are not inspected (`data.regions`)."""
    total, beside = results.num_anomalous - results.num_without_mask, results.num_masks_beside
    has = "has" if results.num_masks_leaving == 1 else "have"
    line = (
        f"{results.num_masks_leaving} of {plural(total, 'mask')} {has} pixels outside of "
        f"data.regions, which are not counted"
    )
    if not beside:
        return line
    has, their = ("has", "its image counts") if beside == 1 else ("have", "their images count")
    return f"{line}; {beside} {has} no others: {their} as defective in image metrics all the same"


def _source(results: Results, image: Mapping[str, Any]) -> str:
    """Returns where the threshold comes from."""
    if image.get("set_by") == "the user":
        return "the one given"
    if results.calibrated_by == COPIES:
        return "which guarantees nothing, from moved copies of one good image"
    if not results.num_calibration_images:  # results of older versions
        return "from good training images"
    count, rate = results.num_calibration_images, image.get("false_alarm_rate_asked")
    source = f"from {plural(count, good_images(results.calibrated_by))}"
    if results.calibrated_by == CROSS_FIT:
        source += f", each scored by {without_it(count, results.num_folds)}"
    if not rate or count < images_needed(rate):  # a note says what they guarantee
        return source
    about = "about " if results.calibrated_by == CROSS_FIT else ""
    return f"{source}, for {about}{percent(rate)} false alarms"


def good_images(calibrated_by: str) -> str:
    """Returns the name of an image that calibrated."""
    return "held-out good image" if calibrated_by == HELD_OUT else "good image"


def without_it(num_images: int, num_folds: int) -> str:
    """Returns which detectors scored the images that calibrated by cross-fitting."""
    folds = "leave-one-out" if num_folds == num_images else f"{num_folds} folds"
    return f"a fit without it ({folds})"


def percent(rate: float) -> str:
    """Returns a rate in percent, as '0.5 %'."""
    return f"{100 * rate:.3g} %"


def _metric_rows(results: Results) -> list[tuple[str, str]]:
    """Returns the rows of metrics; those of pixels only for methods that localize."""
    rows = []
    for metric in known(results.metrics):
        if metric.name not in METRIC_ROWS or (metric.kind == "pixel" and not _locates(results)):
            continue
        value = results.metrics.get(metric.name)
        text = "-" if value is None else f"{value:.3f}"
        if metric.name in results.intervals:
            low, high = results.intervals[metric.name]
            text += f" (95 % interval {low:.3f} to {high:.3f})"
        limit = f" (FPR {results.fpr_limit:g})" if metric.name == "aupro" else ""
        rows.append((f"{metric.title}{limit}", text))
    return rows


def _locates(results: Results) -> bool:
    return "pixel" in results.at_threshold


def kinds_lines(results: Results) -> list[str]:
    """Returns a row for each kind of defect if there are several, and not many."""
    kinds = results.by_defect
    if len(kinds) < 2:
        return []
    if len(kinds) > MOST_KINDS:
        return [f"  each of {len(kinds)} kinds of defect: by_defect in {RESULTS_FILE}"]
    rows = []
    for name, found in kinds.items():
        pixels = results.by_defect_pixels.get(name, {})
        values = (found.get("image_auroc"), pixels.get("pixel_auroc"), pixels.get("aupro"))
        shown = ["-" if value is None else f"{value:.3f}" for value in values]
        detected = "-" if found.get("detected") is None else str(found["detected"])
        count = f"{detected} of {found['num_images']}"
        rows.append((printable(name), count, *(shown if _locates(results) else shown[:1])))
    header = ("kind of defect", "found", "image AUROC", "pixel AUROC", "AU-PRO")[: len(rows[0])]
    return table(header, rows, right=(False, True, True, True, True)[: len(header)])


def too_few_note(
    num_images: int, rate: float | None, calibrated_by: str = HELD_OUT, num_folds: int = 0
) -> str:
    """Returns what a threshold of good images can guarantee, if it is not `rate`; '' if it is.

    num_images: that calibrated. rate: the false-alarm rate that was asked for, None for none.
    calibrated_by, num_folds: as in `Calibration`.
    """
    if rate and calibrated_by == COPIES:
        return ONE_IMAGE
    if rate and calibrated_by == CROSS_FIT and 0 < num_images < (needed := images_needed(rate)):
        least = 1 / (num_images + 1)
        most = largest_rate(least, num_images, num_folds)
        return (
            f"note: {num_images} good images, each scored by {without_it(num_images, num_folds)}, "
            f"are too few for {percent(rate)} false alarms, which takes {needed:.0f}; the "
            f"threshold is just above their highest score: expect {percent(least)} false alarms on "
            f"average (at most {percent(most)} by theory), and no p-value below {least:.2g}"
        )
    if not rate or not num_images or num_images >= (needed := images_needed(rate)):
        return ""
    are, kept = "is" if num_images == 1 else "are", percent(1 / (num_images + 1))
    return (
        f"note: {plural(num_images, 'held-out good image')} {are} too few to guarantee "
        f"{percent(rate)} false alarms, which takes {needed:.0f}; the threshold is just above "
        f"their highest score, which guarantees {kept} on average; to hold out more, train "
        f"with more good images or a larger --config.data.holdout_fraction; a fitted method can "
        f"calibrate on all good images with --config.eval.cross_fit=on"
    )


def notes(results: Results) -> list[str]:
    """Returns what to know about the images, the threshold and the masks."""
    found = [] if results.evaluated_on == TEST else [f"note: {NOT_A_TEST}; {MORE_IMAGES}"]
    rate = results.at_threshold.get("image", {}).get("false_alarm_rate_asked")
    few = too_few_note(
        results.num_calibration_images, rate, results.calibrated_by, results.num_folds
    )
    if few:
        found.append(few)
    if results.num_without_mask and _locates(results):
        found.append(
            f"note: {plural(results.num_without_mask, 'defective image')} without a mask, left out "
            f"of pixel metrics"
        )
    if results.num_masks_leaving:
        found.append(f"note: {masks_outside(results)}")
    if told := sentence(results.experts):
        found.append(f"note: {told}")
    if results.num_thin_regions:
        are = "is" if results.num_thin_regions == 1 else "are"
        found.append(
            f"note: {plural(results.num_thin_regions, 'marked region')} {are} too thin for the "
            f"network's size: where no pixel was left, they count as lines of one pixel, others "
            f"are in pieces; for pixel metrics at the images' own size: {ORIGINAL_SIZE}"
        )
    return found


def place_lines(workdir: Path) -> list[str]:
    """Returns the files to open, with what is in them, and the command that scores new images."""
    there = {workdir / name: what for name, what in FILES.items()}
    rows = [(str(path), what) for path, what in there.items() if path.is_file()]
    folder = shlex.quote(str(workdir))
    score = f"python -m vtadl_jax.predict --workdir {folder} --input DIR --output OUT"
    files = ["open", *table(("", ""), rows)] if rows else []
    return [*files, f"score new images: {score}"]
