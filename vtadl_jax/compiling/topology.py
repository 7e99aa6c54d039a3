"""Devices to compile for: those of this machine, or a TPU slice that only its compiler knows.

A topology is named 'v5e:4x4', or '2*v5e:4x4' for two slices joined by the data-centre network.
"""

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from vtadl_jax.compiling.chips import CHIPS, Chip, chip_of
from vtadl_jax.errors import UserError

LOCAL = "local"
_NAME = re.compile(r"^(?:(\d+)\*)?([a-z0-9]+):(\d+(?:x\d+){1,2})$")
# libtpu would otherwise ask the cloud's metadata server what machine this is. A v5e host is enough
# to describe slices of any chip.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
}


@dataclasses.dataclass(frozen=True)
class Target:
    """name: as given; devices: to make a mesh of; chip: None where its peaks are not known."""

    name: str
    devices: Sequence[Any]
    chip: Chip | None

    @property
    def size(self) -> int:
        return len(self.devices)


def has_tpu_compiler() -> bool:
    return importlib.util.find_spec("libtpu") is not None


def find_target(name: str) -> Target:
    """The devices of a topology, or of this machine for 'local'.

    Raises UserError for a name that is not understood, one that the compiler does not know, a
    missing TPU compiler, and where another process is using it.
    """
    if name == LOCAL:
        devices = jax.devices()
        return Target(name, devices, chip_of(devices[0].device_kind))
    found = _NAME.match(name)
    if not found or found.group(2) not in CHIPS:
        raise UserError(
            f"topology {name!r}: give {LOCAL}, or a chip ({', '.join(CHIPS)}) and the sides of a "
            f"slice, as v5e:4x4 or v5p:2x2x1; 2*v5e:4x4 is two slices"
        )
    if not has_tpu_compiler():
        raise UserError(
            f"topology {name!r} needs the TPU's compiler, which is not installed: "
            f"pip install 'vtadl_jax[tpu]' (Linux, no TPU needed)"
        )
    slices, chip, sides = int(found.group(1) or 1), found.group(2), found.group(3)
    options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    if all(side == "1" for side in sides.split("x")):
        options["chips_per_host_bounds"] = (1, 1, 1)  # else a host of 2x2 chips is meant
    from jax.experimental import topologies

    try:
        with _tpu_environment():
            described = topologies.get_topology_desc(
                platform="tpu", topology_name=f"{chip}:{sides}", **options
            )
    except Exception as e:  # jaxlib raises several types, by what went wrong in libtpu
        if "lockfile" in str(e) or "already in use" in str(e):
            raise UserError(
                f"topology {name!r}: another process is using the TPU's compiler, which serves "
                f"one at a time: wait for it, or set ALLOW_MULTIPLE_LIBTPU_LOAD=true"
            ) from e
        reason = " ".join(str(e).split())
        raise UserError(f"topology {name!r} is refused by the TPU's compiler: {reason}") from e
    found_devices: Sequence[Any] = described.devices
    return Target(name, found_devices, chip_of(found_devices[0].device_kind))


@contextlib.contextmanager
def _tpu_environment() -> Iterator[None]:
    """What libtpu reads when it is loaded; nothing of it changes what JAX finds on this machine."""
    added = {key: value for key, value in _ENVIRONMENT.items() if key not in os.environ}
    if "TPU_LOG_DIR" not in os.environ:
        added["TPU_LOG_DIR"] = "disabled"
    os.environ.update(added)
    try:
        yield
    finally:
        for key in added:
            del os.environ[key]


def versions() -> dict[str, str]:
    """Of what decides how a program comes out."""
    import jaxlib

    found = {"jax": jax.__version__, "jaxlib": jaxlib.__version__}
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        found["libtpu"] = importlib.metadata.version("libtpu")
    return found


def package_root() -> Path:
    return Path(__file__).resolve().parents[1]
