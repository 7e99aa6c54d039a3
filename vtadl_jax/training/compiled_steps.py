"""Compiles a train step ahead of its first call and prints time and memory."""

import time
from typing import Any

from vtadl_jax.runtime.console import say
from vtadl_jax.training.state import TrainState


def compile_train_step(step, state: TrainState, batch: Any):
    """Compiles a step of `make_train_step` for arrays, or for their shapes and shardings."""
    start = time.perf_counter()
    compiled = step.lower(state, batch).compile()
    took = time.perf_counter() - start
    say(f"compiled the train step in {took:.1f}s; {_memory_line(compiled)}")
    return compiled


def _memory_line(compiled) -> str:
    memory = compiled.memory_analysis()
    if memory is None:
        return "memory unknown"
    arguments, temporary = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    return (
        f"per device {arguments / 2**20:.0f} MiB of state and batch and "
        f"{temporary / 2**20:.0f} MiB of temporary buffers"
    )
