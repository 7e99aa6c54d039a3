"""Computes the content of `results.json`: metrics, decisions, intervals. Writes nothing."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vtadl_jax import metrics
from vtadl_jax.config import Config, EvalOptions, schedule_of
from vtadl_jax.data.records import Record
from vtadl_jax.errors import UserError
from vtadl_jax.evaluation.calibration import HELD_OUT, Calibration
from vtadl_jax.evaluation.metric_table import View, compute_metrics, known
from vtadl_jax.evaluation.outputs import EvalOutputs
from vtadl_jax.evaluation.saturation import regions_of
from vtadl_jax.runtime.files import read_json
from vtadl_jax.training.stored import check_format, stamp

RESULTS_FILE = "results.json"  # in the workdir of a run
TEST, CALIBRATION = "test", "calibration"  # values of `Results.evaluated_on`


@dataclasses.dataclass(frozen=True)
class Results:
    """Results of the evaluation of one checkpoint.

    evaluated_on: 'test' images; 'calibration' where a run has none: the held-out good images, which
    also set the threshold, so that their false alarms are no test. step: of the checkpoint.
    schedule: length of training. metrics: a value for each row of `metric_table.known`, None if
    undefined. aupro_at: AU-PRO by its limit, as text. fpr_limit: of
    the metric 'aupro'. image_auroc_by_term: of each score term alone. intervals: 95 % intervals
    (low, high) of some metrics. by_defect, by_defect_pixels: metrics of each kind of defect.
    at_threshold: decisions on 'image' and, for a detector with maps, on 'pixel'.
    num_without_mask: defective test images without ground truth. num_thin_regions: marked regions
    that are too thin for the network's size, kept as lines of one pixel or in pieces.
    num_masks_leaving, num_masks_beside: with some, or only, pixels outside of `data.regions`.
    calibrated_by, num_folds: as in `Calibration`. num_unlike_training: test images outside the
    range of good training images (`novelty`), by label. num_train_images: all training images;
    num_train_anomalous: the defective ones among them, by kind. experts: of a detector that
    combines several, where they disagree (`report.disagreement`). seconds: of scoring and metrics.
    format, versions: of the program that evaluated.
    """

    step: int = 0
    evaluated_on: str = TEST
    schedule: Mapping[str, int] | None = None
    metrics: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    aupro_at: Mapping[str, float] | None = None
    fpr_limit: float | None = None
    image_auroc_by_term: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    intervals: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)
    by_defect: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    by_defect_pixels: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    at_threshold: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    num_test_images: int = 0
    num_anomalous: int = 0
    num_without_mask: int = 0
    num_thin_regions: int = 0
    num_masks_leaving: int = 0
    num_masks_beside: int = 0
    num_calibration_images: int = 0
    calibrated_by: str = HELD_OUT
    num_folds: int = 0
    num_unlike_training: Mapping[str, int] = dataclasses.field(default_factory=dict)
    num_train_images: int | None = None
    num_train_anomalous: Mapping[str, int] = dataclasses.field(default_factory=dict)
    experts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seconds: float | None = None
    format: int = 1
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Returns the content of results.json; metrics are top-level keys."""
        found: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            if field.name == "metrics":
                found |= {m.name: self.metrics.get(m.name) for m in known(self.metrics)}
            else:
                found[field.name] = getattr(self, field.name)
        return found

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Results":
        """Returns the results from a dict of `to_dict`. Missing keys take their defaults."""
        names = [field.name for field in dataclasses.fields(cls) if field.name != "metrics"]
        values = {name: stored[name] for name in names if name in stored}
        return cls(metrics={m.name: stored.get(m.name) for m in known(stored)}, **values)

    @classmethod
    def load(cls, path: Path) -> "Results":
        """Reads results.json.

        Raises UserError for a file that holds no results, and for one of a newer version.
        """
        try:
            stored = read_json(path)
        except (OSError, ValueError) as e:
            raise UserError(f"{path} can't be read ({e}): evaluate the run again") from e
        check_format(stored, path)
        found = cls.from_dict(stored)
        for name, value, kinds in found._parts():
            if type(value) not in kinds:
                raise UserError(f"{path}: {name} is {value!r}: evaluate the run again")
        return found

    def _parts(self) -> Iterator[tuple[str, Any, tuple[type, ...]]]:
        """Yields (name, value, its types in JSON) of the fields and metrics."""
        numbers, none = (int, float), type(None)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "metrics":
                yield from ((name, number, (*numbers, none)) for name, number in value.items())
            elif field.type == "int" or field.type is int:
                yield field.name, value, (int,)
            elif field.name in ("evaluated_on", "calibrated_by"):
                yield field.name, value, (str,)
            elif field.name in ("fpr_limit", "seconds", "num_train_images"):
                yield field.name, value, (*numbers, none)
            else:
                optional = field.name in ("schedule", "aupro_at")
                yield field.name, value, (dict, none) if optional else (dict,)
        for limit, number in (self.aupro_at or {}).items():
            yield f"aupro_at {limit}", number, (*numbers, none)


