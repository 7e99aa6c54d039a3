"""Being told to stop: SIGTERM, or a platform's notice, ends a run at the next step with a save.

With several processes JAX's preemption service agrees on the step at which all of them stop.
"""

import contextlib
import signal
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

from vtadl_jax.errors import Preempted

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: try again later


class StopRequest:
    """Whether the run was asked to stop.

    Inside `at_steps` a signal is only noted, to be asked for with `at_step`; elsewhere, and inside
    `at_once`, it raises Preempted where the program is.
    """

    def __init__(self) -> None:
        self._at_once, self._noted = True, False

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Handle SIGTERM while inside; with several processes the preemption service does."""
        if jax.process_count() > 1:
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
            raise Preempted("told to stop")

    @property
    def requested(self) -> bool:
        return self._noted

    def at_step(self, step: int) -> bool:
        """Whether to save and stop now, after `step`; the same answer in every process, which must
        all ask at every step."""
        if jax.process_count() > 1:
            self._noted = multihost_utils.reached_preemption_sync_point(step)
        return self._noted
