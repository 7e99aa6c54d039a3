"""Understands masks: which pixel values mark a defect, and which regions a smaller mask would lose.

Arrays only; `decode` reads files, `transforms` resizes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from vtadl_jax.errors import UserError

MAX_CLASSES = 16  # more distinct values than this are shades, not class numbers
SOFT_EDGE = 2  # pixels; the width of an edge that scaling or smoothing gives a two-valued mask


@dataclass(frozen=True, eq=False)
class Marked:
    """A mask that was understood. pixels: bool [h, w], true on a defect.

    kind: 'two' (0 and one other value), 'classes' (class numbers) or 'soft' (shades, cut at half
    the range). values: distinct values of class numbers, 0 included. num_dropped: regions of
    shades below half the range that touch no brighter pixel, so that none of them is marked.
    """

    pixels: np.ndarray
    kind: str = "two"
    values: tuple[int, ...] = ()
    num_dropped: int = 0


def understand(mask: np.ndarray, lossy: bool = False, name: str = "mask array") -> Marked:
    """Decides which pixels of a mask [h, w] (bool, 8 or 16 bits, or float) mark a defect.

    - bool, or 0 and a single other value: the other value.
    - At most MAX_CLASSES values above 0, of which some of less than half the range are further than
      SOFT_EDGE from all higher ones: class numbers, such as 0, 1, 2, 200. Any value above 0.
    - All others are shades, from smoothing, scaling or JPEG: values of at least half the range.
      Values that crowd at both ends of the range, as JPEG leaves them, are shades too.

    lossy: the mask was stored with losses (JPEG), so its values are always shades.
    Raises UserError, naming the mask, for other arrays, for shades that are all below half the
    range (they would mark nothing), and for class numbers without 0 (the background is unknown).
    """
    pixels = _integers(mask, name)
    if pixels.dtype == bool:
        return Marked(pixels)
    values = np.flatnonzero(np.bincount(pixels.ravel(), minlength=1))
    above = values[values > 0]
    few = above.size <= MAX_CLASSES and not lossy
    if few and values.max(initial=0) <= 255:  # 8 bits in a file of 16
        pixels = pixels.astype(np.uint8)
    half = 128 if pixels.dtype == np.uint8 else 32768
    high = pixels >= half
    if above.size == 0 or above[0] >= half:
        return Marked(high)
    if few and not _crowded(above, half) and (above.size == 1 or _apart(pixels, high)):
        if values[0] > 0:
            raise UserError(
                f"{name} has no value 0, only {listed(values)}, so what is normal is not known: "
                "save it with 0 for normal and 255 for defect"
            )
        return Marked(pixels > 0, "classes", tuple(values.tolist()))
    if not high.any():
        raise UserError(
            f"{name} has no value above {above[-1]}, less than half its range: "
            "save it with 0 for normal and 255 for defect"
        )
    return Marked(high, "soft", num_dropped=_count_dropped(pixels, high, half))


def _integers(mask: np.ndarray, name: str) -> np.ndarray:
    """Returns a mask as bool, uint8 or uint16. Raises UserError for other arrays and values."""
    if mask.ndim == 2:
        kind = mask.dtype.newbyteorder("=")
        if kind in (bool, np.uint8, np.uint16):
            return mask.astype(kind, copy=False)
        low, high = (mask.min(), mask.max()) if mask.size else (0, 0)
        whole = kind == np.int32 or (kind == np.float32 and bool((mask == np.rint(mask)).all()))
        if whole and low >= 0 and high <= 65535:  # PIL may widen 16 bits
            small = kind == np.float32 and high <= 255
            return mask.astype(np.uint8 if small else np.uint16)
        if kind == np.float32 and low >= 0 and high <= 1:
            return np.rint(mask * 255).astype(np.uint8)
        if kind in (np.int32, np.float32):
            raise UserError(
                f"{name} has values from {low} to {high}: save it with 0 for normal and 255 for "
                "defect"
            )
    raise UserError(
        f"{name} {mask.dtype} {mask.shape} is not [h, w] of bool, 8 or 16 bits: convert it"
    )


def _crowded(above: np.ndarray, half: int) -> bool:
    """Returns whether values crowd near 0 and near the largest, as noise about two values does."""
    end = half // 8
    near_full = above >= 2 * half - end
    return bool((above < end).any() and near_full.sum() >= 2 and ((above < end) | near_full).all())


def _apart(pixels: np.ndarray, high: np.ndarray) -> bool:
    """Returns whether lower values are further from all higher ones than the edge of a defect."""
    from scipy import ndimage

    low = (pixels > 0) & ~high
    near = ndimage.binary_dilation(high, np.ones((3, 3), bool), iterations=SOFT_EDGE)
    return bool((low & ~near).any())


def _count_dropped(pixels: np.ndarray, high: np.ndarray, half: int) -> int:
    """Counts regions of clear shades, of at least 3 × 3 pixels, with no pixel of `high`."""
    from scipy import ndimage

    clear = pixels >= half // 4
    if not (clear & ~high).any():
        return 0
    labels, _ = ndimage.label(clear, np.ones((3, 3), bool))
    sizes = np.bincount(labels.ravel())
    sizes[np.unique(labels[high])] = 0
    sizes[0] = 0
    return int((sizes >= 9).sum())


def lost_regions(marked: np.ndarray, labels_there: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns where the regions of a mask are of which no pixel was sampled, bool [h, w].

    marked: bool [h, w]. labels: its regions, numbered [h, w]. labels_there: `labels` as sampled.
    """
    there = np.zeros(labels.max(initial=0) + 1, bool)
    there[labels_there] = True
    return marked & ~there[labels]


