"""Measures of `python -m vtadl_jax.benchmarks.kernels`: one module each, ours and its peers.

Every function returns groups as `timing.compare` makes them and prints its progress to stderr.
"""

import sys
import time
from typing import Any

Group = dict[str, Any]

_START = time.perf_counter()


def progress(text: str) -> None:
    print(f"[{time.perf_counter() - _START:6.1f} s] {text}", file=sys.stderr, flush=True)
