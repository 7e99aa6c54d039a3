"""Lists and decodes raw images one by one and collects the issues of each; see `inspect`.

Continues where `layouts` stops at the first fault.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vtadl_jax.data.decode import load_image, load_mask
from vtadl_jax.data.files import list_entries, list_folders, list_images, match_masks
from vtadl_jax.data.formats import EXTENSIONS, FORMATS
from vtadl_jax.data.sources.layouts import Layout
from vtadl_jax.errors import UserError


@dataclass(frozen=True)
class Issue:
    """Issue of an image: `kind` groups issues, `error` marks one that would stop training."""

    kind: str
    text: str
    error: bool = False


@dataclass(frozen=True)
class Item:
    """Image in a split, and its mask if there is one."""

    split: str
    defect: str
    name: str
    image: Path
    mask: Path | None


@dataclass
class Look:
    """Result of decoding an item; digests are None if decoding failed."""

    item: Item
    kind: str = ""
    bytes_digest: bytes | None = None
    pixel_digest: bytes | None = None
    issues: list[Issue] = field(default_factory=list)


def list_items(layout: Layout, base: Path, issues: list[Issue]) -> list[Item]:
    """Lists items as `layouts.read_layout`, but records faults as issues and continues."""

    def tried(function: Callable, *arguments: Any, otherwise: Callable[[], Any]) -> Any:
        try:
            return function(*arguments)
        except UserError as error:
            issues.append(Issue("layout", str(error), error=True))
            return otherwise()

    def images_in(folder: Path) -> list[Path]:
        return tried(list_images, folder, otherwise=lambda: _only_images(folder))

    def folders_in(folder: Path) -> list[Path]:
        otherwise = [entry for entry in list_entries(folder) if entry.is_dir()]
        return tried(list_folders, folder, otherwise=lambda: otherwise)

    items: list[Item] = []
    for folder in (entry for entry in list_entries(base / "train") if entry.is_dir()):
        if folder.name != layout.good:
            issues.append(Issue("layout", f"{folder} is not read: only train/{layout.good} is"))
            continue
        for image in images_in(folder):
            items.append(Item("train", "good", _name(base, image), image, None))
    if not items:
        text = f"no training images in {base / 'train' / layout.good}"
        issues.append(Issue("layout", text, error=True))
    for folder in folders_in(base / "test"):
        normal, images = folder.name == layout.good, images_in(folder)
        mask_folder = base / "ground_truth" / folder.name
        masks = tried(
            match_masks,
            mask_folder,
            images,
            f"test/{folder.name}",
            normal,
            otherwise=partial(_match_leniently, mask_folder, images),
        )
        defect = "good" if normal else folder.name
        for image in images:
            mask = None if normal else masks.get(image)
            items.append(Item("test", defect, _name(base, image), image, mask))
    for folder in folders_in(base / "ground_truth"):
        if not (base / "test" / folder.name).is_dir():
            tried(match_masks, folder, [], f"test/{folder.name}", otherwise=dict)
    return items


def _name(base: Path, image: Path) -> str:
    return image.relative_to(base).as_posix()


def _only_images(folder: Path) -> list[Path]:
    entries = list_entries(folder)
    return [entry for entry in entries if entry.is_file() and entry.suffix.lower() in EXTENSIONS]


def _match_leniently(folder: Path, images: Iterable[Path]) -> dict[Path, Path]:
    by_stem = {mask.stem: mask for mask in _only_images(folder)}
    found = {i: by_stem.get(f"{i.stem}_mask", by_stem.get(i.stem)) for i in images}
    return {image: mask for image, mask in found.items() if mask}


def look_at(item: Item) -> Look:
    look = Look(item)
    try:
        pixels = load_image(item.image, 3)
        with item.image.open("rb") as file, Image.open(file, formats=FORMATS) as image:
            look.kind = f"{pixels.shape[1]}×{pixels.shape[0]} {image.format} {image.mode}"
        look.bytes_digest = sha256(item.image.read_bytes()).digest()
        look.pixel_digest = sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()
    except UserError as error:
        look.issues.append(Issue("unreadable", str(error), error=True))
        pixels = None
    if item.mask is not None:
        look.issues += _mask_issues(item, None if pixels is None else pixels.shape[:2])
    elif item.defect != "good":
        text = f"{item.name} is anomalous and has no mask: pixel metrics leave it out"
        look.issues.append(Issue("missing masks", text))
    return look


def _mask_issues(item: Item, image_size: tuple[int, ...] | None) -> list[Issue]:
    assert item.mask is not None
    try:
        marked = load_mask(item.mask)
    except UserError as error:
        return [Issue("unreadable", str(error), error=True)]
    issues = []
    if image_size is not None and marked.shape != image_size:
        text = (
            f"mask {item.mask} is {marked.shape[1]}×{marked.shape[0]} but its image is "
            f"{image_size[1]}×{image_size[0]} (width×height): save the mask at the image's size"
        )
        issues.append(Issue("mask size", text, error=True))
    if not marked.any():
        issues.append(Issue("empty masks", f"mask {item.mask} is empty: it marks no defect"))
    between = _values_between(item.mask)
    if between.size:
        text = (
            f"mask {item.mask} is not binary: it also has {between.size} values from "
            f"{between[0]} to {between[-1]}, which are cut at half the range"
        )
        issues.append(Issue("masks that are not binary", text))
    return issues


def _values_between(mask: Path) -> np.ndarray:
    """Returns the distinct values of a mask other than 0 and the largest value of its dtype."""
    with mask.open("rb") as file, Image.open(file, formats=FORMATS) as image:
        colours = image.mode not in ("1", "L") and not image.mode.startswith("I")
        values = np.unique(np.asarray(image.convert("RGB") if colours else image))
    full = 1 if values.dtype == bool else 255 if values.dtype == np.uint8 else 65535
    return values[(values != 0) & (values != full)]
