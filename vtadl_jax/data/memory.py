"""Bounds the memory of images that several threads decode at a time."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

MAX_PIXELS = 20_000 * 20_000  # of one image; line-scan cameras make large ones
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
