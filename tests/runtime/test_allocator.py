"""Buffers that one call freed serve the next, in a process of its own."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import resource
import sys

import jax
import jax.numpy as jnp

from vtadl_jax.runtime.allocator import reuse_host_buffers

print(reuse_host_buffers() if sys.argv[1] == "keep" else None)
step = jax.jit(lambda x: jnp.sin(x) + 1)
x = jnp.zeros((64, 1024, 1024))
faults = []
for _ in range(12):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step(x).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults))
"""


def fewest_faults(how: str) -> tuple[str, int]:
    """Of a call that returns 256 MiB, 65,536 pages of 4 KiB."""
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True, env=env
    )
    kept, count = run.stdout.split()
    return kept, int(count)


@pytest.mark.slow
def test_kept_memory_is_not_paged_in_again():
    kept, count = fewest_faults("keep")
    if kept != "True":
        pytest.skip("not glibc, or an accelerator's package is installed")
    left = fewest_faults("leave")[1]
    if left < 1000:
        pytest.skip("this system's pages are so large that there is nothing to save")
    assert count < left / 10
