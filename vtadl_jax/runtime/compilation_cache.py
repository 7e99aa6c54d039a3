"""Compilation cache, and the account of the time from the start of the process to its first step.

JAX's persistent cache is on for every run, so that a machine compiles each program once. All runs
share one cache folder next to them, unless $JAX_COMPILATION_CACHE_DIR or JAX's own setting names
another folder. Commands that score with a run have the cache of the user, see `use_own_cache`.
"""

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import psutil

CACHE = "compilation_cache"
_HIT, _MISS = "/jax/compilation_cache/cache_hits", "/jax/compilation_cache/cache_misses"


def use_compilation_cache(beside: Path) -> Path:
    """Enables the persistent cache, by default in a folder in `beside`. Returns its folder.

    Caches small programs too: a start compiles dozens of them. JAX only warns about a cache that
    can't be written.
    """
    if not jax.config.values["jax_compilation_cache_dir"]:
        folder = (beside / CACHE).absolute()
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return Path(jax.config.values["jax_compilation_cache_dir"])


def use_own_cache() -> None:
    """Enables the persistent cache for a command that scores with a run or an exported file.

    In the user's folder of caches, `$XDG_CACHE_HOME/vtadl_jax`: JAX runs what it finds in a cache,
    and one beside a run may have come with it, from somebody else. If nothing can be written there,
    programs are compiled at each start.
    """
    place = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vtadl_jax"
    try:
        (place / CACHE).mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    use_compilation_cache(place)


@dataclasses.dataclass
class CacheUse:
    """Numbers of programs that were found in the persistent cache, and that were not."""

    hits: int = 0
    misses: int = 0

    def __str__(self) -> str:
        if not self.hits + self.misses:
            return "compilation cache not used"
        return f"compilation cache: {self.hits} hits, {self.misses} misses"


@contextlib.contextmanager
def watching_cache() -> Iterator[CacheUse]:
    """Counts cache hits and misses inside the context, in all threads."""
    use = CacheUse()

    def listen(event: str, **_: str | int) -> None:
        use.hits += event == _HIT
        use.misses += event == _MISS

    jax.monitoring.register_event_listener(listen)
    try:
        yield use
    finally:
        jax.monitoring.unregister_event_listener(listen)


def process_start() -> float:
    """Returns when this process began, as `time.time` counts.

    psutil knows it to the second only: it adds it to the time of the boot, which Linux rounds.
    """
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return psutil.Process().create_time()
    return time.time() - age


class Stopwatch:
    """Named parts of the time since the process began, or since a later run of the process began.

    Counts work in other threads separately, in `beside`.
    """

    _process_told = False

    def __init__(self) -> None:
        self._since = "run" if Stopwatch._process_told else "process"
        self._last = time.time() if Stopwatch._process_told else process_start()
        Stopwatch._process_told = True
        self.parts: dict[str, float] = {}
        self.beside: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """Adds the time since the last lap to the part `name`."""
        now = time.time()
        self.parts[name] = self.parts.get(name, 0.0) + now - self._last
        self._last = now

    @contextlib.contextmanager
    def aside(self, name: str) -> Iterator[None]:
        start = time.time()
        try:
            yield
        finally:
            self.beside[name] = time.time() - start

    @property
    def total(self) -> float:
        return sum(self.parts.values())

    def __str__(self) -> str:
        """Returns 'first step 4.2s after the process began: imports 1.9s, …; meanwhile …'."""
        told = ", ".join(f"{name} {seconds:.1f}s" for name, seconds in self.parts.items())
        text = f"first step {self.total:.1f}s after the {self._since} began: {told}"
        if self.beside:
            beside = ", ".join(f"{name} {seconds:.1f}s" for name, seconds in self.beside.items())
            text += f"; meanwhile {beside}"
        return text
