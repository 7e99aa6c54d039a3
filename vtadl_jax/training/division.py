"""Divides the training images: what a detector is fitted or trained on, and what calibrates it.

Good images are held out, or, for fitted detectors with few, cross-fitting calibrates on all of
them. Decided from the training images alone.
"""

import dataclasses
import math
from collections.abc import Sequence

from vtadl_jax import options as options_lib
from vtadl_jax.config import Config
from vtadl_jax.data.orientation_test import LARGEST_SHARE, find_orientations
from vtadl_jax.data.records import Record, split_holdout
from vtadl_jax.data.turned import (
    AUTO,
    NONE,
    moved_copies,
    parse_orientations,
    turned_copies,
    turns_of,
)
from vtadl_jax.detectors.contract import Detector
from vtadl_jax.errors import UserError
from vtadl_jax.runtime.text_table import plural

MAX_FOLDS = 10
FEW = 16  # good images up to which the orientations are tested


@dataclasses.dataclass(frozen=True)
class Division:
    """How the training images are used.

    records: fitted or trained on, without copies. holdout: good images that calibrate; with
    cross-fitting they are among `records`, too, and each is scored by a detector fitted without it.
    num_folds: 0 without cross-fitting; 1 for a single good image, from which nothing can be left
    out: moved copies of it calibrate. copies: turned copies of an image by its name, which are
    fitted with it and left out with it.
    """

    records: tuple[Record, ...]
    holdout: tuple[Record, ...]
    num_folds: int = 0
    copies: dict[str, tuple[Record, ...]] = dataclasses.field(default_factory=dict)

    def with_copies(self, records: Sequence[Record]) -> tuple[Record, ...]:
        """Returns images, each followed by its copies."""
        return tuple(r for one in records for r in (one, *self.copies.get(one.name, ())))

    @property
    def fitted(self) -> tuple[Record, ...]:
        """All images that the detector is fitted to or trained on."""
        return self.with_copies(self.records)


def images_needed(false_alarm_rate: float) -> float:
    """Returns how many good images a threshold needs to guarantee a rate: 1/rate - 1."""
    return math.ceil(1 / false_alarm_rate - 1 - 1e-9) if false_alarm_rate > 0 else math.inf


def is_fitted(config: Config, detector: Detector) -> bool:
    """Returns whether a run only fits its detector, without a training step."""
    return detector.fit is not None and not (config.num_train_steps or config.num_epochs)


def decide(config: Config, detector: Detector, train: Sequence[Record]) -> tuple[Config, list[str]]:
    """Returns the config with 'auto' of `eval.cross_fit` and `data.orientations` replaced by what
    the training images show, and lines that say why.

    Raises UserError for values that the detector cannot have.
    """
    fitted, good = is_fitted(config, detector), [r for r in train if not r.label]
    lines: list[str] = []
    cross_fit = config.eval.cross_fit
    if cross_fit == "auto":
        cross_fit = "on" if fitted and good and _too_few(config, train) else "off"
    elif cross_fit == "on" and not fitted:
        raise UserError(
            f"eval.cross_fit 'on': detector {config.detector!r} is trained in steps, and only "
            f"fitted detectors are fitted again without each image: use 'auto' or 'off'"
        )
    names = parse_orientations(config.data.orientations)
    if names and config.data.regions:
        if names != (AUTO,):
            raise UserError(
                f"data.orientations {config.data.orientations!r}: with data.regions a turned copy "
                f"would show other places where it is inspected: use 'none'"
            )
        names = ()
        if fitted and 0 < len(good) <= FEW:
            lines.append("orientations: none with data.regions, which are of images as they are")
    elif names == (AUTO,):
        names = ()
        if fitted and 0 < len(good) <= FEW:
            names, line = _found(good, config.data.bits)
            lines.append(line)
    elif names and not fitted:
        raise UserError(
            f"data.orientations {config.data.orientations!r}: detector {config.detector!r} is "
            f"trained in steps: use data.augment, and leave data.orientations at 'auto'"
        )
    elif names:
        each = len(turns_of(names))
        lines.append(f"orientations: {plural(each, 'turned copy', 'turned copies')} of each image")
    fields = {"eval.cross_fit": cross_fit, "data.orientations": ",".join(names) or NONE}
    return options_lib.replace(config, fields), lines


def _too_few(config: Config, train: Sequence[Record]) -> bool:
    """Returns whether the images that would be held out are too few for the false-alarm rate."""
    if sum(r.label == 0 for r in train) < 2:
        return True
    held = split_holdout(train, config.data.holdout_fraction, config.seed)[1]
    return len(held) < images_needed(config.eval.image_false_alarm_rate)


def _found(good: Sequence[Record], bits: int) -> tuple[tuple[str, ...], str]:
    """Returns the orientations that good images show to be normal, and a line about it."""
    if len(good) == 1:
        return (), "orientations: none, one good image does not show which are normal"
    found = find_orientations(good, bits)
    told = (
        f"copies are farther from the other good images than good images are in {found} of the "
        f"pairs; normal up to {100 * LARGEST_SHARE:.0f} %"
    )
    if not found.normal:
        return (), f"orientations: none is normal, no turned copies are added to the fit ({told})"
    each = plural(len(turns_of(found.normal)), "turned copy", "turned copies")
    return found.normal, (
        f"orientations: normal are {', '.join(found.normal)}, {each} of each image are added to "
        f"the fit ({told})"
    )


def divide(config: Config, train: Sequence[Record]) -> Division:
    """Returns the division of a run's training images. config: of `decide`.

    Raises UserError if there are too few images to hold out.
    """
    bits, names = config.data.bits, parse_orientations(config.data.orientations)
    turns = turns_of(names) if names not in ((), (AUTO,)) else ()
    copies = {r.name: turned_copies(r, turns, bits) for r in train if turns and not r.label}
    good = tuple(record for record in train if not record.label)
    if config.eval.cross_fit != "on" or not good:
        records, holdout = split_holdout(train, config.data.holdout_fraction, config.seed)
        return Division(records, holdout, 0, copies)
    records, _ = split_holdout(train, 0, config.seed)  # in natural order
    if len(good) == 1:
        return Division(records, moved_copies(good[0], config.seed, bits), 1, copies)
    holdout = tuple(record for record in records if not record.label)
    return Division(records, holdout, min(MAX_FOLDS, len(good)), copies)
