"""Says which experts of a detector flag an image, and where they disagree.

Each expert has a score of its own. Its threshold is set like that of the detector: on the same good
images, for the same rate of false alarms. Two disagreements are marked: one expert alone reaches
its threshold, or two reach theirs by maps that are highest at different places. Draws nothing.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from vtadl_jax.evaluation.calibration import Calibration, threshold_for
from vtadl_jax.runtime.text_table import plural

LEAST_WEIGHT = 0.05  # an expert that weighs less was left out of the verdict, and of these counts
HIGHEST = 0.01  # share of pixels whose places are compared
SHARED = 0.1  # maps that share less of these are highest at different places


@dataclasses.dataclass(frozen=True)
class Opinion:
    """What an expert says about an image.

    score: its own, in deviations of good images. p_value: how rarely a good image scores as high,
    None if not known. flags: whether the score reaches the expert's threshold. counts: whether the
    expert weighs enough to be part of the verdict.
    """

    name: str
    weight: float
    score: float
    p_value: float | None
    flags: bool
    counts: bool


class Panel:
    """The experts of a run: judges images one by one, and counts where the experts disagree."""

    def __init__(self, weights: Mapping[str, float], calibration: Calibration):
        self.weights, self._calibration = weights, calibration
        self._thresholds = dict.fromkeys(weights, np.inf)
        for name, good in calibration.good_terms.items():
            rate = calibration.image_false_alarm_rate
            self._thresholds[name] = threshold_for(np.array(good), rate)
        self._images = self._apart = 0
        self._flagged: Counter[str] = Counter()
        self._alone: Counter[str] = Counter()
        self._alone_defective: Counter[str] = Counter()

    def judge(
        self, terms: np.ndarray, maps: Mapping[str, np.ndarray], defective: bool = False
    ) -> tuple[list[Opinion], str]:
        """Returns each expert's opinion, and in which way they disagree, '' if they do not.

        terms: raw score terms [T] of an image. maps: of each expert, [H, W]. defective: by ground
        truth, for the counts.
        """
        values = self._calibration.by_name(terms)
        rare = self._calibration.term_p_values(terms)
        found = [self._opinion(name, values[name], rare.get(name)) for name in self.weights]
        flagging = [opinion.name for opinion in found if opinion.flags and opinion.counts]
        self._images += 1
        self._flagged.update(opinion.name for opinion in found if opinion.flags)
        if len(flagging) == 1 and sum(opinion.counts for opinion in found) > 1:
            self._alone[flagging[0]] += 1
            self._alone_defective[flagging[0]] += defective
            return found, f"{flagging[0]} alone flags it"
        if pair := next(pairs_apart({name: maps[name] for name in flagging}), None):
            self._apart += 1
            return found, f"{pair[0]} and {pair[1]} flag different places"
        return found, ""

    def summary(self) -> dict[str, Any]:
        """Returns the counts so far, for results.json.

        images; alone: images that one expert alone flags; different_places; by_expert: of each its
        weight, and the images that it flags, flags alone, and flags alone and are defective.
        """
        each = {
            name: {
                "weight": weight,
                "flagged": self._flagged[name],
                "alone": self._alone[name],
                "alone_defective": self._alone_defective[name],
            }
            for name, weight in self.weights.items()
        }
        alone = sum(self._alone.values())
        return {
            "images": self._images,
            "alone": alone,
            "different_places": self._apart,
            "by_expert": each,
        }

    def _opinion(self, name: str, score: float, p_value: float | None) -> Opinion:
        weight, flags = self.weights[name], score >= self._thresholds[name]
        return Opinion(name, weight, score, p_value, flags, weight >= LEAST_WEIGHT)


def pairs_apart(maps: Mapping[str, np.ndarray]) -> Iterator[tuple[str, str]]:
    """Yields pairs of names whose maps [H, W] are highest at different places.

    Their highest hundredths of the pixels share less than a tenth.
    """
    places = {name: highest(found) for name, found in maps.items()}
    names = list(places)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            common = np.intersect1d(places[first], places[second], assume_unique=True).size
            if common < SHARED * places[first].size:
                yield first, second


def highest(anomaly_map: np.ndarray) -> np.ndarray:
    """Returns the flat places of the highest hundredth of the pixels, at least one."""
    count = max(1, int(HIGHEST * anomaly_map.size))
    return np.argpartition(anomaly_map, -count, axis=None)[-count:]


def sentence(summary: Mapping[str, Any]) -> str:
    """Returns a sentence about the disagreements that `Panel.summary` counted.

    '' where none can be: no experts, or a single one that counts.
    """
    every = summary.get("by_expert", {})
    left_out = [name for name, one in every.items() if one["weight"] < LEAST_WEIGHT]
    if len(every) - len(left_out) < 2:
        return ""
    images = plural(summary["images"], "image")
    if summary["alone"] or summary["different_places"]:
        alone = ((name, one["alone"]) for name, one in every.items())
        who = ", ".join(f"{name} {count}" for name, count in alone if count)
        text = f"in {summary['alone']} of {images} one expert alone reaches its threshold"
        text += f" ({who})" if who else ""
        text += f", in {summary['different_places']} experts flag different places"
    else:
        text = f"the experts agree in all {images}"
    if left_out:
        are, them = ("is", "it") if len(left_out) == 1 else ("are", "them")
        text += f"; {', '.join(left_out)} {are} not counted, as the verdict leaves {them} out"
    return text
