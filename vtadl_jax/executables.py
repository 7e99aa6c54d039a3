"""Compiled steps kept on disk, for later runs with the same config, code, devices and versions.

JAX's own cache (`startup.py`) spares the compiler; this spares tracing and lowering too. A file
holds a pickle, as JAX's executables do: it is only as safe as the folder it lies in, so read none
that others can write.
"""

import contextlib
import hashlib
import json
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from jax.experimental import serialize_executable
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vtadl_jax import train
from vtadl_jax.compiling.topology import package_root, versions
from vtadl_jax.config import flatten
from vtadl_jax.startup import CACHE
from vtadl_jax.writers import say

FOLDER = "executables"

# Fields of a config that no compiled step depends on.
_ASIDE = (
    "data.root",
    "data.category",
    "log_every_steps",
    "eval_every_steps",
    "checkpoint_every_steps",
    "keep_checkpoints",
    "data.num_threads",
    "data.prefetch",
    "seed",
    "eval",
    "profile",
)


def key_of(config: ConfigDict, devices: Any, arguments: Any, num_steps: int) -> str:
    """Of everything that a train step's program follows from.

    arguments: their shapes, types and shardings; num_steps: of the learning rate's schedule. The
    source of this package counts by its bytes: an edit anywhere makes another key.
    """
    fields = {
        name: value
        for name, value in flatten(config)
        if not any(name == aside or name.startswith(f"{aside}.") for aside in _ASIDE)
    }
    shapes = [
        (str(path), leaf.shape, str(leaf.dtype), str(leaf.sharding))
        for path, leaf in jax.tree.leaves_with_path(arguments)
    ]
    kinds = [(d.device_kind, d.id, d.process_index) for d in devices]
    parts = {
        "fields": fields,
        "num_steps": num_steps,
        "shapes": shapes,
        "devices": kinds,
        "versions": versions(),
        "flags": [os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")],
        "source": _source_digest(package_root()),
    }
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:24]


def _source_digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def kept_step(
    config: ConfigDict,
    workdir: Path,
    mesh: Mesh,
    make_step: Callable[[], Any],
    state: Any,
    batch: Any,
    num_steps: int,
) -> Any:
    """The train step for these shapes: the one that is kept, else compiled now and kept.

    With several processes each would have to keep a part; there it is only compiled.
    """
    if jax.process_count() > 1:
        say("--serialize keeps no step of several processes: compiling")
        return train.compile_train_step(make_step(), state, batch)
    devices = mesh.devices.flatten().tolist()
    folder = jax.config.values["jax_compilation_cache_dir"] or workdir.parent / CACHE
    key = key_of(config, devices, (state, batch), num_steps)
    path = Path(folder) / FOLDER / f"{key}.bin"
    if (compiled := load(path, devices)) is not None:
        say(f"took the compiled step from {path}")
        return compiled
    with _without_cache():
        compiled = train.compile_train_step(make_step(), state, batch)
    save(path, compiled)
    return compiled


@contextlib.contextmanager
def _without_cache() -> Iterator[None]:
    """Compile anew: what JAX's cache brings back does not survive being written once more (on the
    CPU, jaxlib 0.10.2: "Function ... not found" when it is run)."""
    enabled = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)
        compilation_cache.reset_cache()


def save(path: Path, compiled: Any) -> None:
    """Write an executable; it appears whole or not at all."""
    payload, in_tree, out_tree = serialize_executable.serialize(compiled)
    trees = [jax.tree.unflatten(t, range(t.num_leaves)) for t in (in_tree, out_tree)]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(pickle.dumps((payload, *trees)))
    temporary.replace(path)
    say(f"kept the compiled step in {path} ({path.stat().st_size / 2**20:.0f} MiB)")


def load(path: Path, devices: Any) -> Any | None:
    """The executable of `save`, for these devices; None where there is none, or where it can't be
    used, which is said."""
    if not path.is_file():
        return None
    try:
        payload, in_example, out_example = pickle.loads(path.read_bytes())
        return serialize_executable.deserialize_and_load(
            payload,
            jax.tree.structure(in_example),
            jax.tree.structure(out_example),
            execution_devices=list(devices),
        )
    except Exception as e:  # from pickle, jaxlib or the plugin; compiling is the way out of each
        reason = " ".join(str(e).split())[:200]
        say(f"{path} can't be used ({type(e).__name__}: {reason}): compiling instead")
        return None
