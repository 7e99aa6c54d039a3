"""What the parts of a service share: its models, limits, queue and whether it is ready."""

import contextlib
import threading
from collections.abc import Iterator, Mapping

from vtadl_jax.serving.batching import Batcher
from vtadl_jax.serving.drift import Drift
from vtadl_jax.serving.limits import Limits, Refused
from vtadl_jax.serving.models import Model

STARTING, READY, STOPPING = "starting", "ready", "stopping"


class Service:
    """A service from its start to its end.

    state: 'starting' until all models are warm, then 'ready', then 'stopping'. batcher: None while
    starting. key: what clients must send; '' for none. local: whether only requests to a name of
    this machine are answered. drift: follows the images; None for no.
    """

    def __init__(self, limits: Limits, key: str = "", local: bool = False):
        self.limits, self.key, self.local = limits, key, local
        self.state, self.batcher = STARTING, None
        self._lock, self._taken = threading.Lock(), 0

    state: str
    batcher: Batcher | None
    drift: Drift | None = None

    def open(self, batcher: Batcher, drift: Drift | None = None) -> None:
        """Makes the service ready, unless it was told to stop meanwhile."""
        self.batcher, self.drift = batcher, drift
        if self.state == STARTING:
            self.state = READY

    def stop(self) -> None:
        """Refuses images from now on."""
        self.state = STOPPING

    @property
    def models(self) -> Mapping[str, Model]:
        return {} if self.batcher is None else self.batcher.models

    @property
    def queued(self) -> int:
        """Number of images that were received and are not answered."""
        return self._taken

    def check_ready(self) -> None:
        """Raises Refused (503) unless the service is ready."""
        if self.state != READY:
            raise Refused(503, f"the service is {self.state}: try again later", 2)

    def model(self, name: str | None) -> tuple[str, Model]:
        """Returns a model by name, the first for None. Raises Refused (404)."""
        models = self.models
        name = next(iter(models)) if name is None else name
        if name not in models:
            known = ", ".join(models)
            raise Refused(404, f"there is no model of this name: the models are {known}")
        return name, models[name]

    @contextlib.contextmanager
    def room(self) -> Iterator["Room"]:
        """Keeps room in the queue for one image in a with block; more with `Room.take`.

        Raises Refused (429) if the queue is full.
        """
        room = Room(self)
        room.take(1)
        try:
            yield room
        finally:
            room.give_back()

    def _take(self, count: int, held: int) -> None:
        most = self.limits.max_queue
        if held + count > most:
            raise Refused(413, f"a request has at most {most} images: send several requests")
        with self._lock:
            if self._taken + count > most:
                after = 1 if self.batcher is None else self.batcher.seconds_until_room()
                raise Refused(429, f"the queue of {most} images is full: try again later", after)
            self._taken += count

    def _give(self, count: int) -> None:
        with self._lock:
            self._taken -= count


class Room:
    """Places in the queue of a service."""

    def __init__(self, service: Service):
        self._service, self._count = service, 0

    def take(self, count: int) -> None:
        """Takes more places. Raises Refused: 429 if there are not as many now, 413 if ever."""
        self._service._take(count, self._count)
        self._count += count

    def give_back(self) -> None:
        """Gives all places back."""
        self._service._give(self._count)
        self._count = 0
