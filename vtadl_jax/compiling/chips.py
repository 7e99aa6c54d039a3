"""Peak rates of TPU chips, with their sources.

Rates of products, memory and links are those of the vendor's pages, docs.cloud.google.com/tpu/docs
(read November 2026); jax.experimental.pallas.tpu.get_tpu_info() of jax 0.10.2 has the same rates
within 3 % (v5p's memory within 12 %). A clock is not documented for every chip: v4's 1.05 GHz is
from Jouppi et al., "TPU v4", 2023, table 4; the others are the peak of bfloat16 products divided by
the operations of the chip's matrix units per cycle.
"""

import dataclasses

GB, GIB = 10**9, 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peak rates of one device, as the compiler counts devices.

    bf16_flops, hbm_bandwidth: per second; hbm_bytes: memory; ici_bandwidth: bytes per second that
    leave a chip over all its links; clock: Hz; cores: TensorCores per chip that are separate
    devices, each with its share of all other resources.
    """

    name: str
    device_kind: str
    bf16_flops: float
    hbm_bandwidth: float
    hbm_bytes: int
    ici_bandwidth: float
    clock: float
    cores: int
    source: str

    def seconds(self, cycles: float) -> float:
        return cycles / self.clock

    def roofline_seconds(self, flops: float, num_bytes: float) -> float:
        """Returns the lower bound of the time: compute and memory traffic overlap perfectly."""
        return max(flops / self.bf16_flops, num_bytes / self.hbm_bandwidth)

    @property
    def ridge(self) -> float:
        """Returns the operations per byte above which compute, not memory, is the bound."""
        return self.bf16_flops / self.hbm_bandwidth


_DOCS = "docs.cloud.google.com/tpu/docs/"
CHIPS = {
    chip.name: chip
    for chip in (
        # This libtpu describes a v4 chip as two devices, one per TensorCore.
        Chip("v4", "TPU v4", 275e12 / 2, 1200e9 / 2, 16 * GIB, 300e9 / 2, 1.05e9, 2, _DOCS + "v4"),
        Chip("v5e", "TPU v5 lite", 197e12, 819e9, 16 * GIB, 200e9, 1.5e9, 1, _DOCS + "v5e"),
        Chip("v5p", "TPU v5", 459e12, 2765e9, 95 * GIB, 600e9, 1.75e9, 1, _DOCS + "v5p"),
        Chip("v6e", "TPU v6 lite", 918e12, 1640e9, 32 * GIB, 400e9, 1.75e9, 1, _DOCS + "v6e"),
    )
}


def chip_of(device_kind: str) -> Chip | None:
    """Returns the chip of a device; None for devices not in the table, such as CPUs and GPUs."""
    return next((chip for chip in CHIPS.values() if chip.device_kind == device_kind), None)
