"""Lists folders of images as records: MVTec AD's layout, BTAD's, and a plain folder of good images.

Reads folder listings only; `records.check_images` reads headers, `decode` pixels. Every mistake in
a folder raises a `UserError` that names the file.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vtadl_jax.data.files import (
    assign_masks,
    folder_like,
    is_good,
    list_entries,
    list_folders,
    list_images,
    match_masks,
)
from vtadl_jax.data.records import Record, Splits, split_holdout
from vtadl_jax.errors import UserError


@dataclass(frozen=True)
class Layout:
    """Folders train/<good>, test/<good>, test/<defect>, ground_truth/<defect>/<stem>[_mask].*"""

    good: str


MVTEC = Layout("good")
BTAD = Layout("ok")


def mvtec_layout(root: str | Path, category: str = "", test: bool = True) -> Splits:
    """Reads MVTec AD's layout, good images in folders named 'good'; see `read_layout`."""
    return read_layout(MVTEC, root, category, test)


def btad_layout(root: str | Path, category: str = "", test: bool = True) -> Splits:
    """Reads BTAD's layout, good images in 'ok' and all defects in 'ko'; see `read_layout`."""
    return read_layout(BTAD, root, category, test)


def read_layout(layout: Layout, root: str | Path, category: str = "", test: bool = True) -> Splits:
    """Lists the images in `root/category`, or in `root` itself if `category` is ''.

    A mask has its image's stem, with or without '_mask', or is absent. Good images get the defect
    'good' whatever their folder's name; in `test` they may also be in 'good', 'ok' or 'normal', in
    any case. Records are in natural order (2 before 10). test: False does not look into the folders
    of test images and masks. Raises UserError for a missing folder, an unknown category, a stray
    file, a mask without its image and for two images or masks that share a stem.
    """
    base = _category_folder(layout, root, category)
    good = base / "train" / layout.good
    train = [_record(base, image) for image in list_images(good)]
    if not train:
        raise UserError(f"no training images in {good}: put images of good parts there")
    notes = [
        f"note: {entry} is not read: only train/{layout.good} is"
        for entry in list_entries(base / "train")
        if entry.is_dir() and entry.name != layout.good
    ]
    name = category or base.resolve().name
    if not test:
        return Splits(tuple(train), (), name, tuple(notes))
    tested: list[Record] = []
    truth = folder_like(base, "ground_truth")
    folders = list_folders(base / "test")
    for folder in folders:
        normal = folder.name == layout.good or is_good(folder.name)
        images, where = list_images(folder), f"test/{folder.name}"
        masks = match_masks(folder_like(truth, folder.name), images, where, normal)
        if normal:
            tested += [_record(base, image) for image in images]
            notes += good_notes(folder, len(images), layout.good) + unused_masks(masks)
        else:
            tested += [_record(base, image, folder.name, masks.get(image)) for image in images]
    known = {folder.name.lower() for folder in folders}
    for folder in list_folders(truth):
        if folder.name.lower() not in known:
            match_masks(folder, [], f"test/{folder.name}")  # raises: masks without images
    return Splits(tuple(train), tuple(tested), name, tuple(notes))


def good_notes(folder: Path, count: int, usual: str = "") -> list[str]:
    """Returns a line on a folder among those of defects whose images count as good, if it is not
    the layout's usual one."""
    if folder.name == usual or not count:
        return []
    return [f"note: the {count} images in {folder} count as good test images by its name"]


def unused_masks(masks: Mapping[Path, Path]) -> list[str]:
    """Returns a line on masks of good images, which are not read."""
    if not masks:
        return []
    example = next(iter(masks.values()))
    return [f"note: {len(masks)} masks of good images are not read (for example {example})"]


