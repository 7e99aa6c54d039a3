"""Windows of large images as records beside their originals, for the passes of a fit and for
training.

A crop is cut when it is read. Decoded images stay in memory up to `KEPT_BYTES` of the process: the
crops of one image are often read one after another.
"""

import dataclasses
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from vtadl_jax.config_data import WindowOptions
from vtadl_jax.data.decode import ImageRef, Stored, load_image, load_mask, size_of
from vtadl_jax.data.records import Record
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.data.windows import Grid, cut, scaled, scaled_side

KEPT_BYTES = 2**30
TILE = 3  # side of the crops that training reads, in windows; a step takes windows of them


@dataclasses.dataclass(frozen=True)
class Crop:
    """A square of an image that was scaled, which `decode` reads as any other image.

    factor: that the image is scaled by. top, left, side: in pixels of the scaled image; beyond its
    border the edge is repeated. extent: (height, width) of the part inside the image, from the top
    left. bits: of the values in files of 16 bits. is_mask: whether it is one, read as 0 or 255.
    """

    original: ImageRef
    factor: float
    top: int
    left: int
    side: int
    extent: tuple[int, int]
    bits: int = 0
    is_mask: bool = False

    @property
    def mark(self) -> str:
        return f"{_name(self.original)}:{self.factor}:{self.top}:{self.left}:{self.side}"

    def __str__(self) -> str:
        return f"a window of {_name(self.original)}"

    def read(self) -> np.ndarray:
        """Returns uint8 [side, side] or [side, side, 3]. Raises UserError."""
        decode = self._mask if self.is_mask else self._image
        if isinstance(self.original, np.ndarray):
            pixels = decode()
        else:
            key = (*_key(self.original), self.factor, self.bits, self.is_mask)
            pixels = _KEPT.get(key, decode)
        return np.ascontiguousarray(cut(pixels, self.top, self.left, self.side))

    def _image(self) -> np.ndarray:
        return scaled(load_image(self.original, 3, self.bits), self.factor)

    def _mask(self) -> np.ndarray:
        mask = load_mask(self.original)
        size = scaled_side(mask.shape[0], self.factor), scaled_side(mask.shape[1], self.factor)
        return (mask if size == mask.shape else Geometry(size).mask(mask)).astype(np.uint8) * 255


class Kept:
    """Decoded images, the least recently used dropped beyond a number of bytes; for threads."""

    def __init__(self, most: int):
        self._most, self._images = most, OrderedDict[tuple, np.ndarray]()
        self._lock, self._decoding = threading.Lock(), dict[tuple, threading.Lock]()

    def get(self, key: tuple, decode: Callable[[], np.ndarray]) -> np.ndarray:
        """Returns an image, decoded by one thread at the first call."""
        with self._lock:
            one = self._decoding.setdefault(key, threading.Lock())
        with one:
            with self._lock:
                if key in self._images:
                    self._images.move_to_end(key)
                    return self._images[key]
            pixels = decode()
            with self._lock:
                self._images[key] = pixels
                while sum(x.nbytes for x in self._images.values()) > self._most:
                    dropped = self._images.popitem(last=False)[0]
                    self._decoding.pop(dropped, None)
            return pixels


_KEPT = Kept(KEPT_BYTES)


def _name(ref: ImageRef) -> str:
    return "an array" if isinstance(ref, np.ndarray) else str(ref)


def _key(ref: Path | Stored) -> tuple:
    """Returns what tells the contents of files and stored images apart."""
    if isinstance(ref, Path):
        about = ref.stat() if ref.exists() else None
        return str(ref), about and about.st_mtime_ns, about and about.st_size
    return type(ref).__name__, str(ref), ref.mark


def windows_of(
    records: Sequence[Record], options: WindowOptions, bits: int = 0
) -> tuple[Record, ...]:
    """Returns a record for each window of each image at each scale, in order; the records
    themselves without windows (side 0)."""
    if not options.side:
        return tuple(records)
    return tuple(crop for record in records for crop in _crops(record, options, bits))


def tiles_of(
    records: Sequence[Record], options: WindowOptions, bits: int = 0
) -> tuple[Record, ...]:
    """Returns the crops that training reads: squares of `TILE` windows, any two neighbours sharing
    a window, so that each window of an image is inside one of them. The records themselves without
    windows."""
    if not options.side:
        return tuple(records)
    larger = dataclasses.replace(options, side=TILE * options.side, overlap=1 / TILE, map_stride=1)
    return tuple(crop for record in records for crop in _crops(record, larger, bits))


def _crops(record: Record, options: WindowOptions, bits: int) -> list[Record]:
    found, size, side = [], size_of(record.image), options.side
    for factor in options.scales:
        grid = Grid.of(size, options, factor)
        for number in range(len(grid)):
            top, left = grid.place(number)
            extent = min(grid.height - top, side), min(grid.width - left, side)
            image = Crop(record.image, factor, top, left, side, extent, bits)
            mask = None
            if record.mask is not None:
                mask = dataclasses.replace(image, original=record.mask, is_mask=True)
            name = f"{record.name} ({left},{top} at {factor:g})"
            found.append(dataclasses.replace(record, image=image, mask=mask, name=name))
    return found
