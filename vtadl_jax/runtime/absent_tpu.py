"""Keeps JAX from searching for a TPU on a machine without one.

The package libtpu (extra `tpu`) is also the compiler for studies of TPU slices, so it is installed
on machines without a TPU. There JAX's search for devices loads it, and it prints lines that look
like errors ("could not determine TPU worker hostnames"), some of them past every log level. With
no sign of a TPU and none of a GPU only the CPU is left, and JAX is told so before it
searches. With any sign nothing changes: a TPU is used, and a failure to reach it stays visible.
"""

import importlib.metadata
import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path

import jax

GOOGLE = "0x1ae0"  # vendor on the PCI bus
OTHER_CLASSES = ("0x01", "0x02")  # disks and network cards of Google's virtual machines
GPUS = ("nvidia0", "nvidiactl", "dxg", "kfd")  # device files; JAX says if it lacks their plugin
# Variables by which clusters and users announce a TPU. Others that start with TPU_ are set by JAX
# itself on every machine, or concern logs.
VARIABLES = (
    "CLOUD_TPU_TASK_ID",
    "JAX_FORCE_TPU_INIT",
    "MEGASCALE_COORDINATOR_ADDRESS",
    "TPU_ACCELERATOR_TYPE",
    "TPU_CHIPS_PER_HOST_BOUNDS",
    "TPU_NAME",
    "TPU_PROCESS_ADDRESSES",
    "TPU_PROCESS_BOUNDS",
    "TPU_TOPOLOGY",
    "TPU_VISIBLE_CHIPS",
    "TPU_VISIBLE_DEVICES",
    "TPU_WORKER_HOSTNAMES",
    "TPU_WORKER_ID",
    "VTADL_DISTRIBUTED",
)


def skip_absent_tpu() -> bool:
    """Sets JAX's platform to the CPU if libtpu could only fail here; returns whether it did.

    Does nothing if the platform is chosen already, as by JAX_PLATFORMS, or if libtpu is not
    installed. Call it before JAX touches a device.
    """
    if jax.config.values["jax_platforms"] or importlib.util.find_spec("libtpu") is None:
        return False
    if has_sign_of_tpu(os.environ) or may_use_gpu():
        return False
    jax.config.update("jax_platforms", "cpu")
    return True


def has_sign_of_tpu(
    environment: Mapping[str, str],
    devices: Path = Path("/dev"),
    bus: Path = Path("/sys/bus/pci/devices"),
) -> bool:
    """Returns whether there may be a TPU: by variables, device files, or a device of Google's."""
    return (
        any(environment.get(name) for name in VARIABLES)
        or any(devices.glob("accel*"))
        or any(devices.glob("vfio/[0-9]*"))
        or any(map(_may_be_tpu, bus.glob("*")))
    )


def _may_be_tpu(device: Path) -> bool:
    try:
        vendor = (device / "vendor").read_text(encoding="ascii").strip()
        kind = (device / "class").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return False
    return vendor == GOOGLE and not kind.startswith(OTHER_CLASSES)


def may_use_gpu(devices: Path = Path("/dev")) -> bool:
    """Returns whether there is a GPU, or a package that adds other devices to JAX."""
    added = importlib.metadata.entry_points(group="jax_plugins")
    there = any((devices / name).exists() for name in GPUS)
    return there or bool(added) or importlib.util.find_spec("jax_plugins") is not None
