"""Turned, mirrored and slightly moved copies of images, as records beside their originals.

A copy is made when it is decoded, from the pixels of the file; nothing is written.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

from vtadl_jax.data.decode import ImageRef, load_image
from vtadl_jax.data.records import Record
from vtadl_jax.errors import UserError

Turn = tuple[bool, int]  # mirrored left to right first, then turned counter-clockwise by degrees
SAME: Turn = (False, 0)
STEP = 30  # degrees between the copies for any orientation
# Names of `data.orientations` → the turns that generate them.
ORIENTATIONS: dict[str, tuple[Turn, ...]] = {
    "mirror": ((True, 0),),
    "flip": ((True, 180),),
    "rot180": ((False, 180),),
    "rot90": ((False, 90),),
    "any": ((False, STEP), (False, 90)),
}
NONE, AUTO = "none", "auto"
NUM_MOVED = 24
MOVED_DEGREES, MOVED_SHARE, MOVED_LIGHT = 2.0, 0.015, 0.03


@dataclasses.dataclass(frozen=True)
class Copy:
    """A copy of an image, which `decode` reads as any other.

    mirrored, degrees: as `Turn`. shift: right and down, as parts of the sides. gain: of the values.
    bits: of the values in files of 16 bits.
    """

    original: ImageRef
    mirrored: bool = False
    degrees: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)
    gain: float = 1.0
    bits: int = 0

    @property
    def mark(self) -> str:
        return f"{self.original}:{self.mirrored}:{self.degrees}:{self.shift}:{self.gain}"

    def __str__(self) -> str:
        return f"a copy of {self.original}"

    def read(self) -> np.ndarray:
        """Returns the pixels of the copy, uint8 of the original's shape. Raises UserError."""
        pixels = load_image(self.original, 3, self.bits)
        if self.mirrored:
            pixels = pixels[:, ::-1]
        if self.degrees % 90 or any(self.shift):
            pixels = _moved(pixels, self.degrees, self.shift)
        else:
            pixels = np.rot90(pixels, round(self.degrees / 90))
        if self.gain != 1:
            pixels = np.clip(np.rint(pixels * self.gain), 0, 255).astype(np.uint8)
        return np.ascontiguousarray(pixels)


def _moved(pixels: np.ndarray, degrees: float, shift: tuple[float, float]) -> np.ndarray:
    """Turns and shifts an image; what comes from outside repeats the edge."""
    height, width = pixels.shape[:2]
    margin = math.ceil((math.hypot(height, width) - min(height, width)) / 2) + 2
    margin += math.ceil(max(map(abs, shift)) * max(height, width))
    edges = ((margin, margin), (margin, margin), *[(0, 0)] * (pixels.ndim - 2))
    wide = Image.fromarray(np.pad(pixels, edges, "edge"))
    by = (shift[0] * width, shift[1] * height)
    # Not bicubic: it would overshoot at edges, and good images would seem to have such values.
    wide = wide.rotate(degrees, Image.Resampling.BILINEAR, translate=by)
    return np.asarray(wide)[margin : margin + height, margin : margin + width]


def parse_orientations(text: str) -> tuple[str, ...]:
    """Returns the names in a value of `data.orientations`; () for 'none', ('auto',) for 'auto'.

    Raises UserError for an unknown name, and for 'none' or 'auto' among others.
    """
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if names in ((NONE,), (AUTO,)):
        return () if names == (NONE,) else names
    if not names or any(name not in ORIENTATIONS for name in names):
        raise UserError(
            f"data.orientations {text!r}: use {AUTO}, {NONE}, or some of "
            f"{', '.join(ORIENTATIONS)}, separated by commas"
        )
    return tuple(name for name in ORIENTATIONS if name in names)


def turns_of(names: Iterable[str]) -> tuple[Turn, ...]:
    """Returns every turn that the named ones make together, in order, without `SAME`."""
    generators = [turn for name in names for turn in ORIENTATIONS[name]]
    found = {SAME}
    while True:
        more = {after(one, turn) for one in found for turn in generators} - found
        if not more:
            return tuple(sorted(found - {SAME}))
        found |= more


def after(first: Turn, second: Turn) -> Turn:
    """Returns one turn that does what `first` and then `second` do."""
    sign = -1 if second[0] else 1
    return first[0] != second[0], (sign * first[1] + second[1]) % 360


def turned_copies(record: Record, turns: Sequence[Turn], bits: int = 0) -> tuple[Record, ...]:
    """Returns a record for each turn of an image, named after it."""
    return tuple(
        dataclasses.replace(
            record,
            image=Copy(record.image, mirrored, degrees, bits=bits),
            name=f"{record.name} ({'mirrored, ' if mirrored else ''}turned by {degrees}°)",
        )
        for mirrored, degrees in turns
    )


def moved_copies(record: Record, seed: int, bits: int = 0) -> tuple[Record, ...]:
    """Returns slightly turned, shifted, brighter and darker copies of an image, drawn by seed."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(NUM_MOVED):
        turn, right, down, light = rng.uniform(-1, 1, 4)
        shift = (MOVED_SHARE * float(right), MOVED_SHARE * float(down))
        gain = 1 + MOVED_LIGHT * float(light)
        copy = Copy(record.image, False, MOVED_DEGREES * float(turn), shift, gain, bits)
        found.append(
            dataclasses.replace(record, image=copy, name=f"{record.name} (moved {number + 1})")
        )
    return tuple(found)
