"""Lists folders of images and matches masks to them; raises UserError for unexpected files.

Reads names only. Never skips an unknown file silently: it might be a defect.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from vtadl_jax.data.formats import EXTENSIONS
from vtadl_jax.data.records import natural_key
from vtadl_jax.errors import UserError

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


def match_masks(
    folder: Path, images: Sequence[Path], where: str, ambiguous_stems: bool = False
) -> dict[Path, Path]:
    """Maps each image to its mask in `folder`: the file with the image's stem, with or without
    `_mask`.

    where: folder for a missing image, in errors. Raises UserError for a mask without an image and
    for two images (unless `ambiguous_stems`) or masks with the same stem.
    """
    files = list_images(folder)
    by_stem = {image.stem: image for image in images}
    if not ambiguous_stems:
        by_stem = _unique(images, lambda image: image.stem)
    owners: dict[Path, str] = {}
    for file in files:
        # Removes '_mask' first: a.png and a_mask.png may both be images.
        stem = file.stem.removesuffix("_mask")
        owner = stem if stem in by_stem else file.stem
        if owner not in by_stem:
            raise UserError(f"mask {file} has no image: put {stem}.* into {where} or remove it")
        owners[file] = owner
    by_owner = _unique(files, owners.__getitem__)
    return {by_stem[stem]: mask for stem, mask in by_owner.items()}


def _unique(files: Iterable[Path], key: Callable[[Path], str]) -> dict[str, Path]:
    seen: dict[str, Path] = {}
    for file in files:
        other = seen.setdefault(key(file), file)
        if other is not file:
            raise UserError(
                f"{other} and {file.name} share the stem '{key(file)}', so masks are ambiguous: "
                "rename or remove one"
            )
    return seen
