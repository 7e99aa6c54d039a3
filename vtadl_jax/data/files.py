"""Lists folders of images and matches masks to them; raises UserError for unexpected files.

Reads names only. Never skips an unknown file silently: it might be a defect.
"""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from vtadl_jax.data.formats import EXTENSIONS
from vtadl_jax.data.records import natural_key
from vtadl_jax.errors import UserError

GOOD = frozenset({"good", "ok", "normal"})  # folders of good images, beside those of defects
# Folders that many products have: their names do not say which product it is.
GENERIC = GOOD | {
    *("all", "data", "dataset", "datasets", "image", "images", "img", "imgs", "input", "jpg"),
    *("left", "right", "parts", "photos", "pictures", "png", "raw", "test", "train", "training"),
}
SUFFIX = re.compile(r"[_-](mask|gt)$", re.IGNORECASE)  # of a mask's stem, after its image's
LITTER = frozenset({"thumbs.db", "desktop.ini"})  # Windows creates these in folders of pictures


def list_entries(folder: Path) -> list[Path]:
    """Lists a folder in natural order, without hidden files; empty if the folder is absent."""
    if not folder.is_dir():
        return []
    try:
        entries = list(folder.iterdir())
    except OSError as error:
        raise UserError(f"cannot list {folder}: {error.strerror}, check permissions") from error
    seen = [e for e in entries if not e.name.startswith(".") and e.name.lower() not in LITTER]
    return sorted(seen, key=lambda entry: natural_key(entry.name))


def list_folders(folder: Path) -> list[Path]:
    """Lists the folders in a folder of defects. Raises UserError for an image beside them."""
    for entry in list_entries(folder):
        if entry.is_file() and entry.suffix.lower() in EXTENSIONS:
            raise UserError(f"{entry} is in no defect's folder: move it to {folder}/good or so")
    return [entry for entry in list_entries(folder) if entry.is_dir()]


def list_images(folder: Path) -> list[Path]:
    """Lists the images in a folder. Raises UserError for other files and folders."""
    files = list_entries(folder)
    for file in files:
        if file.is_dir():
            raise UserError(f"folder {file} is inside a folder of images: move it elsewhere")
        if file.suffix.lower() not in EXTENSIONS:
            kinds = ", ".join(sorted(EXTENSIONS))
            raise UserError(f"{file} is not an image ({kinds}): move or remove it")
    return files


def is_good(folder: str) -> bool:
    """Returns whether a folder beside those of defects holds good images, by its name."""
    return folder.lower() in GOOD


def product_name(root: str) -> str:
    """Returns a name for the data in a folder: its own, after its parents' while these say nothing.

    'bottle-good' for bottle/good, 'screw' for data/screw; '' for '' and for the root of the disk.
    """
    if not root.strip():
        return ""
    parts = Path(os.path.normpath(Path(root).expanduser().absolute())).parts[1:]
    start = len(parts)
    while start > 0:
        start -= 1
        if parts[start].lower() not in GENERIC:
            break
    return "-".join(parts[start:])


def folder_like(parent: Path, name: str) -> Path:
    """Returns the folder `name` in `parent`, or else the only one that is spelled so in other case.

    The folder may be absent. Raises UserError if several are spelled so.
    """
    if (parent / name).is_dir():
        return parent / name
    same = [e for e in list_entries(parent) if e.is_dir() and e.name.lower() == name.lower()]
    if len(same) > 1:
        raise UserError(f"{same[0]} and {same[1].name} differ in case only: rename one")
    return same[0] if same else parent / name


def match_masks(
    folder: Path, images: Sequence[Path], where: str, ambiguous_stems: bool = False
) -> dict[Path, Path]:
    """Maps each image to its mask in `folder`, as `assign_masks`, with the images' stems."""
    return assign_masks(list_images(folder), images, where, ambiguous_stems)


def assign_masks(
    masks: Sequence[Path],
    images: Sequence[Path],
    where: str,
    ambiguous_stems: bool = False,
    with_folder: bool = False,
) -> dict[Path, Path]:
    """Maps each image to its mask: the file with the image's stem, with or without `_mask`.

    `-mask` and `_gt` serve as `_mask`, in any case; a stem may differ in case if only one does.
    where: folder for a missing image, in errors. with_folder: images come from several folders, and
    a mask may be named FOLDER_STEM. Raises UserError for masks without an image (the first, with
    their number) and for two images (unless `ambiguous_stems`) or masks with the same stem.
    """
    by_stem: dict[str, list[Path]] = {}
    for image in images:
        names = [image.stem, *([f"{image.parent.name}_{image.stem}"] if with_folder else [])]
        for name in names:
            by_stem.setdefault(name, []).append(image)
    if not (ambiguous_stems or with_folder):
        _unique(images, lambda image: image.stem)
    by_lower: dict[str, list[Path]] = {}
    for name, found in by_stem.items():
        by_lower.setdefault(name.lower(), []).extend(found)
    owners: dict[Path, Path] = {}
    orphans: list[Path] = []
    for mask in masks:
        # Removes '_mask' first: a.png and a_mask.png may both be images.
        stems = (SUFFIX.sub("", mask.stem), mask.stem)
        owned = next((by_stem[stem] for stem in stems if stem in by_stem), None)
        owned = owned or next((by_lower[s.lower()] for s in stems if s.lower() in by_lower), [])
        if not owned:
            orphans.append(mask)
            continue
        if len(owned) > 1 and not ambiguous_stems:
            raise UserError(
                f"mask {mask} may belong to {owned[0]} or to {owned[1]}: put masks into folders "
                "that are named as those of the images"
            )
        owners[mask] = owned[-1]
    if orphans:
        more = f"; {len(orphans) - 1} more masks have none" if len(orphans) > 1 else ""
        stem = SUFFIX.sub("", orphans[0].stem)
        raise UserError(
            f"mask {orphans[0]} has no image: put {stem}.* into {where}, rename the mask as its "
            f"image, with or without _mask, or remove it{more}"
        )
    by_owner = _unique(owners, lambda mask: owners[mask].as_posix(), lambda m: owners[m].stem)
    return {owners[mask]: mask for mask in by_owner.values()}


def _unique(
    files: Iterable[Path], key: Callable[[Path], str], shown: Callable[[Path], str] | None = None
) -> dict[str, Path]:
    seen: dict[str, Path] = {}
    for file in files:
        other = seen.setdefault(key(file), file)
        if other is not file:
            raise UserError(
                f"{other} and {file.name} share the stem '{(shown or key)(file)}', so masks are "
                "ambiguous: rename or remove one"
            )
    return seen
