"""NVIDIA GPUs to compile for without having one: what XLA must know of each, and peak rates.

XLA's CUDA plugin compiles for a described GPU; nothing runs and no driver is needed. Autotuning,
which times kernels on the device, is off: XLA takes its default tiles, so a program for the real
device may differ.

Descriptions of H100 and B200 are the values of XLA's own (xla/backends/gpu/target_config/specs,
read November 2026), that of L4 is from NVIDIA's L4 data sheet and the table of compute capability
8.9 in the CUDA programming guide. Rates of bfloat16 products are dense ones of NVIDIA's data
sheets; links are NVLink's in one direction, L4's are PCIe 4.0 x16.
"""

import dataclasses
import importlib.util

from vtadl_jax.compiling.chips import Chip

OPTIONS = {"xla_gpu_autotune_level": 0}
# Costs are collected into the program's text: cycles of each fusion by XLA's models.
COSTS = {"xla_gpu_collect_cost_model_stats": True}
MOST = 8  # GPUs of a host
PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")


@dataclasses.dataclass(frozen=True)
class Gpu:
    """A GPU: peak rates, and what XLA's compiler reads of it. Sizes are in bytes.

    capability: CUDA's; cores: streaming multiprocessors; threads, shared: of each; modelled:
    whether XLA's models of costs know it ("Cannot find key: sm_89").
    """

    chip: Chip
    capability: tuple[int, int]
    cores: int
    threads: int
    shared: int
    shared_block: int
    l2: int
    modelled: bool = True

    @property
    def options(self) -> dict[str, bool | int]:
        """Returns the compiler's flags for it."""
        return {**OPTIONS, **(COSTS if self.modelled else {})}

    def target_config(self) -> str:
        """Returns XLA's description of the GPU, a GpuTargetConfigProto as text."""
        major, minor = self.capability
        chip = self.chip
        return f"""
gpu_device_info {{
  name: "{chip.device_kind}"
  device_vendor: "NVIDIA Corporation"
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  core_count: {self.cores}
  fpus_per_core: 128
  clock_rate_ghz: {chip.clock / 1e9:g}
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: {self.threads}
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: {self.shared_block}
  shared_memory_per_core: {self.shared}
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {chip.hbm_bandwidth:.0f}
  device_memory_size: {chip.hbm_bytes}
  l2_cache_size: {self.l2}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{chip.device_kind}"
"""


_XLA, _NVIDIA = "XLA's target_config/specs/", "NVIDIA's data sheet"
GPUS = {
    gpu.chip.name: gpu
    for gpu in (
        Gpu(
            Chip(
                "h100", "NVIDIA H100 80GB HBM3", 989e12, 3352.32e9, 84_942_979_072, 450e9, 1.98e9,
                1, f"{_XLA}h100_sxm, {_NVIDIA}",
            ),
            (9, 0), 132, 2048, 233_472, 232_448, 52_428_800,
        ),
        Gpu(
            Chip(
                "b200", "NVIDIA B200", 2250e12, 7672.32e9, 191_514_411_008, 900e9, 1.965e9,
                1, f"{_XLA}b200, {_NVIDIA}",
            ),
            (10, 0), 148, 2048, 233_472, 232_448, 132_644_864,
        ),
        Gpu(
            Chip("l4", "NVIDIA L4", 121e12, 300e9, 24_000_000_000, 32e9, 2.04e9, 1, _NVIDIA),
            (8, 9), 58, 1536, 102_400, 101_376, 50_331_648, modelled=False,
        ),
    )
}  # fmt: skip


def has_gpu_compiler() -> bool:
    return any(importlib.util.find_spec(name) is not None for name in PLUGINS)
