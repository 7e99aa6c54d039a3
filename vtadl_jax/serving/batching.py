"""Scores images of many callers: decodes in a pool of threads, scores in batches in one thread.

Only the one thread calls the device. A batch starts when it is free: with all images that wait for
one model, up to its batch size. A batch that is not full waits for images that are being decoded,
at most `max_wait_ms` from its first image on; a single image does not wait.
"""

import collections
import dataclasses
import functools
import math
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from vtadl_jax.errors import UserError
from vtadl_jax.serving.models import Model

MAP_PIXELS = 2**27  # of maps that are made and not finished; a batch with more is alone
WAITING_BYTES = 2**30  # of images that are decoded and not scored; beyond, decoding waits


@dataclasses.dataclass(frozen=True)
class Scored:
    """A prediction, the seconds of its steps, and the number of images in its batch."""

    prediction: Any
    decode: float
    wait: float
    score: float
    batch: int


@dataclasses.dataclass
class _Job:
    model: str
    load: Callable[[], Any]
    finish: Callable[[Scored], Any] | None
    future: Future
    intake: Any = None
    decode: float = 0.0
    queued: float = 0.0


class Stopping(Exception):
    """The service takes no more images, because it stops."""


class Batcher:
    """Scorer of images for several models, which share one device.

    models: by name. max_wait_ms: as in `Limits`. threads: that decode images, and that finish them.
    on_batch: called with the number of images of each batch.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        max_wait_ms: float = 5.0,
        threads: int = 4,
        on_batch: Callable[[int], None] = lambda size: None,
    ):
        self.models, self._max_wait, self._on_batch = models, max_wait_ms / 1000, on_batch
        # Decoding waits for the device, and that for finishing, which has threads of its own.
        self._decoders = ThreadPoolExecutor(max(threads, 1), "decode")
        self._finishers = ThreadPoolExecutor(max(threads, 1), "finish")
        self._changed = threading.Condition()
        self._waiting: dict[str, collections.deque[_Job]] = {
            name: collections.deque() for name in models
        }
        self._decoding = dict.fromkeys(models, 0)
        self._unfinished, self._closed = 0, False
        self._seconds = 0.0  # per image, of late
        self._held = 0  # pixels of maps
        self._bytes = 0  # of decoded images
        self._warm: Future = Future()
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)

    def start(self) -> None:
        """Starts the device's thread and waits until every model is compiled.

        Raises UserError if one can't be.
        """
        self._thread.start()
        self._warm.result()

    def submit(
        self,
        model: str,
        load: Callable[[], Any],
        finish: Callable[[Scored], Any] | None = None,
    ) -> Future:
        """Scores one image, soon; returns the future of a `Scored`, or of what `finish` returns.

        load: returns the intake of `Model.take_in`. Both functions are called in threads of the
        batcher, and what they raise is raised by the future. A future that is cancelled before its
        batch starts is not scored. Raises Stopping after `close`.
        """
        job = _Job(model, load, finish, Future())
        with self._changed:
            if self._closed:
                raise Stopping
            self._unfinished += 1
            self._decoding[model] += 1
        job.future.add_done_callback(self._finished)
        self._decoders.submit(self._decode, job)
        return job.future

    def seconds_until_room(self) -> int:
        """Returns for how many seconds, at least 1, the images that wait now keep the device."""
        return max(1, round(self._unfinished * self._seconds))

    @property
    def unfinished(self) -> int:
        """Number of images that are decoded, waiting or being scored."""
        return self._unfinished

    def close(self, timeout: float) -> bool:
        """Takes no more images and finishes those that it has; returns whether it did in time."""
        with self._changed:
            self._closed = True
            done = self._changed.wait_for(lambda: not self._unfinished, timeout)
            self._changed.notify_all()
        for pool in (self._decoders, self._finishers):
            pool.shutdown(wait=done, cancel_futures=True)
        if done and self._thread.ident is not None:
            self._thread.join(timeout)
        return done

    def _finished(self, _: Future) -> None:
        with self._changed:
            self._unfinished -= 1
            self._changed.notify_all()

    def _release(self, pixels: int, _: Future) -> None:
        with self._changed:
            self._held -= pixels
            self._changed.notify_all()

    def _decode(self, job: _Job) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._bytes < WAITING_BYTES)
        start = time.perf_counter()
        try:
            if not job.future.cancelled():
                job.intake = job.load()
        except BaseException as error:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(error)
        finally:
            job.queued = time.perf_counter()
            job.decode = job.queued - start
            with self._changed:
                self._decoding[job.model] -= 1
                if not job.future.done():
                    self._waiting[job.model].append(job)
                    self._bytes += job.intake.image.nbytes
                self._changed.notify_all()

    def _run(self) -> None:
        try:
            for name, model in self.models.items():
                _warm_up(name, model)
            self._warm.set_result(None)
        except BaseException as error:
            self._warm.set_exception(error)
            return
        while (batch := self._next_batch()) is not None:
            self._score(batch)

    def _next_batch(self) -> list[_Job] | None:
        """Waits for a batch of the model whose first image waits longest; None at the end."""
        with self._changed:
            while True:
                self._changed.wait_for(
                    lambda: any(self._waiting.values()) or (self._closed and not self._unfinished)
                )
                queues = [queue for queue in self._waiting.values() if queue]
                if not queues:
                    return None
                queue = min(queues, key=lambda queue: queue[0].queued)
                name, size = queue[0].model, self.models[queue[0].model].batch_size
                end = queue[0].queued + self._max_wait
                while len(queue) < size and self._decoding[name] and not self._closed:
                    left = end - time.perf_counter()
                    if left <= 0 or not self._changed.wait(left):
                        break
                taken = [queue.popleft() for _ in range(min(size, len(queue)))]
                self._bytes -= sum(job.intake.image.nbytes for job in taken)
                self._changed.notify_all()
                batch = [job for job in taken if job.future.set_running_or_notify_cancel()]
                if batch:
                    return batch

    def _score(self, batch: list[_Job]) -> None:
        pixels = [math.prod(job.intake.map_size) for job in batch]
        with self._changed:  # maps of large images take gigabytes
            self._changed.wait_for(lambda: not self._held or self._held + sum(pixels) <= MAP_PIXELS)
            self._held += sum(pixels)
        for job, held in zip(batch, pixels, strict=True):
            job.future.add_done_callback(functools.partial(self._release, held))
        start = time.perf_counter()
        self._on_batch(len(batch))
        try:
            model = self.models[batch[0].model]
            predictions = list(model.predict_batch([job.intake for job in batch]))
            if len(predictions) != len(batch):
                raise RuntimeError(f"{len(predictions)} predictions for {len(batch)} images")
        except BaseException as error:
            for job in batch:
                job.future.set_exception(error)
            return
        seconds = time.perf_counter() - start
        self._seconds = seconds / len(batch)
        for job, prediction in zip(batch, predictions, strict=True):
            wait = start - job.queued
            scored = Scored(prediction, job.decode, wait, seconds, len(batch))
            if job.finish is None:
                job.future.set_result(scored)
            else:
                self._finishers.submit(_finish, job.future, job.finish, scored)


def _warm_up(name: str, model: Model) -> None:
    try:
        model.warm_up()
    except UserError:
        raise
    except Exception as error:  # of the compiler or the device
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"model {name} can't be compiled or run here ({reason}): give a smaller --max_batch, "
            f"or another device"
        ) from error


def _finish(future: Future, finish: Callable[[Scored], Any], scored: Scored) -> None:
    try:
        future.set_result(finish(scored))
    except BaseException as error:
        future.set_exception(error)