def folder_layout(
    root: str | Path,
    category: str = "",
    bad: str | Path = "",
    masks: str | Path = "",
    test_fraction: float = 0.2,
    seed: int = 0,
    test: bool = True,
) -> Splits:
    """Reads any folder: in one of the layouts above, or with good images only.

    All images of a plain folder are training images, unless `bad` names a folder of defective
    images (or of one folder per defect): then these and `test_fraction` of the good ones, chosen by
    `seed`, are test images. Folders 'good', 'ok' and 'normal' in `bad` hold further good test
    images. `masks` has the folders of `bad`, spelled in any case, or all masks in one folder; masks
    have their image's name, with or without '_mask'. test: False gives the same training images
    and does not look into the folders of others. Raises UserError as `read_layout`, and if `masks`
    holds none.
    """
    path = _root_folder(root)
    bases = [path / category] if category else [path, *filter(Path.is_dir, list_entries(path))]
    for layout in (MVTEC, BTAD):
        if any((base / "train" / layout.good).is_dir() for base in bases):
            if bad or masks:
                raise UserError(
                    f"data.bad and data.masks are for a plain folder of good images, but {path} "
                    f"holds train/{layout.good}: leave them empty"
                )
            return read_layout(layout, root, category, test)
    base = path / category
    if not base.is_dir():
        folders = [entry.name for entry in list_entries(path) if entry.is_dir()]
        near = difflib.get_close_matches(category, folders, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise UserError(f"no folder {base}: {hint}check --config.data.root and the category")
    _check_plain(base)
    if bad:
        _check_apart(base, Path(bad).expanduser())
    good = [Record(image, None, 0, "good", f"good/{image.name}") for image in list_images(base)]
    if not good:
        raise UserError(f"no images in {base}: put images of good parts there")
    defective, notes = bad_records(bad, masks) if test else ([], [])
    kept: tuple[Record, ...] = ()
    train = tuple(good)
    if bad:
        train, kept = split_holdout(good, test_fraction, seed, "data.test_fraction", 2)
    tested = (*kept, *defective) if test else ()
    return Splits(train, tested, category or base.resolve().name, tuple(notes))


def _check_plain(base: Path) -> None:
    """Raises UserError for a folder of folders, which is not one of good images."""
    entries = list_entries(base)
    folders = [entry.name for entry in entries if entry.is_dir()]
    if not folders or len(folders) < len(entries):
        return
    good = next((name for name in folders if is_good(name)), folders[0])
    names = ", ".join(folders[:5]) + (", …" if len(folders) > 5 else "")
    raise UserError(
        f"{base} holds no images, only folders ({names}): give the folder of good images, for "
        f"example --config.data.root={base / good}, and that of defective ones with "
        f"--config.data.bad=DIR; or put good images to train on into {base / 'train/good'}"
    )


def _check_apart(good: Path, bad: Path) -> None:
    """Raises UserError if the folders of good and defective images are the same folder."""
    if good.resolve() == bad.resolve():
        raise UserError(
            f"data.bad {bad} is the folder of good images, data.root: give the folder of the "
            f"defective ones"
        )


def bad_records(bad: str | Path, masks: str | Path) -> tuple[list[Record], list[str]]:
    """Lists the images in `bad` with their masks in `masks`; returns records and notes."""
    if not bad:
        if masks:
            raise UserError(f"data.masks {masks} needs data.bad, the folder of their images")
        return [], []
    folder, mask_folder = _existing("data.bad", bad), None
    if masks:
        mask_folder = _existing("data.masks", masks)
    kinds = [entry for entry in list_entries(folder) if entry.is_dir()]
    for kind in kinds and list_entries(folder):
        if not kind.is_dir():
            raise UserError(f"{kind} is beside folders of defects: move it into one of them")
    if not kinds and is_good(folder.absolute().name):
        raise UserError(
            f"data.bad {folder} is a folder of good images by its name: give the folder of the "
            f"defective ones, or rename it"
        )
    images = {kind: list_images(kind) for kind in kinds or [folder]}
    owned = {} if mask_folder is None else _masks_in(mask_folder, images, folder, bool(kinds))
    found: list[Record] = []
    notes: list[str] = []
    for kind, files in images.items():
        if kinds and is_good(kind.name):
            # Not good/NAME: the good images of data.root have such names.
            found += [Record(i, None, 0, "good", f"bad/{kind.name}/{i.name}") for i in files]
            notes += good_notes(kind, len(files))
            notes += unused_masks({i: owned[i] for i in files if i in owned})
            continue
        defect = kind.name if kinds else "bad"
        found += [Record(i, owned.get(i), 1, defect, f"{defect}/{i.name}") for i in files]
    if not any(record.label for record in found):
        raise UserError(f"data.bad {folder} holds no images: put defective ones there or leave it")
    return found, notes


def _masks_in(
    folder: Path, images: Mapping[Path, Sequence[Path]], bad: Path, by_kind: bool
) -> dict[Path, Path]:
    """Maps images to their masks in `data.masks`: in folders as the images, or all in one.

    images: folder → its images. Raises UserError for masks without images, and if there is none.
    """
    entries = list_entries(folder)
    folders = [entry for entry in entries if entry.is_dir()]
    if folders and len(folders) < len(entries):
        stray = next(entry for entry in entries if not entry.is_dir())
        raise UserError(f"{stray} is beside folders of masks: move it into one of them")
    every = [image for files in images.values() for image in files]
    found: dict[Path, Path] = {}
    if folders and by_kind:
        for kind, files in images.items():
            there = folder_like(folder, kind.name)
            found |= match_masks(there, files, str(kind), is_good(kind.name))
        known = {kind.name.lower() for kind in images}
        for entry in folders:
            if entry.name.lower() not in known:
                match_masks(entry, [], str(bad / entry.name))  # raises: masks without images
    else:
        masks = [mask for entry in folders or [folder] for mask in list_images(entry)]
        found = assign_masks(masks, every, str(bad), with_folder=True)
    if not found and every:
        inside = folder / every[0].parent.name if by_kind else folder
        raise UserError(
            f"data.masks {folder} holds no mask: that of {every[0]}, for example, would be "
            f"{inside / every[0].stem}_mask.png: give another folder, or leave it empty"
        )
    return found


def _existing(field: str, value: str | Path) -> Path:
    path = Path(value).expanduser()
    if not path.is_dir():
        why = "is not a folder" if path.exists() else "does not exist"
        here = "" if path.is_absolute() else f" in {Path.cwd()}"
        raise UserError(f"{field} {path} {why}{here}: set --config.{field}=DIR")
    return path


def _root_folder(root: str | Path) -> Path:
    if not str(root).strip():
        raise UserError("data.root is empty: set --config.data.root=DIR to the folder of the data")
    return _existing("data.root", root)


def list_categories(layout: Layout, root: str | Path) -> tuple[str, ...]:
    """Lists the folders in `root` with good training images. Raises UserError if there are none."""
    path, inside = _root_folder(root), Path("train") / layout.good
    known = tuple(entry.name for entry in list_entries(path) if (entry / inside).is_dir())
    if not known:
        raise UserError(f"none of the folders in {path} holds {inside}: check --config.data.root")
    return known


def _category_folder(layout: Layout, root: str | Path, category: str) -> Path:
    """Returns the folder that holds train/good. Raises UserError with the folders that do."""
    path, inside = _root_folder(root), Path("train") / layout.good
    base = path / category
    if (base / inside).is_dir():
        return base
    if category and base.is_dir():
        raise UserError(f"no folder {base / inside}: put images of good parts there")
    known = [entry.name for entry in list_entries(path) if (entry / inside).is_dir()]
    if category:
        raise UserError(
            f"unknown category '{category}' in {path}: {_suggest(path / inside, category, known)}"
        )
    if known:
        raise UserError(
            f"no folder {path / inside}: choose a category with --config.data.category=NAME "
            f"out of {', '.join(known)}"
        )
    raise UserError(f"no folder {path / inside}: put images of good parts there")


def _suggest(inside: Path, category: str, known: Sequence[str]) -> str:
    if inside.is_dir():
        return f"the folder itself holds train/{inside.name}, leave the category empty"
    if not known:
        return f"none of its sub-folders holds train/{inside.name}, check --config.data.root"
    lowered = {name.lower(): name for name in known}
    near = difflib.get_close_matches(category.lower(), lowered, n=1)
    hint = f"did you mean '{lowered[near[0]]}'? " if near else ""
    return f"{hint}known categories are {', '.join(known)}"


def _record(base: Path, image: Path, defect: str = "good", mask: Path | None = None) -> Record:
    label = 0 if defect == "good" else 1
    return Record(image, mask, label, defect, image.relative_to(base).as_posix())
