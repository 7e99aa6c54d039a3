"""COIL-100: a hundred objects with 72 views each; a folder of obj<k>__<angle>.png.

The set has no split of its own; a share of every object's images is the test set, as in the thesis
(5.2.2: 20 %). Reads names only.
"""

import re
from pathlib import Path

import numpy as np

from vtadl_jax.data.files import list_entries
from vtadl_jax.data.records import Record, split_holdout
from vtadl_jax.data.sources.one_class import ClassSet, Part, root_folder
from vtadl_jax.errors import UserError

TITLE = "COIL-100"
SITE = "https://www.cs.columbia.edu/CAVE/software/softlib/coil-100.php"
NUM_OBJECTS = 100
CLASSES = tuple(f"obj{k}" for k in range(1, NUM_OBJECTS + 1))


def read_coil100(root: str | Path, test_fraction: float = 0.2, seed: int = 0) -> ClassSet:
    """Lists the images in `root` or in root/coil-100, the archive's folder.

    `test_fraction` of each object's images, chosen by `seed`, is the test part; an object may have
    no images. Raises UserError for a file with another name or an unknown object.
    """
    folder = root_folder(root, TITLE, SITE)
    if (folder / "coil-100").is_dir():
        folder = folder / "coil-100"
    objects: dict[int, list[Record]] = {}
    # The archive also holds two Perl scripts.
    for path in (entry for entry in list_entries(folder) if entry.suffix != ".pl"):
        number = _object_number(path)
        objects.setdefault(number, []).append(Record(path, None, 0, "good", path.name))
    if not objects:
        raise UserError(f"{folder} holds no obj1__0.png and so on: get {TITLE} from {SITE}")
    train: list[tuple[Record, int]] = []
    test: list[tuple[Record, int]] = []
    for number, records in sorted(objects.items()):
        parts = split_holdout(records, test_fraction, seed, "data.test_fraction", 2)
        for part, chosen in zip((train, test), parts, strict=True):
            part += [(record, number - 1) for record in chosen]
    return ClassSet(TITLE, CLASSES, _part(train), _part(test), first_number=1)


def _object_number(path: Path) -> int:
    match = re.fullmatch(r"obj(\d{1,3})__(\d{1,3})\.png", path.name, re.ASCII)
    if match is None or not path.is_file():
        raise UserError(f"{path} is not called obj<number>__<angle>.png: move or remove it")
    number, angle = map(int, match.groups())
    if not 1 <= number <= NUM_OBJECTS:
        raise UserError(
            f"{path}: object {number} is not between 1 and {NUM_OBJECTS}: move or remove it"
        )
    if angle >= 360:
        raise UserError(f"{path}: angle {angle} is not below 360 degrees: move or remove it")
    return number


def _part(chosen: list[tuple[Record, int]]) -> Part:
    return Part(
        [record.image for record, _ in chosen],
        np.array([label for _, label in chosen], np.int64),
        [record.name for record, _ in chosen],
    )
