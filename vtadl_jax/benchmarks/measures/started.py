"""Starts the program as a user does, in its own processes, on a small VT-ADL and rendered parts."""

import contextlib
import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
LOCAL = ROOT / "launch" / "local.sh"
CATEGORY, NUM_STEPS, SAVE_EVERY = "gear", 30, 5
PATIENCE = 300  # timeout for every event of a run
DEVICE_COUNT = "--xla_force_host_platform_device_count"
SETTINGS = {
    "image_size": "32,32",
    "batch_size": 8,
    "num_train_steps": NUM_STEPS,
    "log_every_steps": 1,
    "checkpoint_every_steps": SAVE_EVERY,
    "keep_best": "none",
    "data.num_threads": 1,
    "model.vit.patch_size": 8,
    "model.vit.width": 64,
    "model.vit.depth": 2,
    "model.vit.num_heads": 2,
    "model.vit.mlp_dim": 128,
    "model.decoder.vector_dim": 64,
    "model.decoder.features": "8,8,4,4",
    "model.mdn.num_components": 3,
    "model.mdn.feature_dim": 4,
    "eval.num_pictures": 2,
}


class Missed(Exception):
    """Error: the run ended before the fault."""


class Program:
    """Started command, with waits for its output."""

    def __init__(self, command: Sequence[str], log: Path, environment: dict[str, str]):
        self.log = log
        with log.open("w") as f:
            self.process = subprocess.Popen(
                command,
                stdout=f,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=environment,
                start_new_session=True,
            )

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def until(self, condition: Callable[[], bool]) -> None:
        """Waits until `condition`. Raises Missed if the process ends first."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if self.process.poll() is not None:
                raise Missed(self.text)
            if time.monotonic() > deadline:
                self.kill()
                raise TimeoutError(f"waited {PATIENCE} s in vain: {self.text[-2000:]}")
            time.sleep(0.002)

    def until_said(self, words: str) -> None:
        self.until(lambda: words in self.text)

    def wait(self) -> int:
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            raise TimeoutError(f"did not end in {PATIENCE} s: {self.text[-2000:]}") from None

    def kill(self) -> None:
        """Kills it and all it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    @property
    def last_step(self) -> int:
        steps = re.findall(rf"^step (\d+)/{NUM_STEPS} ", self.text, re.MULTILINE)
        return int(steps[-1]) if steps else 0


@dataclasses.dataclass
class Place:
    """Folders of one trial: its workdir and data, and its command line."""

    folder: Path
    data: Path
    source: str = "folder"
    processes: int = 1
    devices: int = 1  # per process
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # in addition to SETTINGS

    @property
    def disk(self) -> Path:
        """File system for the workdir only: data and logs are outside of it, in `folder`."""
        return self.folder / "disk"

    @property
    def workdir(self) -> Path:
        return self.disk / "run"

    @property
    def records(self) -> Path:
        return self.folder / "records"

    @property
    def checkpoints(self) -> Path:
        return self.workdir / "checkpoints"

    def start(self) -> Program:
        settings = SETTINGS | {"data.source": self.source, "data.root": self.data}
        settings |= self.settings
        arguments = [
            f"--config={ROOT / 'configs' / 'folder.py'}:{CATEGORY}",
            *(f"--config.{name}={value}" for name, value in settings.items()),
            f"--workdir={self.workdir}",
        ]
        command = [sys.executable, "-m", "vtadl_jax.main"]
        if self.processes > 1:
            command = [str(LOCAL), str(self.processes)]
        return self.program([*command, *arguments])

    def program(self, command: Sequence[str]) -> Program:
        self.folder.mkdir(parents=True, exist_ok=True)
        flags = os.environ.get("XLA_FLAGS", "").split()
        flags = [flag for flag in flags if not flag.startswith(DEVICE_COUNT)]
        added = {
            "JAX_PLATFORMS": "cpu",
            "PYTHON": sys.executable,
            "XLA_FLAGS": " ".join([*flags, f"{DEVICE_COUNT}={self.devices}"]),
        }
        number = len(list(self.folder.glob("*.log")))
        return Program(command, self.folder / f"{number}.log", {**os.environ, **added})

    def whole_steps(self) -> list[int]:
        """Returns the steps of the complete checkpoints, oldest first."""
        if not self.checkpoints.is_dir():
            return []
        return sorted(int(p.name) for p in self.checkpoints.iterdir() if p.name.isdigit())


def prepare(place: Place) -> None:
    """Makes records of the data of a place, from which it then reads."""
    program = place.program(preparing(place))
    if program.wait() != 0:
        raise RuntimeError(f"images could not be prepared: {program.text}")
    place.data, place.source = place.records / "image_folders", "prepared"


def preparing(place: Place) -> list[str]:
    """Returns the command that makes records of the data of a place."""
    command = [sys.executable, "-m", "vtadl_jax.prepare", "--dataset=folder", "--image_size=32"]
    return [*command, f"--source={place.data}", f"--data_dir={place.records}"]


def children(pid: int) -> list[int]:
    """Returns the training processes that `launch/local.sh` has started; it has helpers, too."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return [int(p) for p in listed if b"vtadl_jax.main" in Path(f"/proc/{p}/cmdline").read_bytes()]
