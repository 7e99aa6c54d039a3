"""How the C library of the process gives memory to programs on the CPU."""

import ctypes
import importlib.util

import jax

# Of malloc.h, glibc.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
ACCELERATORS = ("libtpu", "jax_plugins")  # packages that bring JAX other devices


def keep_freed_memory() -> bool:
    """Let this process reuse large buffers instead of returning them; True if that is now so.

    On the CPU every call of a compiled program allocates its temporary buffers, hundreds of MiB
    for a train step. glibc gets such buffers from the operating system and gives them back at
    once, so that each call pays for every page again: 6 % of a train step, and up to a third on a
    virtual machine whose own memory is scattered. To be called before JAX starts its threads,
    which otherwise have allocators of their own. Does nothing where JAX may run on an
    accelerator, or without glibc.
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
