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

from vtadl_jax.data.decode import load_image, read_mask
from vtadl_jax.data.files import (
    folder_like,
    is_good,
    list_entries,
    list_folders,
    list_images,
    match_masks,
)
from vtadl_jax.data.formats import EXTENSIONS, FORMATS
from vtadl_jax.data.masks import listed
from vtadl_jax.data.records import Record, thin_regions
from vtadl_jax.data.sources.layouts import Layout, bad_records, good_notes, unused_masks
from vtadl_jax.data.transforms import Geometry
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

    tried = partial(_tried, issues)

    def images_in(folder: Path) -> list[Path]:
        return _images_in(folder, issues)

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
    truth = tried(folder_like, base, "ground_truth", otherwise=lambda: base / "ground_truth")
    folders = folders_in(base / "test")
    for folder in folders:
        normal = folder.name == layout.good or is_good(folder.name)
        images = images_in(folder)
        mask_folder = tried(folder_like, truth, folder.name, otherwise=lambda: base / "none")
        masks = tried(
            match_masks,
            mask_folder,
            images,
            f"test/{folder.name}",
            normal,
            otherwise=partial(_match_leniently, mask_folder, images),
        )
        if normal:
            notes = good_notes(folder, len(images), layout.good) + unused_masks(masks)
            issues += [Issue("folders", _without_label(note)) for note in notes]
        defect = "good" if normal else folder.name
        for image in images:
            mask = None if normal else masks.get(image)
            items.append(Item("test", defect, _name(base, image), image, mask))
    known = {folder.name.lower() for folder in folders}
    for folder in folders_in(truth):
        if folder.name.lower() not in known:
            tried(match_masks, folder, [], f"test/{folder.name}", otherwise=dict)
    return items


def list_plain_items(base: Path, bad: str, masks: str, issues: list[Issue]) -> list[Item]:
    """Lists items of a plain folder of good images, as `layouts.folder_layout` reads it.

    bad, masks: folders of defective images and of their masks, or ''. Good images are listed as
    training images, though training keeps some of them to test on if there are defective ones.
    """
    items = [
        Item("train", "good", f"good/{image.name}", image, None)
        for image in _images_in(base, issues)
    ]
    if not items:
        issues.append(Issue("layout", f"no images in {base}", error=True))
    records, notes = _tried(
        issues, bad_records, bad, masks, otherwise=lambda: (_bad_leniently(bad, masks), [])
    )
    issues += [Issue("folders", _without_label(note)) for note in notes]
    for record in records:
        items.append(Item("test", record.defect, record.name, record.image, record.mask))
    for folder in {item.image.parent: None for item in items if item.split == "test"}:
        _images_in(folder, issues)
    return items


def _bad_leniently(bad: str, masks: str) -> list[Record]:
    """Lists what can be read of folders in which `layouts.bad_records` finds a fault."""
    folder, truth = Path(bad).expanduser(), Path(masks).expanduser()
    kinds = [entry for entry in list_entries(folder) if entry.is_dir()] or [folder]
    found = []
    for kind in kinds if bad else []:
        images, good = _only_images(kind), kind != folder and is_good(kind.name)
        own = truth / kind.name if (truth / kind.name).is_dir() else truth
        owned = {} if good or not masks else _match_leniently(own, images)
        name = "good" if good else kind.name if kind != folder else "bad"
        for image in images:
            mask = owned.get(image)
            found.append(Record(image, mask, int(not good), name, f"{name}/{image.name}"))
    return found


def _tried(
    issues: list[Issue], function: Callable, *arguments: Any, otherwise: Callable[[], Any]
) -> Any:
    """Calls a function; a UserError becomes an issue, and the result is that of `otherwise`."""
    try:
        return function(*arguments)
    except UserError as error:
        issues.append(Issue("layout", str(error), error=True))
        return otherwise()


def _images_in(folder: Path, issues: list[Issue]) -> list[Path]:
    """Lists the images in a folder; stray files become issues."""
    return _tried(issues, list_images, folder, otherwise=lambda: _only_images(folder))


def stem_issues(items: Iterable[Item], known: Iterable[Issue]) -> list[Issue]:
    """Returns a warning on images of a folder that share a stem, if it is no error already."""
    errors = [issue.text for issue in known if "share the stem" in issue.text]
    seen: dict[Path, Path] = {}
    issues = []
    for image in (item.image for item in items):
        other = seen.setdefault(image.with_suffix(""), image)
        text = f"{other} and {image.name} share the stem '{image.stem}'"
        if other is not image and not any(text in error for error in errors):
            issues.append(Issue("stems", f"{text}: rename one, their masks would be ambiguous"))
    return issues


def _without_label(line: str) -> str:
    return line.removeprefix("note: ")


def _name(base: Path, image: Path) -> str:
    return image.relative_to(base).as_posix()


def _only_images(folder: Path) -> list[Path]:
    entries = list_entries(folder)
    return [entry for entry in entries if entry.is_file() and entry.suffix.lower() in EXTENSIONS]


def _match_leniently(folder: Path, images: Iterable[Path]) -> dict[Path, Path]:
    by_stem = {mask.stem: mask for mask in _only_images(folder)}
    found = {i: by_stem.get(f"{i.stem}_mask", by_stem.get(i.stem)) for i in images}
    return {image: mask for image, mask in found.items() if mask}


def look_at(item: Item, size: tuple[int, int] | None = None) -> Look:
    """Decodes an image and its mask. size: (height, width) to which masks will be reduced."""
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
        look.issues += _mask_issues(item, None if pixels is None else pixels.shape[:2], size)
    elif item.defect != "good":
        text = f"{item.name} is anomalous and has no mask: pixel metrics leave it out"
        look.issues.append(Issue("missing masks", text))
    return look


def _mask_issues(
    item: Item, image_size: tuple[int, ...] | None, size: tuple[int, int] | None
) -> list[Issue]:
    assert item.mask is not None
    try:
        mask = read_mask(item.mask)
        marked = mask.pixels
    except UserError as error:
        return [Issue("unreadable", str(error), error=True)]
    issues = []
    if image_size is not None and marked.shape != image_size:
        text = (
            f"mask {item.mask} is {marked.shape[1]}×{marked.shape[0]} but its image is "
            f"{image_size[1]}×{image_size[0]} (width×height): save the mask at the image's size"
        )
        issues.append(Issue("mask size", text, error=True))
    num_thin = Geometry(size).mask_and_thin(marked)[1] if size else 0
    if num_thin and size:
        text = f"mask {item.mask}: {thin_regions(num_thin, size)}"
        issues.append(Issue("thin regions", text))
    if not marked.any():
        issues.append(Issue("empty masks", f"mask {item.mask} is empty: it marks no defect"))
    if mask.kind == "classes":
        text = (
            f"mask {item.mask} holds class numbers ({listed(mask.values)}): every value above 0 "
            f"counts as defect"
        )
        return [*issues, Issue("class numbers", text)]
    between = _values_between(item.mask)
    if mask.num_dropped:
        issues.append(
            Issue(
                "dropped regions",
                f"mask {item.mask} has {mask.num_dropped} regions of values below half the range: "
                "they count as normal",
            )
        )
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
