"""Measures the service: its overhead for one client, and its speed and memory for many.

python -m vtadl_jax.benchmarks.service --workdir runs/demo-plate --clients 50 --seconds 120

Starts `vtadl_jax.serve` on a free port of this machine and sends it images (--images, or drawn
noise). The overhead is the median time of a request minus that of the same image in a `Predictor`
of this process, by turns. The clients run on the same cores as the service. Needs the extra
`serve`. Exit codes: 0 done, 2 a mistake.
"""

import collections
import contextlib
import dataclasses
import http.client
import io
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from absl import flags
from PIL import Image

from vtadl_jax.benchmarks.timing import check_json, write_json
from vtadl_jax.data.finding import find_images
from vtadl_jax.errors import UserError
from vtadl_jax.runtime.command import run_command
from vtadl_jax.runtime.console import say
from vtadl_jax.runtime.text_table import table
from vtadl_jax.serving.models import open_model

FLAGS = flags.FlagValues()
_WORKDIR = flags.DEFINE_string("workdir", "", "Of the trained run.", flag_values=FLAGS)
_IMAGES = flags.DEFINE_string("images", "", "A folder, file or pattern.", flag_values=FLAGS)
_SIZE = flags.DEFINE_integer("size", 512, "Of drawn images, in pixels.", 8, flag_values=FLAGS)
_CLIENTS = flags.DEFINE_integer("clients", 50, "At the same time.", 1, 500, flag_values=FLAGS)
_SECONDS = flags.DEFINE_float("seconds", 120.0, "Of the load.", 0.1, flag_values=FLAGS)
_TURNS = flags.DEFINE_integer("turns", 100, "Requests of one client.", 2, flag_values=FLAGS)
_BATCH = flags.DEFINE_integer("max_batch", 0, "As of the service.", 0, flag_values=FLAGS)
_JSON = flags.DEFINE_string("json", "", "Also write the figures to this file.", flag_values=FLAGS)
START_SECONDS = 300
NUM_DRAWN = 8


@dataclasses.dataclass
class Load:
    """What many clients saw: seconds of the answers with a score, number of others by reason."""

    seconds: list[float] = dataclasses.field(default_factory=list)
    errors: collections.Counter = dataclasses.field(default_factory=collections.Counter)


class Client:
    """A client with a connection that it keeps."""

    def __init__(self, port: int):
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def score(self, content: bytes) -> tuple[int, bytes]:
        """Returns status and body; raises OSError or HTTPException if there is no answer."""
        try:
            self._connection.request("POST", "/score", content)
            answer = self._connection.getresponse()
            return answer.status, answer.read()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._connection.close()


@contextlib.contextmanager
def served(workdir: Path, *more: str) -> Iterator[tuple[subprocess.Popen, int]]:
    """Starts the service; yields its process and port. Raises UserError if it does not start."""
    command = [sys.executable, "-m", "vtadl_jax.serve", f"--model={workdir}", "--port=0", *more]
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        with out.open("w") as stdout, err.open("w") as stderr:
            process = subprocess.Popen(command, stdout=stdout, stderr=stderr)
        try:
            end = time.monotonic() + START_SECONDS
            while '"event": "ready"' not in (said := out.read_text()):
                if process.poll() is not None or time.monotonic() > end:
                    last = (err.read_text().strip().splitlines() or ["it says nothing"])[-1]
                    raise UserError(f"the service did not start: {last}")
                time.sleep(0.05)
            yield process, int(json.loads(said.splitlines()[0])["address"].rpartition(":")[2])
        finally:
            process.kill()
            process.wait()


def measure_overhead(
    score: Callable[[bytes], Any], port: int, images: Sequence[bytes], turns: int
) -> dict[str, float]:
    """Returns the medians, in milliseconds, of one client's requests and of `score`, by turns."""
    own, asked = [], []
    with contextlib.closing(Client(port)) as client:
        for turn in range(turns + 5):
            content = images[turn % len(images)]
            start = time.perf_counter()
            score(content)
            between = time.perf_counter()
            status, body = client.score(content)
            end = time.perf_counter()
            if status != 200:
                raise UserError(f"the service answers {status}: {body.decode(errors='replace')}")
            if turn >= 5:
                own.append(1000 * (between - start))
                asked.append(1000 * (end - between))
    return {
        "predictor_p50_ms": statistics.median(own),
        "request_p50_ms": statistics.median(asked),
        "overhead_p50_ms": statistics.median(asked) - statistics.median(own),
    }