def num_apart(labels_there: np.ndarray, pieces: np.ndarray) -> int:
    """Counts regions that fell into several pieces. Both [H, W], numbered from 1; 0: none."""
    pairs = np.unique(np.stack([labels_there, pieces])[:, labels_there > 0], axis=1)
    return int((np.unique(pairs[0], return_counts=True)[1] > 1).sum())


def regions_of(marked: np.ndarray) -> np.ndarray:
    """Returns the 8-connected regions of a mask [h, w], numbered from 1, int32."""
    from scipy import ndimage

    labels, _ = ndimage.label(marked, np.ones((3, 3), bool))
    return labels.astype(np.int32)


def describe(found: Sequence[tuple[object, Marked]]) -> list[str]:
    """Returns lines on how the masks of a data set were understood; none if all are two-valued.

    found: each mask's place with what was understood.
    """
    lines = []
    classes = [(place, mask) for place, mask in found if mask.kind == "classes"]
    if classes:
        values = sorted({value for _, mask in classes for value in mask.values})
        lines.append(
            f"note: {len(classes)} of {len(found)} masks hold class numbers ({listed(values)}; for "
            f"example {classes[0][0]}): every value above 0 counts as defect"
        )
    soft = [(place, mask) for place, mask in found if mask.kind == "soft"]
    if soft:
        lines.append(
            f"note: {len(soft)} of {len(found)} masks have shades between normal and defect (for "
            f"example {soft[0][0]}): values from half the range on count as defect"
        )
    dropped = [(place, mask) for place, mask in soft if mask.num_dropped]
    if dropped:
        lines.append(
            f"warning: in {len(dropped)} masks {sum(m.num_dropped for _, m in dropped)} regions of "
            f"values below half the range count as normal (for example in {dropped[0][0]}): save "
            f"masks as PNG with 0 for normal and 255 for defect"
        )
    return lines


def listed(values: Iterable[int]) -> str:
    """Returns numbers in words, the middle ones left out if they are many."""
    texts = [str(value) for value in values]
    return ", ".join(texts if len(texts) <= 8 else (*texts[:6], "…", texts[-1]))
