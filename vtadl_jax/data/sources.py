"""Which files belong to a data set: folder layouts → records, and the checks made at each start.

Reads folder listings and image headers only; pixels are decoded in `transforms`. Every mistake a
user can make in a folder is a `UserError` that names the file.
"""

import difflib
import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from vtadl_jax.data.transforms import check_whole, image_size
from vtadl_jax.errors import UserError

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
LITTER = frozenset({"thumbs.db", "desktop.ini"})  # Windows leaves these in folders of pictures


@dataclass(frozen=True)
class Record:
    """One image: its files, its label (0 normal, 1 anomalous), its defect ('good' if normal) and
    its name (posix path relative to the category's folder)."""

    image: Path
    mask: Path | None
    label: int
    defect: str
    name: str


@dataclass(frozen=True)
class Splits:
    """The images of one category; `test` is empty when there is no test folder."""

    train: tuple[Record, ...]
    test: tuple[Record, ...]
    category: str


def mvtec_layout(root: str | Path, category: str = "") -> Splits:
    """The MVTec AD layout: train/good/*, test/<defect>/*, ground_truth/<defect>/<stem>_mask.*

    The folders are in `root/category`, or in `root` itself when `category` is ''. A mask may also
    carry the image's own stem, or be absent. Records are in natural order (2 before 10). Raises
    UserError for a missing folder, an unknown category, a stray file, a mask without its image and
    for two images or masks that share a stem.
    """
    base = _category_folder(root, category)
    train = [_record(base, image, None) for image in _images(base / "train" / "good")]
    if not train:
        raise UserError(
            f"no training images in {base / 'train' / 'good'}: put images of good parts there"
        )
    test: list[Record] = []
    for folder in _defects(base / "test"):
        images = _images(folder)
        masks = _masks(base / "ground_truth" / folder.name, images)
        test += [_record(base, image, masks.get(image)) for image in images]
    for folder in _defects(base / "ground_truth"):
        if not (base / "test" / folder.name).is_dir():
            _masks(folder, [])  # every mask in it lacks its image, and says so
    return Splits(tuple(train), tuple(test), category or base.resolve().name)


def split_holdout(
    records: Sequence[Record], fraction: float, seed: int
) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
    """Records → (train, holdout), with about `fraction` (0 ≤ fraction < 1) of them in the holdout.

    Depends on names and seed only, not on the order of `records`; a new image leaves most others
    where they were. A fraction above 0 gives at least 1 to each side, and at least 2 to the holdout
    from 4 records on. Raises UserError when that is impossible.
    """
    if not 0 <= fraction < 1:
        raise UserError(f"holdout fraction {fraction} is outside [0, 1): use for example 0.1")
    ordered = sorted(records, key=lambda record: _natural(record.name))
    if fraction == 0:
        return tuple(ordered), ()
    if len(ordered) < 2:
        raise UserError(
            f"holdout fraction {fraction} cannot be taken from {len(ordered)} images: "
            "add images, or use 0"
        )
    count = max(round(fraction * len(ordered)), 2 if len(ordered) >= 4 else 1)
    # A hash rather than a generator: the same split under every version of numpy.
    ranked = sorted(ordered, key=lambda r: hashlib.sha256(f"{seed}:{r.name}".encode()).digest())
    held = set(ranked[: min(count, len(ordered) - 1)])
    return tuple(r for r in ordered if r not in held), tuple(r for r in ordered if r in held)


def check_images(splits: Splits, workers: int = 8) -> None:
    """Read every file's header and end, with `workers` threads; raise UserError naming the files
    which are unreadable or cut short, or masks whose size is not their image's.

    Quick enough for each start. Damage in the middle of a file is found when it is decoded.
    """

    def fault(record: Record) -> str | None:
        try:
            size = image_size(record.image)
            check_whole(record.image)
            mask_size = size
            if record.mask:
                mask_size = image_size(record.mask)
                check_whole(record.mask)
        except UserError as error:
            return str(error)
        if mask_size != size:
            return (
                f"mask {record.mask} is {_size(mask_size)} but its image {record.image} is "
                f"{_size(size)} (width×height): save the mask at the image's size"
            )
        return None

    with ThreadPoolExecutor(max(1, workers)) as pool:
        faults = [text for text in pool.map(fault, splits.train + splits.test) if text]
    if faults:
        more = f" (and {len(faults) - 1} more files with faults)" if len(faults) > 1 else ""
        raise UserError(faults[0] + more)


