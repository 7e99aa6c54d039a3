"""The watcher, killed by kill -9 at random moments while files arrive: nothing lost or repeated.

$VTADL_FUZZ=20 kills twenty times as often, at new moments each time.
"""

import json
import os
import random
import subprocess
import sys
import threading
import time

import pytest

from tests.cli import ROOT, environment
from tests.serving.fakes import png

NUM_KILLS = 2 * (int(os.environ.get("VTADL_FUZZ", 0)) or 1)
PROGRAM = """
import sys, threading
from pathlib import Path
from tests.serving.fakes import FakeModel, make_batcher
from vtadl_jax.serving.limits import Limits
from vtadl_jax.serving.watcher import Watcher

with Watcher.opened(Path(sys.argv[1]), Path(sys.argv[2]), 0.01) as watcher:
    watcher.score_with(make_batcher(FakeModel(seconds=0.002)), "plate", Limits(), "npy")
    print("watching", flush=True)
    stop = threading.Event()
    while not stop.wait(0.01):
        watcher.look(stop)
"""


class Writer(threading.Thread):
    """Writes images into a folder while `on` is set: whole, moved and slow ones, and some that are
    none."""

    def __init__(self, folder, rng):
        super().__init__(daemon=True)
        self.folder, self.rng, self.stop, self.on = (
            folder,
            rng,
            threading.Event(),
            threading.Event(),
        )
        self.written: dict[str, int | None] = {}  # grey value by name; None for no image

    def run(self):
        number = 0
        while not self.stop.is_set():
            name, value = f"{number:05}.png", self.rng.randrange(256)
            number += 1
            content, path = png(value=value), self.folder / name
            match self.rng.randrange(8):
                case 0:
                    content, value = b"no image", None
                    path.write_bytes(content)
                case 1 | 2 | 3:
                    hidden = self.folder / f".{name}"
                    hidden.write_bytes(content)
                    hidden.rename(path)
                case 4:
                    with path.open("wb") as file:
                        for byte in content:
                            file.write(bytes([byte]))
                            file.flush()
                case _:
                    path.write_bytes(content)
            self.written[name] = value
            time.sleep(self.rng.expovariate(100))
            self.on.wait(0.2)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_nothing_is_lost_or_repeated(tmp_path):
    watch, results = tmp_path / "in", tmp_path / "out"
    watch.mkdir()
    rng = random.Random(None if "VTADL_FUZZ" in os.environ else 0)
    writer = Writer(watch, random.Random(rng.random()))
    writer.start()
    first_seen: dict[str, tuple[int, bytes]] = {}

    def remember():
        for path in results.rglob("*.json"):
            state = (path.stat().st_ino, path.read_bytes())
            assert first_seen.setdefault(path.name, state) == state, "written twice"

    for _ in range(NUM_KILLS):
        process = start(watch, results)
        writer.on.set()
        time.sleep(rng.uniform(0, 0.6))
        process.kill()
        process.wait()
        writer.on.clear()
        remember()
    writer.stop.set()
    writer.join()
    process = start(watch, results)
    end = time.monotonic() + 60
    journal = results / "journal.jsonl"
    while len(keys_of(journal)) < len(writer.written):
        assert time.monotonic() < end, "some files have neither a result nor a reason"
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    remember()

    assert len(writer.written) > 20
    keys = keys_of(journal)
    assert len(keys) == len(set(keys)) == len(writer.written)
    found = [json.loads(content) for _, content in first_seen.values()]
    scored = {each["name"]: round(each["score"] * 255) for each in found}
    assert len(found) == len(scored)
    assert scored == {name: value for name, value in writer.written.items() if value is not None}
    assert all((results / each["map"]["file"]).is_file() for each in found)
    moved = [path.name for path in (results / "unreadable").glob("*.png")]
    names = {name for name, value in writer.written.items() if value is None}
    assert {name.rpartition("-")[0] for name in moved} == names
    assert len(moved) == len(names)
    assert sorted(path.name for path in watch.glob("*.png")) == sorted(scored)


def start(watch, results):
    said = results.with_name("said.txt")
    with said.open("w") as stdout:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(watch), str(results)],
            cwd=ROOT,
            env=environment(),
            stdout=stdout,
            stderr=subprocess.DEVNULL,
        )
    while not said.read_text().startswith("watching\n"):
        assert process.poll() is None
        time.sleep(0.01)
    return process


def keys_of(journal):
    found = []
    for line in journal.read_text().splitlines():
        try:
            found.append(json.loads(line)["key"])
        except ValueError:  # cut short by a kill
            continue
    return found
