"""Records: metadata of the images of a data set, before any image is decoded.

The modules of `sources` make records, `pipeline` makes batches from them.
"""

import hashlib
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from vtadl_jax.data.decode import ImageRef, check_whole, image_size, load_mask
from vtadl_jax.errors import UserError


@dataclass(frozen=True, eq=False)
class Record:
    """One image: its pixels and mask or their files, its label (0 normal, 1 anomalous), its defect
    ('good' if normal) and its name (unique in its set: a posix path relative to the category)."""

    image: ImageRef
    mask: ImageRef | None
    label: int
    defect: str
    name: str


@dataclass(frozen=True)
class Splits:
    """The images of one category; `test` is empty without test images.

    `train` holds anomalous images only for supervised detectors.
    """

    train: tuple[Record, ...]
    test: tuple[Record, ...]
    category: str


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


def move_anomalies(splits: Splits, fraction: float, seed: int, masked: bool = False) -> Splits:
    """Moves anomalous images from the test to the training images; returns the new splits.

    Moves `fraction` × the number of good training images, at least one, in equal shares of every
    kind of defect, drawn by names and seed. masked: only images with a mask. Raises UserError if
    that leaves no anomalous test image, or if there is none.
    """
    usable = [r for r in splits.test if r.label and (r.mask is not None or not masked)]
    count = max(round(fraction * len(splits.train)), 1)
    if count >= len(usable):
        what = "with a mask " if masked else ""
        raise UserError(
            f"data.anomaly_fraction {fraction} of {len(splits.train)} good training images is "
            f"{count}, and there are {len(usable)} defective test images {what}to take them from; "
            f"at least one must stay in the test set: use less than "
            f"{len(usable) / max(len(splits.train), 1):.3g}, or add defective images"
        )
    by_kind: dict[str, list[Record]] = {}
    for record in usable:
        by_kind.setdefault(record.defect, []).append(record)
    ordered = [record for kind in sorted(by_kind) for record in shuffled(by_kind[kind], seed)]
    # Every kind is spread evenly over the list: evenly spaced picks take the same share of each.
    chosen = {ordered[len(ordered) * i // count].name for i in range(count)}
    return Splits(
        train=(*splits.train, *(r for r in splits.test if r.name in chosen)),
        test=tuple(r for r in splits.test if r.name not in chosen),
        category=splits.category,
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
    return sorted(
        records,
        key=lambda r: hashlib.sha256(
            f"{seed}:{r.name}".encode("utf-8", "surrogateescape")
        ).digest(),
    )


def check_images(splits: Splits, workers: int = 8) -> None:
    """Reads every image's header and end and every mask, with `workers` threads.

    Raises UserError with the files that are unreadable or truncated, or masks that do not fit their
    image. Fast enough for each start. Damage in the middle of an image is found at decoding.
    """
    records = [r for r in splits.train + splits.test if isinstance(r.image, Path)]
    with ThreadPoolExecutor(max(1, workers)) as pool:
        faults = [text for text in pool.map(fault, records) if text]
    if faults:
        more = f" (and {len(faults) - 1} more files with faults)" if len(faults) > 1 else ""
        raise UserError(faults[0] + more)


def fault(record: Record) -> str | None:
    """Returns the fault of a file's image, by its header and end, or of its mask; None if none."""
    assert isinstance(record.image, Path), "arrays and stored records were checked when made"
    try:
        size = mask_size = image_size(record.image)
        check_whole(record.image)
        if record.mask is not None:
            height, width = load_mask(record.mask).shape
            mask_size = height, width
    except UserError as error:
        return str(error)
    if mask_size != size:
        return (
            f"mask {record.mask} is {_size(mask_size)} but its image {record.image} is "
            f"{_size(size)} (width×height): save the mask at the image's size"
        )
    return None


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Returns a sort key by which a2 comes before a10; the name itself breaks ties."""
    parts = re.split(r"(\d+)", name.lower())
    return [int(part) if part.isdecimal() else part for part in parts], name


def _size(size: tuple[int, int]) -> str:
    return f"{size[1]}×{size[0]}"
