"""Records: metadata of the images of a data set, before any image is decoded.

The modules of `sources` make records, `pipeline` makes batches from them.
"""

import hashlib
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vtadl_jax.data.decode import ImageRef, check_whole, image_size, read_mask
from vtadl_jax.data.masks import Marked, describe
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.errors import UserError


@dataclass(frozen=True, eq=False)
class Record:
    """One image: its pixels and mask or their files, its label (0 normal, 1 anomalous), its defect
    ('good' if normal) and its name (unique in its set: a posix path relative to the category).

    region: its own file of `data.regions`; None where one is for the whole set, or nothing is.
    """

    image: ImageRef
    mask: ImageRef | None
    label: int
    defect: str
    name: str
    region: Path | None = None


@dataclass(frozen=True)
class Splits:
    """The images of one category; `test` is empty without test images.

    `train` holds anomalous images only for supervised detectors. notes: lines for the user on what
    was found in the folders and read otherwise than it may seem, or not at all.
    """

    train: tuple[Record, ...]
    test: tuple[Record, ...]
    category: str
    notes: tuple[str, ...] = ()


MOST_NAMED = 8  # images that a note lists by name
# Fewer images do not give the spread of the score terms: with two, one term may dominate the score.
ENOUGH_TO_CALIBRATE = 8


