"""Injects faults into runs of the program, reruns them and checks that they recover.

Each fault hits a new workdir at a random moment; then the same command runs to the end, and its
parameters must be those of a run without faults.
"""

import contextlib
import dataclasses
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np

from vtadl_jax.benchmarks.measures.started import (
    CATEGORY,
    NUM_STEPS,
    SAVE_EVERY,
    Missed,
    Place,
    Program,
    children,
    prepare,
    preparing,
)
from vtadl_jax.evaluation.trained_run import load_run
from vtadl_jax.runtime import sharding
from vtadl_jax.training.checkpoint import CHECKSUMS


@dataclasses.dataclass
class Outcome:
    """Outcome of one trial.

    code: exit code of the run with the fault. seconds_to_end: from the fault until all its
    processes ended. lost: steps before the fault that ran again. at_risk: steps since the last
    complete checkpoint before the fault.
    """

    fault: str
    code: int
    seconds_to_end: float
    resumed: bool
    equal: bool
    lost: int
    at_risk: int
    message: str

    @property
    def good(self) -> bool:
        return self.resumed and self.equal and self.lost <= self.at_risk


def parameters(workdir: Path) -> list[np.ndarray]:
    """Returns the parameters of the newest checkpoint, which must be of the last step."""
    run = load_run(workdir, sharding.make_mesh(1))
    assert run.step == NUM_STEPS, f"{workdir} ended at step {run.step}"
    return [np.asarray(x) for x in jax.tree.leaves(run.variables)]


def strike_step(place: Place, rng: random.Random) -> Program:
    """Sends kill -9 between two log lines about steps."""
    program = place.start()
    program.until_said(f"step {rng.randrange(1, NUM_STEPS - 1)}/")
    time.sleep(rng.uniform(0, 0.05))
    program.kill()
    return program


def strike_save(place: Place, rng: random.Random) -> Program:
    """Sends kill -9 while a checkpoint is being written."""
    program = place.start()
    program.until_said(f"step {rng.randrange(SAVE_EVERY, NUM_STEPS - SAVE_EVERY)}/")
    program.until(lambda: any("tmp" in p.name for p in names_in(place.checkpoints)))
    time.sleep(rng.uniform(0, 0.01))
    program.kill()
    return program


def strike_evaluation(place: Place, rng: random.Random) -> Program:
    """Sends kill -9 after training, while images are scored or the report is written."""
    program = place.start()
    program.until_said("trained to step")
    time.sleep(rng.uniform(0, 0.5))
    if (place.workdir / "results.json").exists():
        raise Missed(program.text)
    program.kill()
    return program


def strike_sigterm(place: Place, rng: random.Random) -> Program:
    """Sends SIGTERM during training; a run whose last step was already made finishes instead."""
    program = place.start()
    program.until_said(f"step {rng.randrange(1, NUM_STEPS - 3)}/")
    program.process.send_signal(signal.SIGTERM)
    if program.wait() == 0:
        raise Missed(program.text)
    return program


def strike_torn(place: Place, rng: random.Random) -> Program:
    """Sends kill -9, then truncates a file of the newest checkpoint or changes a byte in it."""
    program = place.start()
    program.until(lambda: len(_sealed(place)) > 1)
    program.kill()
    newest = place.checkpoints / str(_sealed(place)[-1])
    files = [p for p in newest.rglob("*") if p.is_file() and p.name != CHECKSUMS]
    victim = rng.choice([p for p in files if p.stat().st_size > 0])
    content = bytearray(victim.read_bytes())
    if rng.random() < 0.5:
        del content[rng.randrange(len(content)) :]
    else:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    victim.write_bytes(content)
    return program