def _category_folder(root: str | Path, category: str) -> Path:
    """The folder that holds train/good, or a UserError that says which folders would."""
    if not str(root).strip():
        raise UserError(
            "data.root is empty: set --config.data.root=DIR to the folder that holds "
            "train/good, or one such folder for each category"
        )
    path = Path(root).expanduser()
    if not path.is_dir():
        why = "is not a folder" if path.exists() else "does not exist"
        raise UserError(f"data.root {path} {why}: set --config.data.root=DIR to the data's folder")
    base = path / category
    if (base / "train" / "good").is_dir():
        return base
    if category and base.is_dir():
        raise UserError(f"no folder {base / 'train' / 'good'}: put images of good parts there")
    known = [entry.name for entry in _entries(path) if (entry / "train" / "good").is_dir()]
    if category:
        raise UserError(
            f"unknown category '{category}' in {path}: {_suggest(path, category, known)}"
        )
    if known:
        raise UserError(
            f"no folder {path / 'train' / 'good'}: "
            f"choose a category with --config.data.category=NAME out of {', '.join(known)}"
        )
    raise UserError(f"no folder {path / 'train' / 'good'}: put images of good parts there")


def _suggest(root: Path, category: str, known: Sequence[str]) -> str:
    if (root / "train" / "good").is_dir():
        return "the folder itself holds train/good, leave the category empty"
    if not known:
        return "none of its sub-folders holds train/good, check --config.data.root"
    lowered = {name.lower(): name for name in known}
    near = difflib.get_close_matches(category.lower(), lowered, n=1)
    hint = f"did you mean '{lowered[near[0]]}'? " if near else ""
    return f"{hint}known categories are {', '.join(known)}"


def _record(base: Path, image: Path, mask: Path | None) -> Record:
    defect = image.parent.name
    normal = defect == "good"
    name = image.relative_to(base).as_posix()
    return Record(image, None if normal else mask, 0 if normal else 1, defect, name)


def _images(folder: Path) -> list[Path]:
    """The images in a folder; anything else there is a UserError, never silently left out."""
    files = _entries(folder)
    for file in files:
        if file.is_dir():
            raise UserError(f"folder {file} is inside a folder of images: move it elsewhere")
        if file.suffix.lower() not in EXTENSIONS:
            kinds = ", ".join(sorted(EXTENSIONS))
            raise UserError(f"{file} is not an image ({kinds}): move or remove it")
    return files


def _defects(folder: Path) -> list[Path]:
    """The folders in test or ground_truth; an image beside them would be silently left out."""
    for entry in _entries(folder):
        if entry.is_file() and entry.suffix.lower() in EXTENSIONS:
            raise UserError(f"{entry} is in no defect's folder: move it to {folder}/good or so")
    return [entry for entry in _entries(folder) if entry.is_dir()]


def _entries(folder: Path) -> list[Path]:
    """What a folder holds, in natural order, without hidden files; nothing if it is absent."""
    if not folder.is_dir():
        return []
    try:
        entries = list(folder.iterdir())
    except OSError as error:
        raise UserError(f"cannot list {folder}: {error.strerror}, check permissions") from error
    seen = [e for e in entries if not e.name.startswith(".") and e.name.lower() not in LITTER]
    return sorted(seen, key=lambda entry: _natural(entry.name))


def _masks(folder: Path, images: Sequence[Path]) -> dict[Path, Path]:
    """Image → mask, for one defect; `images` all come from one folder."""
    files = _images(folder)
    by_stem = {image.stem: image for image in images}
    if folder.name != "good":  # good images have no masks that could be confused
        by_stem = _unique(images, lambda image: image.stem)
    owners: dict[Path, str] = {}
    for file in files:
        # '_mask' is taken off first: a.png and a_mask.png may both be images.
        stem = file.stem.removesuffix("_mask")
        owner = stem if stem in by_stem else file.stem
        if owner not in by_stem:
            raise UserError(
                f"mask {file} has no image: put {stem}.* into test/{folder.name} or remove the mask"
            )
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


def _natural(name: str) -> tuple[list[str | int], str]:
    """Sort key by which a2 comes before a10; the name itself settles ties of case and zeros."""
    parts = re.split(r"(\d+)", name.lower())
    return [int(part) if part.isdecimal() else part for part in parts], name


def _size(size: tuple[int, int]) -> str:
    return f"{size[1]}×{size[0]}"
