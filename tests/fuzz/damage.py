"""Random damage to the bytes of a sound file, and what a reader may do with them."""

import contextlib
import faulthandler
import os
import resource
import sys
from collections.abc import Iterator

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from vtadl_jax.errors import UserError

SECONDS = 60  # one example may take; then the process ends with its stack
MEGABYTES = 1500  # that all examples of a test may add to the process
INTERESTING = (0, 1, 0x7F, 0x80, 0xFE, 0xFF)


def quick(examples: int):
    """Settings for three times a number of examples, the same each time; with $VTADL_FUZZ=20 for
    twenty times as many, new ones each time."""
    times = int(os.environ.get("VTADL_FUZZ", 0))
    checks = (HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large)
    return settings(
        max_examples=examples * (times or 3),
        derandomize=not times,
        database=None,
        deadline=None,
        suppress_health_check=checks,
        print_blob=True,
    )


@st.composite
def damaged(draw, sound: tuple[bytes, ...]) -> bytes:
    """One of the sound files after one to four changes: bytes, pieces moved, cut or repeated."""
    data = bytearray(draw(st.sampled_from(sound)))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data)))
        length = draw(st.integers(1, 16))
        match draw(st.sampled_from(("byte", "bytes", "cut", "end", "insert", "repeat", "text"))):
            case "byte":
                data[place : place + 1] = bytes([draw(st.sampled_from(INTERESTING))])
            case "bytes":
                data[place : place + length] = draw(st.binary(min_size=length, max_size=length))
            case "cut":
                del data[place : place + length]
            case "end":
                del data[place:]
            case "insert":
                data[place:place] = draw(st.binary(max_size=length))
            case "repeat":
                data[place:place] = data[place : place + 64] * draw(st.integers(1, 4))
            case "text":  # numbers in headers
                data[place : place + length] = b"9" * length
    return bytes(data)


@contextlib.contextmanager
def answers(name: str) -> Iterator[None]:
    """Lets `UserError` pass if it is one line that names the file; ends a call that hangs."""
    faulthandler.dump_traceback_later(SECONDS, exit=True, file=sys.__stderr__)
    said = name
    try:
        yield
    except UserError as error:
        said = str(error)
    finally:
        faulthandler.cancel_dump_traceback_later()
    assert "\n" not in said, f"more than one line: {said}"
    assert name in said, f"does not name {name}: {said}"


@contextlib.contextmanager
def bounded_memory() -> Iterator[None]:
    """Fails if the largest memory of this process grew by more than `MEGABYTES`."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < MEGABYTES, f"took {grown:.0f} MB"
