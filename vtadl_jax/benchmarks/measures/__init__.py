"""What `python -m vtadl_jax.benchmarks.kernels` measures: a file each, ours beside its peers.

Every function returns groups as `timing.compare` makes them and says on stderr how far it is.
"""

import sys
import time
from typing import Any

Group = dict[str, Any]

_START = time.perf_counter()


def progress(text: str) -> None:
    print(f"[{time.perf_counter() - _START:6.1f} s] {text}", file=sys.stderr, flush=True)
