"""Files of a run beside its checkpoints: its config and frozen weights, stamped with versions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vtadl_jax import __version__, legacy
from vtadl_jax.config import Config, differences
from vtadl_jax.data.regions.region import Regions
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.detectors import find_method
from vtadl_jax.errors import UserError
from vtadl_jax.experiment import parse
from vtadl_jax.options import fields_of
from vtadl_jax.runtime.files import read_json, replacing, write_json
from vtadl_jax.runtime.versions import code_digest, compiler_versions
from vtadl_jax.weights.files import read_npz

CONFIG, FROZEN = "config.json", "frozen.npz"


def stamp() -> dict[str, Any]:
    """Returns format and versions, which every stored config, checkpoint and result holds."""
    versions = {"vtadl_jax": __version__, "code": code_digest(), **compiler_versions()}
    return {"format": legacy.FORMAT, "versions": versions}


def check_format(stored: Mapping[str, Any], where: Path) -> int:
    """Returns the format number of stored data. Raises UserError for a newer version's format."""
    found = stored.get("format", 1)
    if type(found) is not int or not 1 <= found <= legacy.FORMAT:
        versions = stored.get("versions")
        version = versions.get("vtadl_jax") if isinstance(versions, Mapping) else "unknown"
        raise UserError(
            f"{where} was written by a newer version of vtadl_jax ({version}, format {found}; this "
            f"is {__version__}, format {legacy.FORMAT}): install that version"
        )
    return found


def save_config(config: Config, path: Path) -> None:
    """Writes a config with format and versions, atomically."""
    write_json(path, {**stamp(), **config.to_dict()})


def named(path: Path) -> str:
    """Returns a path as it was given and, if it is relative, the folder that it starts from."""
    return str(path) if path.is_absolute() else f"{path} in {Path.cwd()}"


def load_config(workdir: Path) -> Config:
    """Returns the config of a run.

    Raises UserError if the folder holds no run, and for a config of a newer version.
    """
    path = workdir / CONFIG
    try:
        stored = read_json(path)
    except (FileNotFoundError, NotADirectoryError) as e:
        if not workdir.exists():
            raise UserError(f"no folder {named(workdir)}: give the workdir of a run") from e
        raise UserError(f"{workdir} is not a run, it has no {CONFIG}: train first") from e
    except ValueError as e:
        raise UserError(f"{path} can't be read ({e}): give the workdir of a run") from e
    return read_config(stored, path)


def read_config(stored: Any, where: Path) -> Config:
    """Returns a stored config of this or an earlier version in today's schema."""
    detector = stored.get("detector") if isinstance(stored, dict) else None
    if not isinstance(detector, str):
        raise UserError(f"{where} is not the config of a run: give the workdir of a run")
    try:
        if check_format(stored, where) == legacy.FORMAT:
            return parse({k: v for k, v in stored.items() if k not in ("format", "versions")})
        name = legacy.DETECTORS.get(detector, detector)
        default = Config(detector=name, model=find_method(name).options())
        return parse(legacy.upgrade(stored, {field: v for field, v, _ in fields_of(default)}))
    except UserError as e:
        raise UserError(f"{where}: {str(e).removeprefix(f'{where} ')}") from e


def check_trained_with(config: Config, about: Mapping[str, Any], where: Path) -> None:
    """Raises UserError unless a checkpoint was trained with this config, that of its run.

    about: what the checkpoint stores beside its state. where: the checkpoint's folder.
    """
    trained = about.get("config")
    if trained is None:
        return
    if not isinstance(trained, Mapping):
        raise UserError(f"{where} holds no config of a run: train again in another --workdir")
    then = read_config({"format": about.get("format", 1), **trained}, where)
    if differing := differences(config, then):
        name, here, there = differing[0]
        more = f" (and {len(differing) - 1} more fields)" if len(differing) > 1 else ""
        raise UserError(
            f"{where.parent.parent / CONFIG} is of another run than checkpoint {where.name}: "
            f"{name} is {here!r} there, and {there!r} in the checkpoint{more}: put the run's own "
            f"{CONFIG} back"
        )


def has_checkpoint(workdir: Path) -> bool:
    """Returns whether the workdir has a checkpoint; writes nothing."""
    return bool(checkpoint_steps(workdir))


def checkpoint_steps(workdir: Path) -> list[int]:
    """Returns the steps of the checkpoints of a workdir, oldest first; writes nothing."""
    found = (path for path in (workdir / "checkpoints").glob("*") if is_step(path))
    return sorted(int(path.name) for path in found)


def is_step(path: Path) -> bool:
    """Returns whether a name in the folder of checkpoints is that of a complete one, a number."""
    return path.name.isascii() and path.name.isdigit()


def make_geometry(config: Config, regions: Regions | None = None) -> Geometry:
    """Returns the geometry that resizes images to the network's size, with `data.bits`.

    regions: those of the run, see `training/regions.py`."""
    resize = (config.data.resize[0], config.data.resize[1]) if config.data.resize else None
    return Geometry(config.image_size, resize, config.data.fit, config.data.bits, regions)


def save_frozen(workdir: Path, frozen: Any) -> None:
    """Writes frozen weights, unless the run has them already; atomically."""
    path = workdir / FROZEN
    if path.is_file() or not jax.tree.leaves(frozen):
        return
    arrays = {place_of(keys): np.asarray(leaf) for keys, leaf in jax.tree.leaves_with_path(frozen)}
    with replacing(path) as file:
        np.savez(file, allow_pickle=False, **arrays)


def load_frozen(workdir: Path, like: Any) -> Any:
    """Returns frozen weights with the shapes and shardings of `like`.

    Raises UserError if the file is missing, damaged or from another network.
    """
    if not jax.tree.leaves(like):
        return like
    path = workdir / FROZEN
    try:
        arrays = read_npz(path)
    except UserError as e:
        reason = str(e).removeprefix(f"{path}: ").removeprefix(f"{path} ")
        raise UserError(
            f"{path}, the run's frozen weights, can't be read ({reason}): train again with "
            f"--config.init_from and another --workdir"
        ) from e

    def leaf(keys, wanted):
        array = arrays.get(place_of(keys))
        if array is None or array.shape != wanted.shape:
            raise UserError(f"{path} is from another network: {place_of(keys)} does not fit")
        sharding = getattr(wanted, "sharding", None)
        if sharding is None:
            return array.astype(wanted.dtype)
        array = array.astype(wanted.dtype)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree_util.tree_map_with_path(leaf, like)


def place_of(keys: Any) -> str:
    """Returns the name of a leaf from its keys in a tree, as 'params/vit/kernel'."""
    return "/".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in keys)