def measure_load(
    process: psutil.Process, port: int, images: Sequence[bytes], clients: int, seconds: float
) -> dict[str, Any]:
    """Returns images per second, latencies, errors and memory under load."""
    end, lock, load = time.monotonic() + seconds, threading.Lock(), Load()

    def work(number: int) -> None:
        client, turn = Client(port), number
        while time.monotonic() < end:
            start = time.perf_counter()
            try:
                status, _ = client.score(images[turn % len(images)])
                reason = str(status)
            except (OSError, http.client.HTTPException) as error:
                status, reason = 0, type(error).__name__
            took = time.perf_counter() - start
            with lock:
                if status == 200:
                    load.seconds.append(took)
                else:
                    load.errors[reason] += 1
            turn += 1
        client.close()

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(clients)]
    begin, memory = time.monotonic(), []
    for thread in threads:
        thread.start()
    while time.monotonic() < end:
        memory.append(process.memory_info().rss / 2**20)
        time.sleep(min(1.0, seconds / 20))
    for thread in threads:
        thread.join()
    took = time.monotonic() - begin
    memory.append(process.memory_info().rss / 2**20)
    if not load.seconds:
        raise UserError(f"no image got a score: {dict(load.errors)}")
    p50, p95, p99 = np.quantile(load.seconds, (0.5, 0.95, 0.99)) * 1000
    return {
        "clients": clients,
        "seconds": took,
        "images": len(load.seconds),
        "images_per_second": len(load.seconds) / took,
        "p50_ms": float(p50),
        "p95_ms": float(p95),
        "p99_ms": float(p99),
        "errors": dict(load.errors),
        "memory_start_mib": memory[0],
        "memory_most_mib": max(memory),
        "memory_end_mib": memory[-1],
    }


def drawn_images(size: int) -> list[bytes]:
    """Returns files of noise, the same each time."""
    found, rng = [], np.random.default_rng(0)
    for _ in range(NUM_DRAWN):
        stream = io.BytesIO()
        pixels = rng.integers(96, 160, (size, size, 3), np.uint8)
        Image.fromarray(pixels).save(stream, "JPEG", quality=90)
        found.append(stream.getvalue())
    return found


def measure(
    workdir: Path, images: Sequence[bytes], clients: int, seconds: float, turns: int, max_batch: int
) -> dict[str, Any]:
    """Returns all figures of the service of a run."""
    model: Any = open_model(workdir, max_batch)
    model.warm_up()
    more = [f"--max_batch={model.batch_size}", f"--max_queue={max(64, 2 * clients)}"]
    with served(workdir, *more) as (process, port):
        overhead = measure_overhead(model, port, images, turns)
        say(f"overhead {overhead['overhead_p50_ms']:.2f} ms; load: {clients} clients, {seconds:g}s")
        load = measure_load(psutil.Process(process.pid), port, images, clients, seconds)
        start = time.monotonic()
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
        stop = {"exit_code": code, "stop_seconds": time.monotonic() - start}
    return {"batch_size": model.batch_size, **overhead, **load, **stop}


def run() -> None:
    """Measures what the flags name; prints a table and writes the figures."""
    if not _WORKDIR.value:
        raise UserError("no --workdir: give the folder of a trained run")
    check_json(_JSON.value)
    images = drawn_images(_SIZE.value)
    if _IMAGES.value:
        images = [path.read_bytes() for path in find_images(_IMAGES.value).images]
    workdir = Path(_WORKDIR.value).expanduser()
    rest = _CLIENTS.value, _SECONDS.value, _TURNS.value, _BATCH.value
    figures = measure(workdir, images, *rest)
    write_json(figures, _JSON.value)
    rows = [[name, _shown(value)] for name, value in figures.items()]
    print("\n".join(table(["figure", "value"], rows, right=(False, True))))


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main(argv: list[str]) -> int:
    return run_command(FLAGS, argv, __doc__, run, "nothing was written")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
