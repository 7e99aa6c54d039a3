"""Preemption: after SIGTERM, or a platform's notice, a run saves at the next step and exits.

With several processes JAX's preemption service chooses one step at which all of them stop.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

from vtadl_jax.errors import Preempted

_ENDING = (signal.SIGTERM, signal.SIGINT)
EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: try again later


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Puts off SIGTERM and Ctrl-C until the end of the context, for some moments of renaming."""
    if not _in_main_thread():
        yield
        return
    noted: list[int] = []
    before = {s: signal.signal(s, lambda n, _: noted.append(n)) for s in _ENDING}
    try:
        yield
    finally:
        for ending, handler in before.items():
            signal.signal(ending, handler)
        for number in noted:
            signal.raise_signal(number)


class StopRequest:
    """Record of a request to stop the run.

    Inside `at_steps` a signal is only recorded, and `at_step` returns it; elsewhere, and inside
    `at_once`, the signal raises Preempted immediately.
    """

    def __init__(self) -> None:
        self._at_once, self._noted = True, False

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Handles SIGTERM inside the context; JAX's service does it with several processes.

        Only the main thread of a program may handle signals; in others this does nothing.
        """
        if jax.process_count() > 1 or not _in_main_thread():
            yield
            return
        previous = signal.signal(signal.SIGTERM, self._on_signal)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous)

    @contextlib.contextmanager
    def _set(self, at_once: bool) -> Iterator[None]:
        before, self._at_once = self._at_once, at_once
        try:
            yield
        finally:
            self._at_once = before

    def at_steps(self) -> contextlib.AbstractContextManager[None]:
        return self._set(False)

    def at_once(self) -> contextlib.AbstractContextManager[None]:
        return self._set(True)

    def _on_signal(self, *_) -> None:
        self._noted = True
        if self._at_once:
            raise Preempted("received SIGTERM")

    @property
    def requested(self) -> bool:
        return self._noted

    def at_step(self, step: int) -> bool:
        """Returns whether to save and stop after `step`; the same value in every process.

        Every process must call it at every step.
        """
        if jax.process_count() > 1:
            self._noted = multihost_utils.reached_preemption_sync_point(step)
        return self._noted