def measure(
    outputs: EvalOutputs,
    test: Sequence[Record],
    calibration: Calibration,
    config: Config,
    train: Sequence[Record] = (),
    evaluated_on: str = TEST,
) -> Results:
    """Computes all results of scored images, except `seconds`.

    outputs: of the records `test`, in their order. train: the training records. evaluated_on: which
    images `test` are, as in `Results`.
    """
    settings = config.eval
    unlike = calibration.unlike(outputs.descriptions)
    scores = calibration.image_scores(outputs.terms, outputs.descriptions)
    if settings.image_threshold is not None:  # an image unlike all training images is defective
        scores = np.where(unlike, np.maximum(scores, settings.image_threshold), scores)
    regions = regions_of(test, outputs, config)
    view = View.of(outputs, scores, settings.fpr_limit, **regions)
    decisions = decide(view, calibration, settings)
    at = decisions["pixel"]["threshold"] if "pixel" in decisions else None
    view = dataclasses.replace(view, pixel_threshold=at)
    defects = [record.defect for record in test]
    marked = list(itertools.compress(defects, outputs.has_mask))
    threshold = decisions["image"]["threshold"]
    return Results(
        step=calibration.step,
        evaluated_on=evaluated_on,
        schedule=schedule_of(config),
        metrics=compute_metrics(view),
        aupro_at=_by_text(view.aupro_at) if view.has_both_pixels else None,
        fpr_limit=settings.fpr_limit,
        image_auroc_by_term=by_term(calibration.terms, outputs.terms, view),
        intervals=intervals(view, settings.num_bootstrap),
        by_defect=metrics.by_defect(scores, outputs.labels, defects, threshold),
        by_defect_pixels=by_defect_pixels(view, marked),
        at_threshold=decisions,
        num_test_images=len(test) if evaluated_on == TEST else 0,
        num_anomalous=int(outputs.labels.sum()),
        num_without_mask=int((~outputs.has_mask).sum()),
        num_thin_regions=outputs.num_thin,
        num_masks_leaving=outputs.num_leaving,
        num_masks_beside=outputs.num_beside,
        **how_calibrated(calibration),
        num_unlike_training={
            "good": int(unlike[outputs.labels == 0].sum()),
            "anomalous": int(unlike[outputs.labels == 1].sum()),
        },
        num_train_images=len(train) or None,
        num_train_anomalous=count_anomalous(train),
        **stamp(),
    )


def how_calibrated(calibration: Calibration) -> dict[str, Any]:
    """Returns the fields of `Results` about the calibration."""
    return {
        "num_calibration_images": calibration.num_images,
        "calibrated_by": calibration.calibrated_by,
        "num_folds": calibration.num_folds,
    }


def count_anomalous(records: Sequence[Record]) -> dict[str, int]:
    """Returns the number of anomalous records by kind of defect, sorted by name."""
    return dict(sorted(Counter(record.defect for record in records if record.label).items()))


def decide(
    view: View, calibration: Calibration, settings: EvalOptions
) -> dict[str, dict[str, Any]]:
    """Compares decisions at the thresholds with the ground truth, for images and pixels.

    The thresholds come from good training images or from the config; no test image is used.
    """
    found = {"image": _decide("image", view.scores, view.labels, calibration, settings)}
    if view.maps:
        pixel = _decide("pixel", view.pixels, view.truth, calibration, settings)
        pixel["regions"] = metrics.detected_regions(view.maps, view.masks, pixel["threshold"])
        found["pixel"] = pixel
    return found


def _decide(
    what: str, values: np.ndarray, truth: np.ndarray, calibration: Calibration, settings
) -> dict[str, Any]:
    fixed = getattr(settings, f"{what}_threshold")
    threshold = getattr(calibration, f"{what}_threshold") if fixed is None else fixed
    asked = None if fixed is not None else getattr(calibration, f"{what}_false_alarm_rate")
    return {
        **metrics.decisions(values, truth, threshold),
        "set_by": "good training images" if fixed is None else "the user",
        "false_alarm_rate_asked": asked,
    }


def intervals(view: View, num_resamples: int) -> dict[str, list[float]]:
    """Returns bootstrap 95 % intervals of some metrics: name → [low, high].

    Resamples the images; empty without resamples.
    """
    found: dict[str, metrics.Interval] = {}
    if num_resamples and view.has_both_labels:
        found |= metrics.image_intervals(view.scores, view.labels, num_resamples=num_resamples)
    if num_resamples and view.has_both_pixels:
        found |= metrics.pixel_intervals(
            view.maps, view.masks, view.fpr_limit, num_resamples=num_resamples
        )
    return {name: [interval.low, interval.high] for name, interval in found.items()}


def by_defect_pixels(view: View, defects: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Returns pixel metrics of each kind of defect; empty if undefined.

    defects: kinds of defect of the images of `view.maps`.
    """
    if not view.has_both_pixels:
        return {}
    return metrics.by_defect_pixels(view.maps, view.masks, defects, view.fpr_limit)


def by_term(names: Sequence[str], terms: np.ndarray, view: View) -> dict[str, float | None]:
    """Returns the image AUROC of every score term alone. terms: [N, T]."""
    return {
        name: metrics.auroc(terms[:, i], view.labels) if view.has_both_labels else None
        for i, name in enumerate(names)
    }


def _by_text(values: Mapping[float, float]) -> dict[str, float]:
    return {f"{limit:g}": value for limit, value in values.items()}
