"""Reads VisA, MVTec AD 2, MVTec LOCO AD and Real-IAD in the layouts of their archives."""

import csv
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vtadl_jax.data.decode import load_mask
from vtadl_jax.data.files import list_images, match_masks
from vtadl_jax.data.records import Record, Splits
from vtadl_jax.data.saturation import DEFECTS, Saturation, read_saturations
from vtadl_jax.data.sources.known_sets import categories, name_below, set_root, whole
from vtadl_jax.errors import UserError

LOCO_FOLDERS = ("good", "logical_anomalies", "structural_anomalies")
IAD_SIDES = ("realiad_1024", "realiad_512", "realiad_256")  # the first that is there is read


@dataclasses.dataclass(frozen=True)
class JoinedMasks:
    """The masks of one image in several files, as one mask.

    saturations: by pixel value, how much of an anomaly is enough (`saturation`); None: not known.
    """

    paths: tuple[Path, ...]
    saturations: Mapping[int, Saturation] | None = None

    @property
    def mark(self) -> str:
        """A short text that differs for other files."""
        return ",".join(f"{path.name}:{path.stat().st_size}" for path in self.paths)

    def read(self) -> np.ndarray:
        """Returns uint8 [h, w], 255 where any file marks a defect. Raises UserError."""
        masks = [load_mask(path) for path in self.paths]
        if len({mask.shape for mask in masks}) > 1:
            raise UserError(f"masks in {self}: they have several sizes")
        return np.where(np.any(masks, axis=0), 255, 0).astype(np.uint8)

    def __str__(self) -> str:
        return str(self.paths[0].parent)


def visa(root: str, category: str, seed: int = 0, fraction: float = 0.2) -> Splits:
    """Reads a category of VisA by the one-class split of its authors, split_csv/1cls.csv."""
    base = set_root(root, "visa")
    table = base / "split_csv" / "1cls.csv"
    try:
        with table.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row.get("object") == category]
        found = [
            (
                row["split"],
                Record(
                    base / row["image"],
                    base / row["mask"] if row["mask"] else None,
                    int(row["label"] != "normal"),
                    "good" if row["label"] == "normal" else "bad",
                    row["image"],
                ),
            )
            for row in rows
        ]
    except (OSError, UnicodeDecodeError, KeyError, csv.Error) as error:
        raise UserError(f"{table} can't be read as VisA's split ({error})") from error
    train, test = (tuple(r for s, r in found if s == name) for name in ("train", "test"))
    return whole(train, test, category, "visa", base)


def mvtec_ad2(root: str, category: str, seed: int = 0, fraction: float = 0.2) -> Splits:
    """Reads a category of MVTec AD 2: its good training and validation images, and test_public.

    The private test images have no labels: score them by `predict`.
    """
    base = set_root(root, "mvtec_ad2") / category
    train = [
        Record(image, None, 0, "good", name_below(base, image))
        for folder in ("train", "validation")
        for image in list_images(base / folder / "good")
    ]
    public = base / "test_public"
    test = [Record(i, None, 0, "good", name_below(base, i)) for i in list_images(public / "good")]
    images = list_images(public / "bad")
    masks = match_masks(public / "ground_truth" / "bad", images, "test_public/bad", False)
    test += [Record(i, masks.get(i), 1, "bad", name_below(base, i)) for i in images]
    note = "note: data.source mvtec_ad2: the good images of train and validation are trained on"
    return whole(train, test, category, "mvtec_ad2", base.parent, [note])


def mvtec_loco(root: str, category: str, seed: int = 0, fraction: float = 0.2) -> Splits:
    """Reads a category of MVTec LOCO AD: good images of train and validation, and its test set.

    The masks of an image, a file for each of its anomalies, are joined; defects_config.json says
    how much of an anomaly is enough for the metric sPRO.
    """
    base = set_root(root, "mvtec_loco") / category
    train = [
        Record(image, None, 0, "good", name_below(base, image))
        for folder in ("train", "validation")
        for image in list_images(base / folder / "good")
    ]
    table = base / DEFECTS
    saturations = read_saturations(table) if table.is_file() else None
    test = []
    for kind in LOCO_FOLDERS:
        for image in list_images(base / "test" / kind):
            files = list_images(base / "ground_truth" / kind / image.stem)
            mask = JoinedMasks(tuple(files), saturations) if files else None
            label = int(kind != "good")
            test.append(
                Record(image, mask if label else None, label, kind, name_below(base, image))
            )
    notes = ["note: data.source mvtec_loco: the good images of train and validation are trained on"]
    if saturations is None and base.is_dir():
        notes.append(f"note: data.source mvtec_loco: no {table}, so the metric sPRO is left out")
    return whole(train, test, category, "mvtec_loco", base.parent, notes)


def real_iad(root: str, category: str, seed: int = 0, fraction: float = 0.2) -> Splits:
    """Reads a category of Real-IAD by the split of realiad_jsons/CATEGORY.json."""
    base = set_root(root, "real_iad")
    side = next((name for name in IAD_SIDES if (base / name / category).is_dir()), None)
    files = sorted((base / "realiad_jsons").rglob(f"{category}.json"))
    if side is None or not files:
        raise UserError(
            f"data.root {base} has no images of {category!r} ({', '.join(IAD_SIDES)}) or no "
            f"realiad_jsons/{category}.json: categories are "
            f"{', '.join(categories('real_iad', root))}"
        )
    try:
        content = json.loads(files[0].read_text(encoding="utf-8"))
        normal, prefix = content["meta"]["normal_class"], content["meta"].get("prefix", "")
        train, test = (
            tuple(_iad_record(base / side / prefix, item, normal) for item in content[name])
            for name in ("train", "test")
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{files[0]} can't be read as a split of Real-IAD ({error})") from error
    note = f"note: data.source real_iad: images of {side}, the split of {files[0].parent.name}"
    return whole(train, test, category, "real_iad", base, [note])


def _iad_record(folder: Path, item: dict, normal: str) -> Record:
    good = item["anomaly_class"] == normal
    mask = None if good or not item.get("mask_path") else folder / item["mask_path"]
    defect = "good" if good else str(item["anomaly_class"])
    return Record(folder / item["image_path"], mask, int(not good), defect, item["image_path"])