def split_holdout(
    records: Sequence[Record],
    fraction: float,
    seed: int,
    field: str = "data.holdout_fraction",
    enough: int = ENOUGH_TO_CALIBRATE,
) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
    """Splits records into (train, holdout), with about `fraction` (0 ≤ fraction < 1) of the normal
    ones in the holdout; anomalous ones stay in train.

    Depends on names and seed only, not on the order of `records`; a new image does not move most
    others. A fraction above 0 gives at least 1 record to each side, at least 2 to the holdout from
    4 records on, and up to `enough` while these are at most a fifth of the records. Raises
    UserError, naming `field`, if that is impossible.
    """
    if not 0 <= fraction < 1:
        raise UserError(f"{field} {fraction} is outside [0, 1): use for example 0.1")
    ordered = sorted(records, key=lambda record: natural_key(record.name))
    if fraction == 0:
        return tuple(ordered), ()
    normal = [record for record in ordered if record.label == 0]
    if len(normal) < 2:
        raise UserError(f"{field} {fraction} cannot be taken from {len(normal)} images: add images")
    least = max(2 if len(normal) >= 4 else 1, min(enough, len(normal) // 5))
    count = max(round(fraction * len(normal)), least)
    held = {r.name for r in shuffled(normal, seed)[: min(count, len(normal) - 1)]}
    return (
        tuple(r for r in ordered if r.name not in held),
        tuple(r for r in ordered if r.name in held),
    )


def take_shots(splits: Splits, shots: int, seed: int) -> Splits:
    """Returns the splits with only `shots` good training images, chosen by names and seed.

    A note says which. Raises UserError if there are fewer.
    """
    good = [record for record in splits.train if record.label == 0]
    if shots > len(good):
        raise UserError(
            f"data.shots {shots}: the training set has {len(good)} good images: use {len(good)} or "
            f"less"
        )
    ordered = sorted(good, key=lambda record: natural_key(record.name))
    chosen = {record.name for record in shuffled(ordered, seed)[:shots]}
    names = [record.name for record in ordered if record.name in chosen]
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    note = (
        f"data.shots: {shots} of {len(good)} good training images, chosen by seed {seed}: "
        f"{', '.join(names[:MOST_NAMED])}{more}"
    )
    train = tuple(r for r in splits.train if r.label or r.name in chosen)
    return replace(splits, train=train, notes=(*splits.notes, note))


def move_anomalies(splits: Splits, fraction: float, seed: int, masked: bool = False) -> Splits:
    """Moves anomalous images from the test to the training images; returns the new splits.

    Moves `fraction` × the number of good training images, at least one, in equal shares of every
    kind of defect, drawn by names and seed. masked: only images with a mask. Raises UserError if
    that leaves no anomalous test image, or if there is none.
    """
    defective = [r for r in splits.test if r.label]
    usable = [r for r in defective if r.mask is not None or not masked]
    if not usable:
        raise UserError(_nothing_to_move(fraction, len(defective), masked))
    count = max(round(fraction * len(splits.train)), 1)
    if count >= len(usable):
        what = "with a mask " if masked else ""
        most = len(usable) / max(len(splits.train), 1)
        less = f"use less than {most:.3g}, or " if len(usable) > 1 else ""
        raise UserError(
            f"data.anomaly_fraction {fraction} of {len(splits.train)} good training images is "
            f"{count}, and there are {len(usable)} defective test images {what}to take them from; "
            f"at least one must stay in the test set: {less}add defective images"
        )
    by_kind: dict[str, list[Record]] = {}
    for record in usable:
        by_kind.setdefault(record.defect, []).append(record)
    ordered = [record for kind in sorted(by_kind) for record in shuffled(by_kind[kind], seed)]
    # Every kind is spread evenly over the list: evenly spaced picks take the same share of each.
    chosen = {ordered[len(ordered) * i // count].name for i in range(count)}
    return replace(
        splits,
        train=(*splits.train, *(r for r in splits.test if r.name in chosen)),
        test=tuple(r for r in splits.test if r.name not in chosen),
    )


def _nothing_to_move(fraction: float, num_defective: int, masked: bool) -> str:
    """Returns why no test image can move to the training images, and what to give."""
    learns = f"data.anomaly_fraction {fraction} trains on defective images"
    if num_defective:
        return (
            f"{learns} with masks, and none of the {num_defective} defective images has one: give "
            f"--config.data.masks=DIR, or ground_truth/DEFECT beside test/DEFECT"
        )
    masks = " and --config.data.masks=DIR, or test/DEFECT and ground_truth/DEFECT"
    return (
        f"{learns}{' with masks' if masked else ''}, and there are none: give them with "
        f"--config.data.bad=DIR{masks if masked else ', or test/DEFECT'}, or take a config that "
        f"needs good images only, such as configs/best.py"
    )


def repeat_anomalies(records: Sequence[Record]) -> tuple[Record, ...]:
    """Returns the records with anomalous ones repeated to about the number of good ones."""
    anomalous = [record for record in records if record.label]
    good = len(records) - len(anomalous)
    times = max(round(good / len(anomalous)), 1) if anomalous else 1
    return (*records, *anomalous * (times - 1))


def shuffled(records: Sequence[Record], seed: int) -> list[Record]:
    """Shuffles records in an order that depends on names and seed only.

    Sorts by a hash, not by numpy's generator: the order is the same under every version of numpy.
    """

    def digest(record: Record) -> bytes:  # names need not be UTF-8
        return hashlib.sha256(f"{seed}:{record.name}".encode(errors="surrogateescape")).digest()

    return sorted(records, key=digest)


def check_images(splits: Splits, workers: int = 8, geometry: Geometry | None = None) -> list[str]:
    """Reads every image's header and end and every mask, with `workers` threads.

    Returns lines on what a user should know about the masks: how their values were understood and,
    with `geometry`, how many regions are too thin for it. Raises UserError with the files that are
    unreadable or truncated, or masks that do not fit their image. Fast enough for each start.
    Damage in the middle of an image is found at decoding.
    """
    records = [r for r in splits.train + splits.test if isinstance(r.image, Path)]
    understood: list[tuple[object, Marked]] = []
    num_thin = 0

    def look(record: Record) -> tuple[str | None, Marked | None, int]:
        try:
            mask = checked_mask(record)
        except UserError as error:
            return str(error), None, 0
        thin = 0 if mask is None or geometry is None else geometry.mask_and_thin(mask.pixels)[1]
        return None, mask and replace(mask, pixels=np.zeros((0, 0), bool)), thin

    with ThreadPoolExecutor(max(1, workers)) as pool:
        looks = list(pool.map(look, records))
    faults = [text for text, _, _ in looks if text]
    if faults:
        more = f" (and {len(faults) - 1} more files with faults)" if len(faults) > 1 else ""
        raise UserError(faults[0] + more)
    for record, (_, mask, thin) in zip(records, looks, strict=True):
        if mask is not None:
            understood.append((record.mask, mask))
        num_thin += thin
    lines = describe(understood)
    if num_thin and geometry is not None:
        lines.append(f"note: {thin_regions(num_thin, geometry.size)}")
    return lines


def missing_masks(splits: Splits) -> list[str]:
    """Returns a line on defective images without a mask, if others have one."""
    defective = [record for record in splits.test + splits.train if record.label]
    without = [record for record in defective if record.mask is None]
    if not without or len(without) == len(defective):
        return []
    return [
        f"note: {len(without)} of {len(defective)} defective images have no mask (for example "
        f"{without[0].name}): pixel metrics leave them out"
    ]


def thin_regions(count: int, size: tuple[int, int]) -> str:
    """Returns in words what became of regions that `Geometry.mask_and_thin` counts."""
    return (
        f"{count} marked regions are too thin for {size[1]}×{size[0]} (width×height): where no "
        f"pixel is left, they are kept as lines of one pixel, others fall into pieces"
    )


def checked_mask(record: Record) -> Marked | None:
    """Checks a file's image by its header and end, and its mask; returns the mask, None without.

    Raises UserError for a fault.
    """
    assert isinstance(record.image, Path), "arrays and stored records were checked when made"
    size = image_size(record.image)
    check_whole(record.image)
    if record.mask is None:
        return None
    mask = read_mask(record.mask)
    if mask.pixels.shape != size:
        raise UserError(
            f"mask {record.mask} is {_size(mask.pixels.shape)} but its image {record.image} is "
            f"{_size(size)} (width×height): save the mask at the image's size"
        )
    return mask


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Returns a sort key by which a2 comes before a10; the name itself breaks ties."""
    parts = re.split(r"(\d+)", name.lower())
    return [int(part) if part.isdecimal() else part for part in parts], name


def _size(size: tuple[int, ...]) -> str:
    return f"{size[1]}×{size[0]}"
