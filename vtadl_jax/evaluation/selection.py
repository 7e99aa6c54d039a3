"""Ranks variants of a method, and measures how well one ranking predicts another.

A variant is scored on a part of the images: 'drawn' (held-out good images, with and without drawn
defects) or 'test'. Chooses nothing by itself, reads no files.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtadl_jax import metrics
from vtadl_jax.data.records import Record
from vtadl_jax.detectors.contract import Variables
from vtadl_jax.evaluation.calibration import Calibration
from vtadl_jax.evaluation.metric_table import METRICS, TITLES, View
from vtadl_jax.evaluation.scoring import Evaluator

NAMES = ("image_auroc", "pixel_auroc", "aupro")  # the metrics that count
MEAN = "mean"  # of those that all variants have
COLUMNS = {MEAN: "mean", **{name: TITLES[name] for name in NAMES}}
DRAWN, TEST = "drawn", "test"
ROUNDING = 1e-12  # means that differ by less are equal

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Part:
    """One variant's figures on a part of the images.

    metrics: of NAMES, None if undefined. values: of each bootstrap resample, by name; the resamples
    are the same images for all variants of a set. num_good, num_defective: images.
    """

    metrics: Mapping[str, float | None]
    values: Mapping[str, Sequence[float]]
    num_good: int
    num_defective: int

    @property
    def defined(self) -> bool:
        """Whether there are good and defective images."""
        return self.num_good > 0 and self.num_defective > 0


def measure_part(
    evaluator: Evaluator,
    variables: Variables,
    calibration: Calibration,
    records: Sequence[Record],
    num_resamples: int,
) -> Part:
    """Scores records and returns their figures, with bootstrap values if `num_resamples` > 0."""
    outputs = evaluator.run(variables, records, "score", calibrated=calibration)
    scores = calibration.image_scores(outputs.terms, outputs.descriptions)
    limit = evaluator.config.eval.fpr_limit
    view = View.of(outputs, scores, limit)
    rows = [metric for metric in METRICS if metric.name in NAMES]
    found = {m.name: m.compute(view) if view.defines(m.kind) else None for m in rows}
    values: dict[str, Any] = {}
    if num_resamples and view.has_both_labels:
        images = metrics.image_values(scores, view.labels, num_resamples=num_resamples)
        values["image_auroc"] = images["image_auroc"].tolist()
    if num_resamples and view.has_both_pixels and outputs.has_mask.all():
        bounds = metrics.pixel_values(view.maps, view.masks, limit, num_resamples=num_resamples)
        values |= {name: ((low + high) / 2).tolist() for name, (low, high) in bounds.items()}
    labels = outputs.labels
    return Part(found, values, int((labels == 0).sum()), int((labels == 1).sum()))


def shared_names(parts: Sequence[Part]) -> list[str]:
    """Returns the metrics that all variants have, in the order of NAMES."""
    return [name for name in NAMES if all(part.metrics.get(name) is not None for part in parts)]


def column(parts: Sequence[Part], name: str) -> Array | None:
    """Returns a metric of each variant, [V]; MEAN is that of `shared_names`. None if undefined."""
    names = shared_names(parts)
    if not names or (name != MEAN and name not in names):
        return None
    chosen = names if name == MEAN else [name]
    return np.array([[part.metrics[n] for n in chosen] for part in parts], np.float64).mean(1)


def resampled(parts: Sequence[Part], name: str) -> Array | None:
    """Returns a metric of each variant on each resample, [V, R]; MEAN as in `column`."""
    names = shared_names(parts) if name == MEAN else [name]
    if not names or any(n not in part.values for part in parts for n in names):
        return None
    return np.array([[part.values[n] for n in names] for part in parts], np.float64).mean(1)


def interval(values: Array, level: float = 0.95) -> tuple[float, float]:
    """Returns the percentile interval of resampled values, [R]."""
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def best_shares(values: Array) -> Array:
    """Returns the share of resamples in which each variant is the best, [V, R] → [V].

    Equal bests share a resample.
    """
    best = values >= values.max(0) - ROUNDING
    return (best / best.sum(0)).mean(1)


def ranks(values: Array) -> Array:
    """Returns ranks, 1 for the largest value, equal values their mean rank, [V] → [V]."""
    from scipy import stats  # imports slowly

    return np.asarray(stats.rankdata(-np.round(values / ROUNDING)))


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How well predicted figures of variants order real ones.

    correlation: Spearman's, None if all predicted or all real figures are equal. regret: the best
    real figure less that of the variant with the best predicted one (of several, their mean).
    of_mean, of_worst: the same for a variant drawn at random, and for the worst.
    """

    correlation: float | None
    regret: float
    of_mean: float
    of_worst: float


def agreement(predicted: Array, real: Array) -> Agreement:
    """Compares predicted with real figures of the same variants, [V] each; larger is better."""
    from scipy import stats

    known = min(np.ptp(predicted), np.ptp(real)) > ROUNDING
    best, chosen = real.max(), predicted >= predicted.max() - ROUNDING
    return Agreement(
        float(stats.spearmanr(ranks(predicted), ranks(real)).statistic) if known else None,
        float(best - real[chosen].mean()),
        float(best - real.mean()),
        float(best - real.min()),
    )


def by_other_sets(real: Mapping[str, Array], name: str) -> Array | None:
    """Returns each variant's mean rank on all sets but the named one, negative: larger is better.

    real: set → a metric of each variant, [V]. None without other sets.
    """
    others = [ranks(values) for other, values in real.items() if other != name]
    return -np.mean(others, axis=0) if others else None
