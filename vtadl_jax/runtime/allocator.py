"""Settings of the C library's memory allocator, for programs on the CPU."""

import ctypes
import importlib.util

import jax

# From glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
ACCELERATORS = ("libtpu", "jax_plugins")  # packages that add devices to JAX


def reuse_host_buffers() -> bool:
    """Makes malloc keep freed large buffers for reuse; returns whether it does now.

    On the CPU every call of a compiled program allocates its temporary buffers, hundreds of MiB
    for a train step. glibc maps such buffers from the operating system and unmaps them at once, so
    that each call pays for every page fault again: 6 % of a train step, and up to a third on a
    virtual machine with fragmented memory. Call it before JAX starts its threads, which otherwise
    get malloc arenas of their own. Does nothing where JAX may run on an accelerator, or without
    glibc.
    """
    if not _only_cpu():
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_ARENA_MAX, 1))
    return all(mallopt(option, value) == 1 for option, value in settings)


def _only_cpu() -> bool:
    if platforms := jax.config.values["jax_platforms"]:
        return platforms == "cpu"
    return not any(importlib.util.find_spec(name) for name in ACCELERATORS)
