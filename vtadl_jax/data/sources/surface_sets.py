"""Reads KolektorSDD, KolektorSDD2 and DAGM 2007 in the layouts of their archives.

Their training images are partly defective, for methods that learn from defects; those here learn
from the good ones.
"""

from collections.abc import Sequence
from pathlib import Path

from vtadl_jax.data.decode import load_mask
from vtadl_jax.data.files import list_folders, list_images
from vtadl_jax.data.records import Record, Splits, split_holdout
from vtadl_jax.data.sources.known_sets import good_of, name_below, set_root, whole


def kolektor_sdd(root: str, category: str = "", seed: int = 0, fraction: float = 0.2) -> Splits:
    """Reads KolektorSDD: trains on good surfaces of some items, tests on all of the others'.

    The set has no split for methods that learn from good images. `fraction` of the items, chosen by
    `seed`, is for testing, with all defective surfaces; good surfaces of items with a defective one
    are tested on, too, so that no item is on both sides.
    """
    base = set_root(root, "kolektor_sdd")
    items: dict[str, list[Record]] = {}
    for folder in list_folders(base):
        for image in list_images(folder):
            label = folder / f"{image.stem}_label.bmp"
            if image.stem.endswith("_label") or not label.is_file():
                continue
            bad = bool(load_mask(label).any())
            record = Record(
                image, label if bad else None, int(bad), "bad" if bad else "good",
                name_below(base, image),
            )  # fmt: skip
            items.setdefault(folder.name, []).append(record)
    sound = [Record(Path(n), None, 0, "good", n) for n, rs in items.items() if not _any_bad(rs)]
    kept, _ = split_holdout(sound, fraction, seed, "data.test_fraction", 1) if sound else ((), ())
    trained = {record.name for record in kept}
    train = [record for name in items if name in trained for record in items[name]]
    test = [record for name in items if name not in trained for record in items[name]]
    note = f"note: data.source kolektor_sdd: {len(trained)} of {len(items)} items are trained on"
    return whole(train, test, category or "KolektorSDD", "kolektor_sdd", base, [note])


def _any_bad(records: Sequence[Record]) -> bool:
    return any(record.label for record in records)


def kolektor_sdd2(root: str, category: str = "", seed: int = 0, fraction: float = 0.2) -> Splits:
    """Reads KolektorSDD2 by its split: NNNNN.png and NNNNN_GT.png in train and test."""
    base = set_root(root, "kolektor_sdd2")
    splits = []
    for folder in ("train", "test"):
        records = []
        for image in list_images(base / folder):
            if image.stem.endswith("_GT"):
                continue
            mask = image.with_name(f"{image.stem}_GT.png")
            bad = mask.is_file() and bool(load_mask(mask).any())
            defect = "bad" if bad else "good"
            records.append(
                Record(image, mask if bad else None, int(bad), defect, name_below(base, image))
            )
        splits.append(records)
    train, notes = good_of(splits[0], "kolektor_sdd2")
    return whole(train, splits[1], category or "KolektorSDD2", "kolektor_sdd2", base, notes)


def dagm(root: str, category: str, seed: int = 0, fraction: float = 0.2) -> Splits:
    """Reads a class of DAGM 2007 by its split: Train and Test, with Label/NNNN_label.PNG."""
    base = set_root(root, "dagm") / category
    splits = []
    for folder in ("Train", "Test"):
        masks = {
            mask.stem.removesuffix("_label"): mask
            for mask in list_images(base / folder / "Label")
            if mask.stem.endswith("_label")
        }
        records = []
        for image in _images_beside_folders(base / folder):
            mask = masks.get(image.stem)
            defect = "good" if mask is None else "bad"
            name = name_below(base, image)
            records.append(Record(image, mask, int(mask is not None), defect, name))
        splits.append(records)
    train, notes = good_of(splits[0], "dagm")
    return whole(train, splits[1], category, "dagm", base.parent, notes)


def _images_beside_folders(folder: Path) -> list[Path]:
    """Returns the images in a folder that also holds a folder of labels."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in (".png", ".jpg"))
