"""Runs the program as a user does: in its own process, or in this process to save its start."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import QUICK_FLAGS

ROOT = Path(__file__).resolve().parents[1]


def environment(devices: int = 1) -> dict[str, str]:
    """Returns the variables of a process that sees `devices`, and compiles as the tests do."""
    flags = (f"--xla_force_host_platform_device_count={devices}", *QUICK_FLAGS)
    return {**os.environ, "XLA_FLAGS": " ".join(flags)}


def run_cli(module: str, *arguments: str) -> subprocess.CompletedProcess:
    """Runs `python -m module arguments` (`python -c` for '-c') from the checkout, on one device."""
    start = [module] if module == "-c" else ["-m", module]
    return subprocess.run(
        [sys.executable, *start, *arguments],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def run_main(
    capsys: pytest.CaptureFixture, module: str, *arguments: str
) -> subprocess.CompletedProcess:
    """Runs `python -m module arguments` in this process, which has eight devices.

    Paths are relative to the working directory: that of the tests is the checkout.
    """
    main = importlib.import_module(module).main
    capsys.readouterr()
    code = main([module, *arguments])
    out, err = capsys.readouterr()
    return subprocess.CompletedProcess([module, *arguments], code, out, err)
