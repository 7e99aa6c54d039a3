"""What the readers of published sets share: how a set is known, its categories, its messages."""

import csv
from collections.abc import Sequence
from pathlib import Path

from vtadl_jax.data.records import Record, Splits
from vtadl_jax.errors import UserError

MADE_OF = {  # source → a path below data.root, or below a category in it, by which it is known
    "visa": "split_csv/1cls.csv",
    "mvtec_ad2": "*/test_public/good",
    "mvtec_loco": "*/test/logical_anomalies",
    "real_iad": "realiad_jsons",
    "kolektor_sdd": "kos*/Part*_label.bmp",
    "kolektor_sdd2": "train/*_GT.png",
    "dagm": "Class*/Train",
}


def good_of(records: Sequence[Record], source: str) -> tuple[list[Record], list[str]]:
    """Returns the good ones of training images, and a note on the others."""
    good = [record for record in records if not record.label]
    left = len(records) - len(good)
    note = f"note: data.source {source}: {left} defective training images are not read"
    return good, [note] if left else []


def name_below(base: Path, image: Path) -> str:
    return image.relative_to(base).as_posix()


def set_root(root: str, source: str) -> Path:
    """Returns the folder of a set. Raises UserError if it does not look like it."""
    base = Path(root).expanduser()
    if not root or not base.is_dir():
        raise UserError(f"data.root {root!r} is not a folder: set --config.data.root=DIR")
    if next(base.glob(MADE_OF[source]), None) is None:
        raise UserError(
            f"data.root {base} does not look like {source}: it has no {MADE_OF[source]}: give the "
            f"folder of the set as it is published"
        )
    return base


def whole(
    train: Sequence[Record],
    test: Sequence[Record],
    category: str,
    source: str,
    base: Path,
    notes: Sequence[str] = (),
) -> Splits:
    """Returns the splits. Raises UserError if there is no training image."""
    if not train:
        known = ", ".join(categories(source, str(base)))
        raise UserError(
            f"data.source {source}: no good training images of {category!r} in {base}: categories "
            f"are {known or 'not there'}"
        )
    return Splits(tuple(train), tuple(test), category, tuple(notes))


def categories(source: str, root: str) -> tuple[str, ...]:
    """Returns the categories of a set in its folder; of sets without any, one of no name."""
    base = set_root(root, source)
    if source == "visa":
        with (base / "split_csv" / "1cls.csv").open(newline="", encoding="utf-8") as file:
            return tuple(dict.fromkeys(row["object"] for row in csv.DictReader(file)))
    if source == "real_iad":
        return tuple(sorted(path.stem for path in (base / "realiad_jsons").rglob("*.json")))
    pattern = MADE_OF[source].removeprefix("*/")
    if source == "dagm":
        return tuple(sorted(path.parent.name for path in base.glob("Class*/Train")))
    if source.startswith("kolektor"):
        return ("",)
    return tuple(sorted(e.name for e in base.iterdir() if (e / pattern).is_dir()))
