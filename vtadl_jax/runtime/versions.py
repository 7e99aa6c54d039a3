"""Versions that determine the results: this package, its code, JAX and the compilers."""

import contextlib
import functools
import hashlib
import importlib.metadata
from pathlib import Path

import jax
import jaxlib


def package_root() -> Path:
    """Returns the folder of this package."""
    return Path(__file__).resolve().parents[1]


def compiler_versions() -> dict[str, str]:
    """Returns the versions that determine the compiled program: name → version."""
    found = {"jax": jax.__version__, "jaxlib": jaxlib.__version__}
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        found["libtpu"] = importlib.metadata.version("libtpu")
    return found


@functools.cache
def code_digest() -> str:
    """Returns 12 hex digits that change with any byte of this package's Python files."""
    digest, folder = hashlib.sha256(), package_root()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
