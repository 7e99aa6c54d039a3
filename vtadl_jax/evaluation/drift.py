"""Tells when new images stop to be like the good images that set the threshold.

Each quantity of an image, its score or its brightness, is ranked among all earlier ones, good
images first. While the images are exchangeable the ranks are uniform, and a wealth that bets
against that stays small: it ever reaches 1/α with probability α at most (Ville's inequality). Bets:
the Simple Jumper of Vovk, "Testing randomness online", 2021. Decides nothing about an image.
"""

import bisect
import dataclasses
from collections.abc import Sequence

import numpy as np

from vtadl_jax.evaluation.calibration import Calibration
from vtadl_jax.evaluation.novelty import STATISTICS, Statistic

FALSE_ALARM_RATE = 0.01  # of all quantities together, however many images come
JUMP = 0.01  # share of the wealth that changes its bet after each image
DIRECTIONS = (-1.0, 0.0, 1.0)  # values became smaller, did not change, became larger
SCORE = "score"
PHRASES = {  # quantity → (smaller, larger), as in "the images are darker"
    "mean brightness": ("darker", "brighter"),
    "contrast": ("flatter", "richer in contrast"),
    "black pixels": ("less black", "blacker"),
    "white pixels": ("less white", "whiter"),
    "fine detail": ("more blurred", "sharper or noisier"),
    "red minus green": ("greener", "redder"),
    "yellow minus blue": ("bluer", "yellower"),
    SCORE: ("closer to the good images", "stranger, though good"),
}
_STATISTIC = {statistic.name: statistic for statistic in STATISTICS}


@dataclasses.dataclass(frozen=True)
class Alarm:
    """A quantity that changed.

    quantity: its name. since: number of the image with which the change probably began; at: that at
    which it became certain. larger: whether the values became larger. before, after: medians.
    """

    quantity: str
    since: int
    at: int
    larger: bool
    before: float
    after: float

    def sentence(self, name: str = "") -> str:
        """Returns the alarm as a sentence; name: of the image `since`, else its number."""
        what = PHRASES.get(
            self.quantity, (f"lower in {self.quantity}", f"higher in {self.quantity}")
        )
        return (
            f"since {name or f'image {self.since + 1}'} the images are {what[self.larger]} "
            f"({self.quantity} {self.after:.3g}, before {self.before:.3g}): if this stays, "
            f"calibrate with new good images"
        )


@dataclasses.dataclass
class Trace:
    """What was followed of one quantity, for a chart.

    good: the median of the good images. at: numbers of the images; values: of them, as printed;
    evidence: log10 of the wealth after each. limit: of the evidence, from which on it is an alarm.
    """

    quantity: str
    good: float
    limit: float
    at: list[int] = dataclasses.field(default_factory=list)
    values: list[float] = dataclasses.field(default_factory=list)
    evidence: list[float] = dataclasses.field(default_factory=list)


class Stream:
    """The values of one quantity, good images first, and the wealth of the bets against them."""

    def __init__(self, good: Sequence[float], rng: np.random.Generator):
        self._sorted, self._rng = sorted(map(float, good)), rng
        self.before = float(np.median(self._sorted))
        self._shares = np.full(3, 1 / 3)  # of the wealth, on each direction
        self._log_wealth = self._least = 0.0
        self.since, self.values, self.count = 0, list[float](), 0

    def add(self, value: float) -> float:
        """Adds a value; returns the logarithm of the wealth."""
        low, high = (f(self._sorted, value) for f in (bisect.bisect_left, bisect.bisect_right))
        rank = low + self._rng.random() * (high - low + 1)  # of equal values a random place
        p = rank / (len(self._sorted) + 1)
        self._sorted.insert(low, value)
        mixed = (1 - JUMP) * self._shares + JUMP * self._shares.sum() / 3
        shares = mixed * (1 + np.array(DIRECTIONS) * (p - 0.5))
        total = float(shares.sum())
        self._shares = shares / total
        self._log_wealth += np.log(total)
        self.count += 1
        self.values.append(value)
        if self._log_wealth <= self._least:
            self._least, self.since, self.values = self._log_wealth, self.count, []
        return self._log_wealth

    @property
    def larger(self) -> bool:
        """Whether the bets on larger values won more."""
        return bool(self._shares[2] > self._shares[0])


class DriftMonitor:
    """Follows the images of a line, in their order. An alarm of a quantity is raised once.

    calibration: of the run, with the values of its good images; those of older runs have none, and
    nothing is followed. false_alarm_rate: that any alarm is ever raised while nothing changes.
    traced: whether all values are kept for charts, in `traces`; memory then grows with the images.
    """

    def __init__(
        self,
        calibration: Calibration,
        false_alarm_rate: float = FALSE_ALARM_RATE,
        seed: int = 0,
        traced: bool = False,
    ):
        rng = np.random.default_rng(seed)
        good = np.array(calibration.good_statistics)
        self._streams: dict[str, Stream] = {}
        if len(good):
            self._streams = {
                statistic.name: Stream(good[:, i].tolist(), rng)
                for i, statistic in enumerate(STATISTICS)
            }
        scores = [s for s in calibration.good_scores if s < calibration.image_threshold]
        if scores:
            self._streams[SCORE] = Stream(scores, rng)
        self._limit = np.log(max(len(self._streams), 1) / false_alarm_rate)
        self.alarms: list[Alarm] = []
        self.count = 0
        self._positions: dict[str, list[int]] = {name: [] for name in self._streams}
        limit = float(self._limit / np.log(10))
        self.traces = {
            name: Trace(name, _shown(_STATISTIC.get(name), stream.before), limit)
            for name, stream in self._streams.items()
            if traced
        }

    @property
    def quantities(self) -> tuple[str, ...]:
        """The names of what is followed; none for runs of older versions."""
        return tuple(self._streams)

    def add(self, description: np.ndarray, score: float, is_defective: bool) -> list[Alarm]:
        """Adds an image, [D] of `novelty.describe`; returns the alarms that it raises.

        The scores of defective images are not followed: many of them are no drift.
        """
        values = {s.name: float(description[i]) for i, s in enumerate(STATISTICS)}
        if not is_defective:
            values[SCORE] = float(score)
        raised = []
        for name, stream in self._streams.items():
            if name not in values:
                continue
            self._positions[name].append(self.count)
            wealth = stream.add(values[name])
            if trace := self.traces.get(name):
                trace.at.append(self.count)
                trace.values.append(_shown(_STATISTIC.get(name), values[name]))
                trace.evidence.append(float(wealth / np.log(10)))
            if wealth >= self._limit and name not in {alarm.quantity for alarm in self.alarms}:
                raised.append(self._alarm(name, stream))
                self.alarms.append(raised[-1])
        self.count += 1
        return raised

    def _alarm(self, name: str, stream: Stream) -> Alarm:
        shown = _STATISTIC.get(name)
        return Alarm(
            quantity=name,
            since=self._positions[name][min(stream.since, stream.count - 1)],
            at=self.count,
            larger=stream.larger,
            before=_shown(shown, stream.before),
            after=_shown(shown, float(np.median(stream.values))),
        )


def _shown(statistic: Statistic | None, value: float) -> float:
    """Returns a value as it is printed, in percent for statistics of pixels."""
    return value if statistic is None else float(statistic.shown(value))
