"""Starts processes that answer requests (`peers/turns.py`) and asks them, one at a time."""

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from typing import Any

from vtadl_jax.errors import UserError

# No accelerator, and no downloads.
ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Worker:
    """A process on a number of cores. Use as a context: it is stopped at the end.

    command: its program and arguments; the number of cores is added. title: its name in errors.
    """

    def __init__(self, title: str, command: Sequence[str], cores: int):
        self.title = title
        self._told = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        environment = os.environ | ENVIRONMENT | dict.fromkeys(THREADS, str(cores))
        try:
            self._process = subprocess.Popen(
                [*command, str(cores)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._told,
                text=True,
                env=environment,
            )
        except OSError as error:
            self._told.close()
            raise UserError(f"{command[0]}: can't be started ({error.strerror})") from error

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()
        self._told.close()

    def ask(self, what: str, **arguments: Any) -> dict[str, Any]:
        """Returns the answer to a request. Raises UserError if the process fails or has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = ""
        try:
            self._process.stdin.write(json.dumps({"do": what, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            pass
        if not line:
            raise UserError(f"{self.title} has ended at {what!r}: {self._last_words()}")
        answer = json.loads(line)
        if "error" in answer:
            raise UserError(f"{self.title} failed at {what!r}: {answer['error']}")
        return answer

    def _last_words(self) -> str:
        self._told.seek(0)
        lines = self._told.read().strip().splitlines()
        return lines[-1] if lines else "it said nothing"
