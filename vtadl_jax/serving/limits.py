"""The limits of a service, and the errors that a client is told: a status and one sentence."""

import dataclasses
import math

from vtadl_jax.data.memory import MAX_PIXELS
from vtadl_jax.errors import UserError

MAX_FILES = 256  # in one request


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a service takes.

    max_bytes: of the body of a request. max_pixels: of an image. max_queue: images that are
    received, waiting or being scored at a time. timeout_s: seconds from the first byte of a request
    to its answer. max_wait_ms: milliseconds that an image waits for others that are being decoded,
    to share its batch. min_area: pixels of the smallest region that is reported.
    """

    max_bytes: int = 2**25
    max_pixels: int = 100_000_000
    max_queue: int = 64
    timeout_s: float = 30.0
    max_wait_ms: float = 5.0
    min_area: int = 1

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_pixels", "max_queue", "min_area"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)}: give 1 or more")
        if self.max_pixels > MAX_PIXELS:
            raise UserError(f"--max_pixels {self.max_pixels}: give at most {MAX_PIXELS}")
        if not (math.isfinite(self.timeout_s) and self.timeout_s > 0):
            raise UserError(f"--timeout_s {self.timeout_s}: give seconds above 0")
        if not 0 <= self.max_wait_ms <= 60_000:
            raise UserError(f"--max_wait_ms {self.max_wait_ms}: give 0 to 60000 milliseconds")


class Refused(Exception):
    """A request, or one image of it, that gets no score: an HTTP status and one sentence.

    retry_after: seconds after which the client may try again; None if that does not help.
    """

    def __init__(self, status: int, text: str, retry_after: int | None = None):
        super().__init__(text)
        self.status, self.text, self.retry_after = status, text, retry_after