def strike_data(place: Place, rng: random.Random) -> Program:
    """Removes a training image during training, and restores it afterwards."""
    program = place.start()
    program.until_said(f"step {rng.randrange(1, NUM_STEPS // 2)}/")
    images = sorted((place.data / CATEGORY / "train" / "good").iterdir())
    victims = rng.sample(images, len(images) // 2)
    for victim in victims:
        victim.rename(victim.with_suffix(".gone"))
    program.wait()
    for victim in victims:
        victim.with_suffix(".gone").rename(victim)
    return program


def strike_disk(place: Place, rng: random.Random) -> Program:
    """Fills the file system of the workdir during training, and empties it afterwards."""
    program = place.start()
    program.until(lambda: bool(_sealed(place)))
    program.until_said(f"step {rng.randrange(SAVE_EVERY, 2 * SAVE_EVERY)}/")
    filler = place.disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb") as f:
        while True:
            f.write(b"\0" * 2**10)
            f.flush()
    program.wait()
    filler.unlink()
    return program


def strike_peer(place: Place, rng: random.Random) -> Program:
    """Sends kill -9 to one of two processes; the other must end by itself."""
    program = place.start()
    program.until_said(f"step {rng.randrange(1, NUM_STEPS - 5)}/")
    os.kill(rng.choice(children(program.process.pid)), signal.SIGKILL)
    program.wait()
    return program


def strike_prepare(place: Place, rng: random.Random) -> Program:
    """Sends kill -9 while records are prepared; the rerun finishes them."""
    program = place.program(preparing(place))
    program.until(lambda: any(place.records.rglob("*")))
    time.sleep(rng.uniform(0, 0.3))
    if program.process.poll() is not None:
        raise Missed(program.text)
    program.kill()
    prepare(place)
    return program


FAULTS: dict[str, Callable[[Place, random.Random], Program]] = {
    "kill -9 during a step": strike_step,
    "kill -9 during a save": strike_save,
    "kill -9 during evaluation": strike_evaluation,
    "kill -9 during prepare": strike_prepare,
    "SIGTERM": strike_sigterm,
    "torn newest checkpoint": strike_torn,
    "vanished data file": strike_data,
    "full disk": strike_disk,
    "killed peer process": strike_peer,
}
EXPECTED = {  # exit codes of the run with the fault
    "SIGTERM": (75,),
    "vanished data file": (2,),
    "full disk": (2,),
    "killed peer process": (76, -9, 137, -6, 134),
}


def trial(fault: str, place: Place, rng: random.Random, want: list[np.ndarray]) -> Outcome:
    """Injects a fault, reruns and compares. Raises Missed if the run ended before the fault."""
    program = FAULTS[fault](place, rng)
    struck = time.monotonic()
    code = program.process.returncode
    done, whole = program.last_step, place.whole_steps()
    if fault == "torn newest checkpoint":
        whole = whole[:-1]
    again = place.start()
    finished = again.wait() == 0 and (place.workdir / "results.json").is_file()
    found = re.search(r"^continuing from step (\d+)", again.text, re.MULTILINE)
    resumed_at = int(found[1]) if found else 0
    done = done if fault != "kill -9 during prepare" else 0
    expected = EXPECTED.get(fault, (-signal.SIGKILL,))
    last = [line for line in program.text.splitlines() if line.strip()]
    return Outcome(
        fault=fault,
        code=code,
        seconds_to_end=time.monotonic() - struck,
        resumed=finished and code in expected,
        equal=finished and _same(parameters(place.workdir), want),
        lost=max(done - resumed_at, 0),
        at_risk=max(done - max(whole, default=0), 0),
        message=last[-1] if last else "",
    )


@contextlib.contextmanager
def small_disk(folder: Path, mebibytes: int) -> Iterator[None]:
    """Mounts a file system of limited size at `folder`. Raises OSError without permission."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as e:
        raise OSError("a file system of limited size can't be mounted here") from e
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def _same(found: list[np.ndarray], want: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(found, want, strict=True))


def names_in(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _sealed(place: Place) -> list[int]:
    return [s for s in place.whole_steps() if (place.checkpoints / str(s) / CHECKSUMS).is_file()]
