"""Scores images with trained runs as a service: over HTTP, and from a watched folder.

python -m vtadl_jax.serve --model runs/mvtec-screw
curl --data-binary @part.png http://127.0.0.1:8000/score

--model [NAME=]PATH may be given several times. With --watch DIR --results OUT, every image that
arrives in DIR gets a result in OUT; --nohttp is without HTTP, which needs the extra `serve`. A key
in the environment variable VTADL_API_KEY is asked of HTTP clients. Log lines (JSON) are on stdout.
Exit codes: 0 stopped by SIGTERM, all accepted images finished; 1 some were not, in time; 2 a
mistake the user can fix; 130 stopped by Ctrl-C.
"""

import contextlib
import functools
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from absl import flags

from vtadl_jax.errors import UserError, printable
from vtadl_jax.runtime.command import run_command
from vtadl_jax.runtime.compilation_cache import use_own_cache
from vtadl_jax.runtime.console import say
from vtadl_jax.serving.batching import Batcher
from vtadl_jax.serving.drift import Drift
from vtadl_jax.serving.limits import Limits
from vtadl_jax.serving.logs import log
from vtadl_jax.serving.models import open_models, parse_models
from vtadl_jax.serving.state import Service
from vtadl_jax.serving.watcher import Watcher

if TYPE_CHECKING:
    from vtadl_jax.serving.http import Server
    from vtadl_jax.serving.measured import Measured

FLAGS = flags.FlagValues()
_string = functools.partial(flags.DEFINE_string, flag_values=FLAGS)
_integer = functools.partial(flags.DEFINE_integer, flag_values=FLAGS)
_float = functools.partial(flags.DEFINE_float, flag_values=FLAGS)
_bool = functools.partial(flags.DEFINE_bool, flag_values=FLAGS)
_enum = functools.partial(flags.DEFINE_enum, flag_values=FLAGS)
_MODEL = flags.DEFINE_multi_string(
    "model", [], "[NAME=]PATH of a run's workdir or exported file.", flag_values=FLAGS
)
_HTTP = _bool("http", True, "Serve over HTTP.")
_HOST = _string("host", "127.0.0.1", "Address to listen at; 0.0.0.0 is the whole network.")
_PORT = _integer("port", 8000, "Port to listen at; 0 takes a free one.", 0, 65535)
_MAX_BATCH = _integer(
    "max_batch", 0, "Images scored together; 0: 1 on a CPU, 8 on other devices.", 0, 4096
)
_MAX_WAIT = _float("max_wait_ms", 5.0, "An image waits that long for others of its batch.")
_MAX_BYTES = _integer("max_bytes", 2**25, "Most bytes of a request, or of a watched file.")
_MAX_PIXELS = _integer("max_pixels", 100_000_000, "Most pixels of an image.")
_MAX_QUEUE = _integer("max_queue", 64, "Most images received and not answered at a time.")
_TIMEOUT = _float("timeout_s", 30.0, "Most seconds from a request's first byte to its answer.")
_MIN_AREA = _integer("min_area", 1, "Smallest region that is reported, in pixels.")
_DRIFT = _bool("drift", True, "Tell when images stop to be like the good ones.")
_THREADS = _integer("threads", 4, "Threads that decode images.", 1, 256)
_WATCH = _string("watch", "", "Folder whose new images are scored.")
_RESULTS = _string("results", "", "Folder for the results of --watch.")
_WATCH_MODEL = _string("watch_model", "", "Name of the model for --watch; default: the first.")
_WATCH_MAP = _enum("watch_map", "none", ["none", "npy", "png"], "Maps beside results.")
_POLL = _float("poll_s", 0.5, "Seconds between two looks at --watch.", 0.01, 3600)
KEY = "VTADL_API_KEY"
INTERRUPTED = 130
LOOPBACK = ("127.0.0.1", "localhost", "::1")
FINISH_SECONDS = 2.0  # for batches that no client waits for any more


class Stopped(BaseException):
    """The system told the program to stop before it took any image."""


