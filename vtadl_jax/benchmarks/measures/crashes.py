"""Runs of the program that are made to fail, and what becomes of them when they are started again.

Each fault strikes a fresh workdir at a random moment; then the same command runs to the end, and
its parameters must be those of a run that nothing ever happened to.
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

from vtadl_jax import sharding
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
from vtadl_jax.checkpoint import CHECKSUMS
from vtadl_jax.workdir import load_run


@dataclasses.dataclass
class Outcome:
    """Of one trial.

    code: how the struck run ended. seconds_to_end: from the fault until all its processes were
    gone. lost: steps done before the fault that had to be done again. at_risk: as many as had been
    done since the last checkpoint that was whole when the fault struck.
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
    """Of the newest checkpoint, which must be of the last step."""
    run = load_run(workdir, sharding.make_mesh(1))
    assert run.step == NUM_STEPS, f"{workdir} ended at step {run.step}"
    return [np.asarray(x) for x in jax.tree.leaves(run.variables)]


def strike_step(place: Place, rng: random.Random) -> Program:
    """kill -9 between two lines about steps."""
    program = place.start()
    program.until_said(f"step {rng.randrange(1, NUM_STEPS - 1)}/")
    time.sleep(rng.uniform(0, 0.05))
    program.kill()
    return program


def strike_save(place: Place, rng: random.Random) -> Program:
    """kill -9 while a checkpoint is being written."""
    program = place.start()
    program.until_said(f"step {rng.randrange(SAVE_EVERY, NUM_STEPS - SAVE_EVERY)}/")
    program.until(lambda: any("tmp" in p.name for p in names_in(place.checkpoints)))
    time.sleep(rng.uniform(0, 0.01))
    program.kill()
    return program


def strike_evaluation(place: Place, rng: random.Random) -> Program:
    """kill -9 after training, while images are scored or the report is written."""
    program = place.start()
    program.until_said("trained to step")
    time.sleep(rng.uniform(0, 0.5))
    if (place.workdir / "results.json").exists():
        raise Missed(program.text)
    program.kill()
    return program


def strike_sigterm(place: Place, rng: random.Random) -> Program:
    """SIGTERM during training."""
    program = place.start()
    program.until_said(f"step {rng.randrange(1, NUM_STEPS - 3)}/")
    program.process.send_signal(signal.SIGTERM)
    program.wait()
    return program


def strike_torn(place: Place, rng: random.Random) -> Program:
    """kill -9, then cut a file of the newest checkpoint short or change a byte in it."""
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
    """A training image disappears during training, and is there again afterwards."""
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
    """The file system of the workdir is filled up during training, and emptied afterwards."""
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
    """kill -9 of one of two processes; the other must end by itself."""
    program = place.start()
    program.until_said(f"step {rng.randrange(1, NUM_STEPS - 5)}/")
    os.kill(rng.choice(children(program.process.pid)), signal.SIGKILL)
    program.wait()
    return program


def strike_prepare(place: Place, rng: random.Random) -> Program:
    """kill -9 while images are made into records; the next time they are finished."""
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
EXPECTED = {  # exit codes of the struck run
    "SIGTERM": (75,),
    "vanished data file": (2,),
    "full disk": (2,),
    "killed peer process": (76, -9, 137, -6, 134),
}


def trial(fault: str, place: Place, rng: random.Random, want: list[np.ndarray]) -> Outcome:
    """Strike, start again, compare. Raises Missed if the run was too quick for the fault."""
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
    """A file system of its own at `folder`. Raises OSError where this may not mount one."""
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
