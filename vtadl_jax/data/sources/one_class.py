"""One-class protocol: one class of a labelled set is normal, all others are anomalies, as in the
papers for MNIST and similar sets, CIFAR-10 and COIL-100.

Opens no files: `idx`, `cifar`, `coil` and `tfds_classes` read them into a `ClassSet`.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vtadl_jax.data.decode import ImageRef
from vtadl_jax.data.records import Record, Splits, shuffled
from vtadl_jax.errors import UserError


@dataclass(frozen=True, eq=False)
class Part:
    """Training or test images. Image i has class `labels[i]`, an index, and name `names[i]`.

    images: paths, or one array uint8 [N, h, w] or [N, h, w, 3]; records are views of it.
    labels: integers [N].
    """

    images: Sequence[ImageRef] | np.ndarray
    labels: np.ndarray
    names: Sequence[str]


@dataclass(frozen=True, eq=False)
class ClassSet:
    """Labelled set: its title for messages, its classes, the common number of the first class
    (users may name a class by its number), and its two parts."""

    title: str
    classes: tuple[str, ...]
    train: Part
    test: Part
    first_number: int = 0


def array_part(split: str, images: np.ndarray, labels: np.ndarray) -> Part:
    """Returns a part of uint8 images [N, h, w] or [N, h, w, 3], named '<split>/00000' and so on."""
    return Part(images, labels, [f"{split}/{i:05d}" for i in range(len(images))])


def one_class_splits(
    images: ClassSet,
    category: str,
    anomaly_fraction: float = 0.0,
    seed: int = 0,
    balanced_test: bool = False,
    test_limit: int = 0,
) -> Splits:
    """Returns the training images of class `category`, and all test images, other classes label 1.

    `category` is a class's name or number; the defect of an anomaly is its class's name.
    `balanced_test` keeps as many anomalies, drawn by `seed`, as there are normal test images
    (thesis 5.2.1). `anomaly_fraction` above 0 is the supervised protocol (thesis 3.3): that number
    of anomalies per normal image, at least one, is drawn from the training images of the other
    classes and follows the normal ones with label 1, and the test set is balanced. `test_limit`
    above 0 keeps at most that many test images of either label instead, and balances no further.
    Draws depend on names and seed only; the notes say how many were drawn. No test image is ever
    trained on: each part has its own. Raises UserError for an unknown or empty class and too large
    a fraction.
    """
    normal = class_index(images, category)
    train = _records(images, images.train, normal, images.train.labels == normal)
    if not train:
        raise UserError(
            f"{images.title} has no training images of class '{images.classes[normal]}': complete "
            "the files, or choose another class with --config.data.category"
        )
    if anomaly_fraction:
        others = _records(images, images.train, normal, images.train.labels != normal)
        # Written so that a NaN fails too.
        if not (anomaly_fraction > 0 and anomaly_fraction * len(train) <= len(others)):
            raise UserError(
                f"data.anomaly_fraction {anomaly_fraction} of {len(train)} normal images is not "
                f"between 1 and the {len(others)} images of other classes: use for example 0.01"
            )
        train += _draw(others, max(round(anomaly_fraction * len(train)), 1), seed)
    found = _records(images, images.test, normal, np.ones(len(images.test.labels), bool))
    by_label = [[record for record in found if record.label == label] for label in (0, 1)]
    if test_limit:
        most = (test_limit, test_limit)
    elif balanced_test or anomaly_fraction:
        most = (len(by_label[0]), len(by_label[0]))
    else:
        most = (len(by_label[0]), len(by_label[1]))
    kept = {r.name for part, n in zip(by_label, most, strict=True) for r in _draw(part, n, seed)}
    test = [record for record in found if record.name in kept]
    notes = _drawn(train, test, by_label, seed)
    return Splits(tuple(train), tuple(test), images.classes[normal], notes)


def _drawn(
    train: Sequence[Record], test: Sequence[Record], found: Sequence[Sequence[Record]], seed: int
) -> tuple[str, ...]:
    """Returns a line on what was drawn, with counts; none if nothing was.

    found: all normal and all anomalous test images.
    """
    anomalies = sum(record.label for record in train)
    parts = []
    if anomalies:
        normal = len(train) - anomalies
        parts.append(f"trained on {normal} normal and {anomalies} anomalous images")
    if len(test) < sum(map(len, found)):
        kept = [sum(record.label == label for record in test) for label in (0, 1)]
        of = [f"{n} of {len(part)}" for n, part in zip(kept, found, strict=True)]
        parts.append(f"tested on {of[0]} normal and {of[1]} anomalous ones")
    return (f"note: {', '.join(parts)}, drawn by seed {seed}",) if parts else ()


def class_index(images: ClassSet, category: str) -> int:
    """Returns the index of a class given by name or number. Raises UserError if there is none."""
    wanted, classes = str(category).strip().lower(), images.classes
    if wanted in classes:
        return classes.index(wanted)
    if wanted.isdecimal() and 0 <= int(wanted) - images.first_number < len(classes):
        return int(wanted) - images.first_number
    known = ", ".join(classes) if len(classes) <= 20 else f"{classes[0]} to {classes[-1]}"
    if not wanted:
        raise UserError(
            f"data.category is empty: choose {images.title}'s normal class with "
            f"--config.data.category=NAME out of {known}"
        )
    near = difflib.get_close_matches(wanted, classes, 1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    raise UserError(f"data.category '{category}': {hint}{images.title} has the classes {known}")


def root_folder(root: str | Path, title: str, site: str) -> Path:
    """Returns `data.root` as an existing folder. Raises UserError with what belongs there."""
    if not str(root).strip():
        raise UserError(
            f"data.root is empty: set --config.data.root=DIR to a folder with the files of {title} "
            f"from {site}"
        )
    path = Path(root).expanduser()
    if not path.is_dir():
        why = "is not a folder" if path.exists() else "does not exist"
        raise UserError(
            f"data.root {path} {why}: set --config.data.root=DIR to a folder with the files of "
            f"{title} from {site}"
        )
    return path


def _records(images: ClassSet, part: Part, normal: int, chosen: np.ndarray) -> list[Record]:
    """Returns records of the images that `chosen` (bool [N]) marks, in their order."""
    found = []
    for i in np.flatnonzero(chosen).tolist():
        label = int(part.labels[i] != normal)
        defect = images.classes[part.labels[i]] if label else "good"
        found.append(Record(part.images[i], None, label, defect, part.names[i]))
    return found


def _draw(records: Sequence[Record], count: int, seed: int) -> list[Record]:
    """Draws `count` of the records (all, if there are fewer), in their order."""
    drawn = {record.name for record in shuffled(records, seed)[:count]}
    return [record for record in records if record.name in drawn]
