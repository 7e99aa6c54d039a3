"""What is known of an image before it is decoded, and of the images that make a data set.

`layouts` and its neighbours make records, `pipeline` turns them into batches.
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
    """One image: where its pixels and its mask are, its label (0 normal, 1 anomalous), its defect
    ('good' if normal) and its name (unique in its set: a posix path relative to the category)."""

    image: ImageRef
    mask: ImageRef | None
    label: int
    defect: str
    name: str


@dataclass(frozen=True)
class Splits:
    """The images of one category; `test` is empty when there are none to test on.

    `train` holds anomalous images only where a set is made for supervised methods.
    """

    train: tuple[Record, ...]
    test: tuple[Record, ...]
    category: str


# Fewer images do not tell the spread of a score: of two, one term of it may drown the others.
ENOUGH_TO_CALIBRATE = 8


def split_holdout(
    records: Sequence[Record],
    fraction: float,
    seed: int,
    field: str = "data.holdout_fraction",
    enough: int = ENOUGH_TO_CALIBRATE,
) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
    """Records → (train, holdout), with about `fraction` (0 ≤ fraction < 1) of the normal ones in
    the holdout; anomalous ones stay in train.

    Depends on names and seed only, not on the order of `records`; a new image leaves most others
    where they were. A fraction above 0 gives at least 1 to each side, and at least 2 to the holdout
    from 4 records on; of few images up to `enough`, while that is a fifth of them at most. Raises
    UserError, naming `field`, when that is impossible.
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


def shuffled(records: Sequence[Record], seed: int) -> list[Record]:
    """In an order that depends on names and seed only.

    By a hash rather than a generator: the same under every version of numpy.
    """
    return sorted(records, key=lambda r: hashlib.sha256(f"{seed}:{r.name}".encode()).digest())


def check_images(splits: Splits, workers: int = 8) -> None:
    """Read every image's header and end and every mask, with `workers` threads; raise UserError
    naming the files which are unreadable or cut short, or masks that do not fit their image.

    Quick enough for each start. Damage in the middle of an image is found when it is decoded.
    """
    records = [r for r in splits.train + splits.test if isinstance(r.image, Path)]
    with ThreadPoolExecutor(max(1, workers)) as pool:
        faults = [text for text in pool.map(fault, records) if text]
    if faults:
        more = f" (and {len(faults) - 1} more files with faults)" if len(faults) > 1 else ""
        raise UserError(faults[0] + more)


def fault(record: Record) -> str | None:
    """What is wrong with a file's image, by its header and end, or its mask; None if nothing is."""
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
    """Sort key by which a2 comes before a10; the name itself settles ties of case and zeros."""
    parts = re.split(r"(\d+)", name.lower())
    return [int(part) if part.isdecimal() else part for part in parts], name


def _size(size: tuple[int, int]) -> str:
    return f"{size[1]}×{size[0]}"