class Stop:
    """The request to stop: SIGTERM or Ctrl-C, once; a second one ends the process at once.

    While starting, a signal raises Stopped; afterwards it sets `event`.
    """

    def __init__(self) -> None:
        self.event, self.code, self.starting = threading.Event(), 0, True

    def on_signal(self, number: int, _: FrameType | None) -> None:
        if self.event.is_set():
            os._exit(128 + number)
        self.code = INTERRUPTED if number == signal.SIGINT else 0
        self.event.set()
        if self.starting:
            raise Stopped

    @contextlib.contextmanager
    def listening(self):
        """Handles both signals in a with block."""
        before = {n: signal.signal(n, self.on_signal) for n in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def run() -> int:
    """Serves until a signal. Returns the exit code."""
    paths = parse_models(_MODEL.value)
    limits = Limits(
        max_bytes=_MAX_BYTES.value,
        max_pixels=_MAX_PIXELS.value,
        max_queue=_MAX_QUEUE.value,
        timeout_s=_TIMEOUT.value,
        max_wait_ms=_MAX_WAIT.value,
        min_area=_MIN_AREA.value,
    )
    _check_watch(list(paths))
    if not _HTTP.value and not _WATCH.value:
        raise UserError("--nohttp without --watch serves nothing: give --watch DIR --results OUT")
    key, stop = read_key(), Stop()
    service = Service(limits, key, local=not key and _HOST.value in LOOPBACK)
    with contextlib.ExitStack() as ending, stop.listening():
        batcher = server = None
        try:
            watch = _open_watch(ending) if _WATCH.value else None
            server, measured = _start_http(service) if _HTTP.value else (None, None)
            batcher = _open_batcher(paths, limits, measured)
            stop.starting = False
            drift = _drift_of(batcher, measured) if _DRIFT.value else None
            service.open(batcher, drift)
            if watch is not None:
                name = _WATCH_MODEL.value or next(iter(paths))
                watch.score_with(batcher, name, limits, _WATCH_MAP.value, drift)
            log("ready", models=list(paths))
            _work(stop, watch, server)
        except Stopped:
            log("stopped", finished=True)
            os._exit(stop.code)  # a thread that still compiles would crash at the end of Python
        finally:
            stop.starting = False
            service.stop()
            whole = server is None or server.stop()
        whole &= batcher is None or batcher.close(FINISH_SECONDS)
    log("stopped", finished=whole)
    if not whole:
        say("stopped before all accepted images were finished: raise --timeout_s, or send less")
        sys.stdout.flush()
        os._exit(stop.code or 1)  # a thread that is stuck would keep the process
    return stop.code


def read_key() -> str:
    """Returns the API key of the environment, '' for none. Raises UserError for a key that no
    header can hold."""
    key = os.environ.get(KEY)
    if key is None:
        return ""
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(
            f"{KEY} is set to an empty text or one with spaces or other characters than ASCII: "
            f"set letters and digits, or unset it to serve without a key"
        )
    return key


def _check_watch(names: list[str]) -> None:
    if bool(_WATCH.value) != bool(_RESULTS.value):
        missing = "results" if _WATCH.value else "watch"
        raise UserError(f"no --{missing}: --watch DIR and --results OUT go together")
    if not _WATCH.value:
        return
    if _WATCH_MODEL.value and _WATCH_MODEL.value not in names:
        known = ", ".join(names)
        raise UserError(f"--watch_model {printable(_WATCH_MODEL.value)}: the models are {known}")
    if len(names) > 1 and not _WATCH_MODEL.value:
        raise UserError(f"no --watch_model: give one of {', '.join(names)}")


def _open_watch(ending: contextlib.ExitStack) -> Watcher:
    watch, results = (Path(flag.value).expanduser() for flag in (_WATCH, _RESULTS))
    return ending.enter_context(Watcher.opened(watch, results, _POLL.value))


def _start_http(service: Service) -> "tuple[Server, Measured]":
    try:
        from vtadl_jax.serving.http import Server
        from vtadl_jax.serving.measured import Measured
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("vtadl_jax"):
            raise
        raise UserError(
            f"{error.name} is not installed, which HTTP needs: pip install 'vtadl_jax[serve]', or "
            f"serve a folder only with --nohttp --watch DIR --results OUT"
        ) from error
    measured = Measured()
    server = Server(service, measured, _HOST.value, _PORT.value)
    server.start()
    log("listening", address=server.address, key=bool(service.key))
    say(f"listening at {server.address}")
    if not service.key and _HOST.value not in LOOPBACK:
        say(f"note: everyone who reaches {server.address} may use it: {KEY} is not set")
    return server, measured


def _open_batcher(paths: dict[str, Path], limits: Limits, measured: "Measured | None") -> Batcher:
    """Loads and warms all models."""
    use_own_cache()
    models = open_models(paths, _MAX_BATCH.value)
    on_batch = (lambda size: None) if measured is None else measured.batch
    batcher = Batcher(models, limits.max_wait_ms, _THREADS.value, on_batch)
    batcher.start()
    for name, model in models.items():
        say(f"model {name}: {printable(paths[name])}, batches of {model.batch_size}")
        if getattr(model, "per_image", False):
            say(
                f"note: {name} has a region for each image (data.regions), which requests do not "
                f"bring: images are inspected everywhere"
            )
    return batcher


def _drift_of(batcher: Batcher, measured: "Measured | None") -> Drift:
    return Drift(batcher.models) if measured is None else Drift(batcher.models, measured.drift)


def _work(stop: Stop, watch: Watcher | None, server: "Server | None") -> None:
    """Returns when told to stop. Raises UserError if the HTTP server ends by itself."""
    while not stop.event.is_set():
        if watch is not None:
            watch.look(stop.event)
        if server is not None and not server.alive:
            raise UserError("the HTTP server ended: start the service again")
        stop.event.wait(1.0 if watch is None else watch.pause)


def main(argv: list[str]) -> int:
    return run_command(FLAGS, argv, __doc__, run, "what was accepted may not be finished")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
