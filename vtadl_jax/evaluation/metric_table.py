"""Table of all metrics of an evaluation, one row each.

results.json, the log line, the report page and the tables over categories read `METRICS`. To add a
metric, write its function in `vtadl_jax/metrics` and add a row here. This file computes numbers; it
draws and writes nothing.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

from vtadl_jax import metrics
from vtadl_jax.evaluation.outputs import EvalOutputs, flat

SMALL_FPR = 0.05  # AU-PRO is also computed up to this false-positive rate, and AU-sPRO only
LOGICAL, STRUCTURAL = "logical_anomalies", "structural_anomalies"  # kinds of MVTec LOCO AD


@dataclasses.dataclass(frozen=True)
class View:
    """Scores, labels, maps and masks of test images, as metrics read them.

    scores: [N], one per image; labels: [N], 1 anomalous. maps, masks: of the images with ground
    truth, [h, w] each; empty for a detector without maps. fpr_limit: of AU-PRO. pixel_threshold: of
    map values, None if there is none. regions: of data sets that say how much of an anomaly is
    enough, the anomalies of each map's image; kinds: that image's kind of defect; region_maps: maps
    whose pixels are in the order of those of `regions`, where `maps` are not.
    """

    scores: np.ndarray
    labels: np.ndarray
    maps: Sequence[np.ndarray]
    masks: Sequence[np.ndarray]
    fpr_limit: float
    pixel_threshold: float | None = None
    regions: Sequence[Sequence[metrics.SaturatedRegion]] = ()
    kinds: Sequence[str] = ()
    region_maps: Sequence[np.ndarray] = ()

    @classmethod
    def of(cls, outputs: EvalOutputs, scores: np.ndarray, fpr_limit: float, **more) -> "View":
        """Returns the view of scored images. scores: [N], the calibrated scores."""
        return cls(scores, outputs.labels, *outputs.with_truth(), fpr_limit, **more)

    @functools.cached_property
    def has_both_labels(self) -> bool:
        """Whether there are both good and anomalous images."""
        return bool(0 < self.labels.sum() < len(self.labels))

    @functools.cached_property
    def has_both_pixels(self) -> bool:
        """Whether there are maps, with both defect pixels and background pixels."""
        return any(mask.any() for mask in self.masks) and not all(mask.all() for mask in self.masks)

    def defines(self, kind: str) -> bool:
        """Returns whether metrics of a kind of `Metric` can be computed."""
        if kind == "image":
            return self.has_both_labels
        return self.has_both_pixels and (kind == "pixel" or any(map(len, self.regions)))

    @functools.cached_property
    def pixels(self) -> np.ndarray:
        """All values of the maps, [M]."""
        return flat(self.maps)

    @functools.cached_property
    def truth(self) -> np.ndarray:
        """All values of the masks, [M]."""
        return flat(self.masks)

    @functools.cached_property
    def aupro_at(self) -> dict[float, float]:
        """AU-PRO at `fpr_limit` and `SMALL_FPR`, limit → value, in one pass over the maps."""
        limits = sorted({self.fpr_limit, SMALL_FPR})
        return dict(zip(limits, metrics.aupro(self.maps, self.masks, limits), strict=True))

    def seg_f1(self) -> float | None:
        """Returns F1 of all pixels at the pixel threshold, None without one."""
        if self.pixel_threshold is None:
            return None
        return metrics.decisions(self.pixels, self.truth, self.pixel_threshold)["f1"]

    @functools.cached_property
    def au_spro_of(self) -> dict[str, float]:
        """AU-sPRO up to `SMALL_FPR` of each kind of anomaly, with all good images."""
        found = {}
        for kind in (LOGICAL, STRUCTURAL):
            of = [i for i, k in enumerate(self.kinds) if k == kind]
            chosen = [i for i, here in enumerate(self.regions) if not here or self.kinds[i] == kind]
            if any(self.regions[i] for i in of):
                maps = [(self.region_maps or self.maps)[i] for i in chosen]
                regions = [self.regions[i] for i in chosen]
                found[kind] = metrics.au_spro(maps, regions, SMALL_FPR)
        return found

    def au_spro(self) -> float | None:
        """Returns the mean of `au_spro_of`, as the authors of the data set report it."""
        values = self.au_spro_of.values()
        return sum(values) / len(values) if values else None


@dataclasses.dataclass(frozen=True)
class Metric:
    """One row of the table.

    name: its key in results.json; title: its name in tables; meaning: one line of explanation.
    kind: 'image' metrics need good and anomalous images, 'pixel' metrics need maps with defect and
    background pixels, 'region' metrics also a data set that says how much of an anomaly is enough;
    `compute` is called only if these exist. Metrics of regions are left out elsewhere.
    largest_is_best: whether larger values are better. shown: whether the log line, the report page
    and the tables over categories show it; results.json holds all metrics.
    """

    name: str
    title: str
    meaning: str
    kind: Literal["image", "pixel", "region"]
    compute: Callable[[View], float | None]
    largest_is_best: bool = True
    shown: bool = False


METRICS = (
    Metric(
        "image_auroc",
        "image AUROC",
        "probability that a defective image scores above a good one",
        "image",
        lambda view: metrics.auroc(view.scores, view.labels),
        shown=True,
    ),
    Metric(
        "image_average_precision",
        "image AP",
        "area under the precision-recall curve of images, by steps",
        "image",
        lambda view: metrics.average_precision(view.scores, view.labels),
        shown=True,
    ),
    Metric(
        "image_pr_auc",
        "image PR AUC",
        "area under the precision-recall curve of images, by trapezoids",
        "image",
        lambda view: metrics.pr_auc(view.scores, view.labels),
    ),
    Metric(
        "image_f1_max",
        "image F1 max",
        "largest F1 of images over all thresholds; the threshold is chosen on the test images",
        "image",
        lambda view: metrics.f1_max(view.scores, view.labels)[0],
    ),
    Metric(
        "image_balanced_accuracy_max",
        "image balanced accuracy max",
        "largest mean of both classes' accuracies over all thresholds; the threshold is chosen on "
        "the test images",
        "image",
        lambda view: metrics.balanced_accuracy_max(view.scores, view.labels)[0],
    ),
    Metric(
        "image_accuracy",
        "image accuracy",
        "share of images on their side of the threshold with the largest TPR - FPR; the threshold "
        "is chosen on the test images",
        "image",
        lambda view: metrics.youden_accuracy(view.scores, view.labels)[0],
    ),
    Metric(
        "pixel_auroc",
        "pixel AUROC",
        "probability that a defect pixel scores above a background pixel",
        "pixel",
        lambda view: metrics.auroc(view.pixels, view.truth),
        shown=True,
    ),
    Metric(
        "pixel_average_precision",
        "pixel AP",
        "area under the precision-recall curve of pixels, by steps",
        "pixel",
        lambda view: metrics.average_precision(view.pixels, view.truth),
    ),
    Metric(
        "aupro",
        "AU-PRO",
        "mean overlap with each defect region, regions weighted equally",
        "pixel",
        lambda view: view.aupro_at[view.fpr_limit],
        shown=True,
    ),
    Metric(
        "seg_f1",
        "SegF1",
        "F1 of all pixels at the threshold that good training images set, as for MVTec AD 2",
        "pixel",
        View.seg_f1,
    ),
    Metric(
        "au_spro",
        "AU-sPRO",
        "mean saturated overlap with each anomaly up to a false-positive rate of 0.05, averaged "
        "over logical and structural anomalies, as for MVTec LOCO AD",
        "region",
        View.au_spro,
        shown=True,
    ),
    Metric(
        "au_spro_logical",
        "AU-sPRO logical",
        "AU-sPRO of logical anomalies",
        "region",
        lambda view: view.au_spro_of.get(LOGICAL),
    ),
    Metric(
        "au_spro_structural",
        "AU-sPRO structural",
        "AU-sPRO of structural anomalies",
        "region",
        lambda view: view.au_spro_of.get(STRUCTURAL),
    ),
)
SHOWN = tuple(metric for metric in METRICS if metric.shown)
TITLES = {metric.name: metric.title for metric in METRICS}


def known(names: Mapping[str, object]) -> tuple[Metric, ...]:
    """Returns the rows that results have: all, but metrics of regions only if they are there."""
    return tuple(m for m in METRICS if m.kind != "region" or m.name in names)


def compute_metrics(view: View) -> dict[str, float | None]:
    """Returns the metrics of the table by name, None if undefined; see `Metric.kind`."""
    return {
        metric.name: metric.compute(view) if view.defines(metric.kind) else None
        for metric in METRICS
        if metric.kind != "region" or view.defines(metric.kind)
    }
