"""Devices to compile for: those of this machine, or described ones: a TPU slice, or GPUs of a host.

A topology is named 'v5e:4x4', or '2*v5e:4x4' for two slices connected by the data-center network;
'h100:8' is eight GPUs.
"""

import contextlib
import dataclasses
import importlib.util
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from vtadl_jax.compiling.chips import CHIPS, Chip, chip_of
from vtadl_jax.compiling.gpus import GPUS, MOST, Gpu, has_gpu_compiler
from vtadl_jax.errors import UserError

LOCAL = "local"
_GPU_NAME = re.compile(r"^([a-z0-9]+):(\d+)$")
_NAME = re.compile(r"^(?:(\d+)\*)?([a-z0-9]+):(\d+(?:x\d+){1,2})$")
# Without these, libtpu queries the cloud's metadata server. A v5e host can describe slices of any
# chip.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
}


@dataclasses.dataclass(frozen=True)
class Target:
    """A compile target. name: as given; devices: for the mesh; chip: None if not in the table.

    options: the compiler's flags that go with it.
    """

    name: str
    devices: Sequence[Any]
    chip: Chip | None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def size(self) -> int:
        return len(self.devices)


def has_tpu_compiler() -> bool:
    return importlib.util.find_spec("libtpu") is not None


def find_target(name: str) -> Target:
    """Returns the devices of a topology, or of this machine for 'local'.

    Raises UserError for a name that cannot be parsed or that the compiler does not know, a missing
    TPU compiler, and a TPU compiler in use by another process.
    """
    if name == LOCAL:
        devices = jax.devices()
        kind = devices[0].device_kind
        gpu = next((g.chip for g in GPUS.values() if g.chip.device_kind == kind), None)
        return Target(name, devices, gpu or chip_of(kind))
    if (gpus := _GPU_NAME.match(name)) and gpus.group(1) in GPUS:
        return _gpu_target(name, GPUS[gpus.group(1)], int(gpus.group(2)))
    found = _NAME.match(name)
    if not found or found.group(2) not in CHIPS:
        raise UserError(
            f"topology {name!r}: give {LOCAL}, or a chip ({', '.join(CHIPS)}) and the sides of a "
            f"slice, as v5e:4x4, v5p:2x2x1 or tpu7x:2x2x1; 2*v5e:4x4 is two slices; or "
            f"GPUs ({', '.join(GPUS)}) and their number, as h100:8"
        )
    if not has_tpu_compiler():
        raise UserError(
            f"topology {name!r} needs the TPU's compiler, which is not installed: "
            f"pip install 'vtadl_jax[tpu]' (Linux, no TPU needed)"
        )
    slices, chip, sides = int(found.group(1) or 1), found.group(2), found.group(3)
    options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    if all(side == "1" for side in sides.split("x")):
        options["chips_per_host_bounds"] = (1, 1, 1)  # the default is a host of 2x2 chips
    from jax.experimental import topologies

    try:
        with _tpu_environment():
            described = topologies.get_topology_desc(
                platform="tpu", topology_name=f"{chip}:{sides}", **options
            )
    except Exception as e:  # jaxlib raises several types, depending on libtpu's error
        if "lockfile" in str(e) or "already in use" in str(e):
            raise UserError(
                f"topology {name!r}: another process is using the TPU's compiler, which serves "
                f"one at a time: wait for it, or set ALLOW_MULTIPLE_LIBTPU_LOAD=true"
            ) from e
        reason = " ".join(str(e).split())
        raise UserError(f"topology {name!r} is refused by the TPU's compiler: {reason}") from e
    found_devices: Sequence[Any] = described.devices
    return Target(name, found_devices, chip_of(found_devices[0].device_kind))


def _gpu_target(name: str, gpu: Gpu, count: int) -> Target:
    """Returns GPUs of one host, described to XLA's CUDA plugin."""
    if not 1 <= count <= MOST:
        raise UserError(f"topology {name!r}: a host has 1 to {MOST} GPUs")
    if not has_gpu_compiler():
        raise UserError(
            f"topology {name!r} needs XLA's compiler for GPUs, which is not installed: "
            f"pip install 'vtadl_jax[cuda]' (Linux, no GPU and no driver needed)"
        )
    from jax.experimental import topologies

    try:
        described = topologies.get_topology_desc(
            platform="cuda", target_config=gpu.target_config(), topology=f"1x1x{count}"
        )
    except Exception as e:  # jaxlib raises several types
        reason = " ".join(str(e).split())
        raise UserError(f"topology {name!r} is refused by the CUDA plugin: {reason}") from e
    devices: Sequence[Any] = described.devices
    return Target(name, devices, gpu.chip, gpu.options)


@contextlib.contextmanager
def _tpu_environment() -> Iterator[None]:
    """Sets the variables that libtpu reads when it is loaded; JAX's local devices stay the same."""
    added = {key: value for key, value in _ENVIRONMENT.items() if key not in os.environ}
    if "TPU_LOG_DIR" not in os.environ:
        added["TPU_LOG_DIR"] = "disabled"
    os.environ.update(added)
    try:
        yield
    finally:
        for key in added:
            del os.environ[key]
