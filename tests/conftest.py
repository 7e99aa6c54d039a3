"""Sets up the tests: eight CPU devices, quick compiles, runs and data that tests share.

XLA compiles at optimization level 0, which takes half the time or less: a small test compiles more
than it computes. Tests of optimized code (its bits, its memory, its speed) are marked
`optimized` and run by themselves, as .ci/run does:

    VTADL_TEST_OPTIMIZED=1 python -m pytest -m optimized

A program that one test compiled serves the others, in other processes too, through JAX's cache.
"""

import contextlib
import fcntl
import importlib.metadata
import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

OPTIMIZED = os.environ.get("VTADL_TEST_OPTIMIZED") == "1"
# LLVM without its optimizations.
QUICK_FLAGS = [] if OPTIMIZED else ["--xla_backend_optimization_level=0"]
# XLA's emitters of loops instead of those by MLIR. Later versions have no others; a flag that XLA
# does not know ends the process.
if QUICK_FLAGS and importlib.metadata.version("jaxlib").startswith("0.10."):
    QUICK_FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["JAX_PLATFORMS"] = "cpu"
# Test processes run side by side: each has one thread a device, and none to split an operation.
_flags = ("--xla_force_host_platform_device_count=8", "--xla_cpu_multi_thread_eigen=false")
_given = os.environ.get("XLA_FLAGS", "").split()
_added = [flag for flag in (*_flags, *QUICK_FLAGS) if flag not in _given]
os.environ["XLA_FLAGS"] = " ".join([*_given, *_added])
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"vtadl_jax_tests_{os.getuid()}")
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"


if not OPTIMIZED:  # after the environment is set: this imports jax
    from vtadl_jax.networks.initialize import INITIALIZER_OPTIONS

    INITIALIZER_OPTIONS["xla_backend_optimization_level"] = 0


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Returns the number of processes for `-n auto`: one per core, none for a few test files."""
    if config.args and all(".py" in argument for argument in config.args):
        return 0
    return min(len(os.sched_getaffinity(0)), 8)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips tests of optimized code where the code is not optimized."""
    if item.get_closest_marker("optimized") and not OPTIMIZED:
        pytest.skip("of optimized code: VTADL_TEST_OPTIMIZED=1 python -m pytest -m optimized")


@pytest.fixture(scope="session")
def shared(tmp_path_factory) -> Callable[[str, Callable[[Path], Any]], Any]:
    """A function (name, make) → make(folder), called once for all processes of a test session.

    The folder is the same for all; what `make` returns is pickled beside it. Tests only read both.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent

    def once(name: str, make: Callable[[Path], Any]) -> Any:
        made = folder / f"shared-{name}.pickle"
        with (folder / f"shared-{name}.lock").open("w") as lock, contextlib.closing(lock):
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not made.is_file():
                made.write_bytes(pickle.dumps(make(folder / f"shared-{name}")))
        return pickle.loads(made.read_bytes())

    return once


@pytest.fixture(scope="session")
def dataset(shared) -> Path:
    """Drawn parts in the MVTec layout, as `tiny_dataset` makes them: not to be changed."""
    from tests.factory import tiny_dataset

    return shared("parts", tiny_dataset)


@pytest.fixture(scope="session")
def finished(shared, dataset):
    """(config, workdir, results) of a tiny VT-ADL run, with evaluations between: not to be changed.

    Its images are not square.
    """
    from tests.factory import tiny_config

    sizes = {"image_size": (32, 48), "model__decoder__vector_dim": 128}
    config = tiny_config(dataset, eval_every_steps=2, **sizes)

    def train(workdir: Path):
        from vtadl_jax.run import run

        return workdir, run(config, workdir)

    return config, *shared("run", train)
