"""Bounds the memory of images: of several threads at a time, and of conversions between types."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

MAX_PIXELS = 20_000 * 20_000  # of one image; line-scan cameras make large ones
STRIP = 2**22  # pixels that are converted at a time
IN_FLIGHT = 2**26  # pixels of all images that are being decoded; a larger image is alone


class PixelBudget:
    """Semaphore of pixels: a thread waits until its image fits beside those of other threads.

    An image above the limit waits until it is alone. A thread that has a turn needs no other.
    """

    def __init__(self, limit: int):
        self._limit, self._used = limit, 0
        self._changed, self._mine = threading.Condition(), threading.local()

    @contextmanager
    def take(self, pixels: int) -> Iterator[None]:
        """Waits for room for an image of that many pixels, and holds it for a with block."""
        if getattr(self._mine, "holds", False):
            yield
            return
        with self._changed:
            self._changed.wait_for(lambda: not self._used or self._used + pixels <= self._limit)
            self._used += pixels
        self._mine.holds = True
        try:
            yield
        finally:
            self._mine.holds = False
            with self._changed:
                self._used -= pixels
                self._changed.notify_all()


BUDGET = PixelBudget(IN_FLIGHT)


def as_array(
    image: Image.Image, convert: Callable[[Image.Image], Image.Image] = lambda part: part
) -> np.ndarray:
    """Returns `convert(image)` as an array, strip by strip, without other copies of all of it.

    convert: changes mode and values of pixels by themselves.
    """
    width, height = image.size
    rows = max(STRIP // width, 1)
    if height <= rows:
        return np.array(convert(image))
    found: np.ndarray | None = None
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        part = np.asarray(convert(image.crop((0, top, width, bottom))))
        if found is None:
            found = np.empty((height, *part.shape[1:]), part.dtype)
        found[top:bottom] = part
    assert found is not None, "an image has rows"
    return found
