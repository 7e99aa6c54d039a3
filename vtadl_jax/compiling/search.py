"""Finds the largest batch per device that fits, by compiling."""

import dataclasses
from collections.abc import Callable

MAX_COMPILES = 7
TOLERANCE = 0.05  # relative, of the answer
ALIGN_FROM = 32  # from this many images on, sizes are multiples of ALIGN
ALIGN = 8


@dataclasses.dataclass(frozen=True)
class Fit:
    """Whether a batch of `images` per device fits, and the bytes per device that it needs."""

    images: int
    fits: bool
    needed: int


@dataclasses.dataclass(frozen=True)
class Largest:
    """Result of the search.

    images: the largest batch that fits (0: not even one image); too_many: the smallest batch that
    does not (None: none was found); tried: all compiled batches.
    """

    images: int
    too_many: int | None
    tried: tuple[Fit, ...]


def largest_batch(measure: Callable[[int], Fit], first: Fit, limit: int) -> Largest:
    """Searches upwards and downwards from a batch that was measured already.

    Memory grows nearly linearly with the batch, so the next size is where the line through the last
    two measurements reaches `limit`, the bytes of a device. Stops when the largest size that fits
    and the smallest that does not are within 5 % or adjacent, or after 7 compilations.
    """
    tried = [first]
    while len(tried) <= MAX_COMPILES:
        low = max((f.images for f in tried if f.fits), default=0)
        high = min((f.images for f in tried if not f.fits), default=None)
        if high is not None and high - low <= max(_step(low), TOLERANCE * low):
            break
        tried.append(measure(_next(tried, low, high, limit)))
    low = max((f.images for f in tried if f.fits), default=0)
    high = min((f.images for f in tried if not f.fits), default=None)
    return Largest(low, high, tuple(tried))


def _step(images: int) -> int:
    return ALIGN if images >= ALIGN_FROM else 1


def _next(tried: list[Fit], low: int, high: int | None, limit: int) -> int:
    """Returns a size strictly between the largest that fits and the smallest that does not."""
    if len(tried) == 1:
        guess = float(2 * low if low else tried[0].images // 2)
    else:
        a, b = sorted(tried, key=lambda f: abs(f.needed - limit))[:2]
        slope = (a.needed - b.needed) / (a.images - b.images)
        guess = a.images + (limit - a.needed) / slope if slope > 0 else 2.0 * low
        if high is None and guess <= low:
            guess = low * (1 + TOLERANCE) + 1
    step = _step(int(guess))
    size = max(int(guess) // step * step, 1)
    if size <= low:
        size = low + _step(low)
    if high is not None and size >= high:
        size = max(high - _step(high), (low + high) // 2) if high - low > 2 else low + 1
        if size <= low:
            size = (low + high) // 2
    return size
