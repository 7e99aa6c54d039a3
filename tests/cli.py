"""Running the program as a user does, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run_cli(module: str, *arguments: str) -> subprocess.CompletedProcess:
    """`python -m module arguments` (or `python -c` for '-c') from the checkout, one device."""
    start = [module] if module == "-c" else ["-m", module]
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    return subprocess.run(
        [sys.executable, *start, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
