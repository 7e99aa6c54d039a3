"""What a TPU chip can do at most, and where the numbers are from.

Rates of products, memory and links are those of the vendor's pages, docs.cloud.google.com/tpu/docs
(read November 2026); jax.experimental.pallas.tpu.get_tpu_info() of jax 0.10.2 has the same rates
within 3 % (v5p's memory within 12 %). A clock is not documented for every chip: v4's 1.05 GHz is of
Jouppi et al., "TPU v4", 2023, table 4; the others are the peak of bfloat16 products divided by the
operations that the chip's matrix units do in a cycle.
"""

import dataclasses

GB, GIB = 10**9, 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peaks of one device as the compiler counts devices.

    bf16_flops, hbm_bandwidth: a second; hbm_bytes: of memory; ici_bandwidth: bytes a second that
    leave a chip over all its links; clock: Hz; cores: TensorCores of a chip that are devices of
    their own here, each with its share of all else.
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
        """The least time of work that overlaps perfectly."""
        return max(flops / self.bf16_flops, num_bytes / self.hbm_bandwidth)

    @property
    def ridge(self) -> float:
        """Operations a byte from which on products, not memory, bound."""
        return self.bf16_flops / self.hbm_bandwidth


_DOCS = "docs.cloud.google.com/tpu/docs/"
CHIPS = {
    chip.name: chip
    for chip in (
        # This libtpu describes v4 with a device for each of a chip's two TensorCores.
        Chip("v4", "TPU v4", 275e12 / 2, 1200e9 / 2, 16 * GIB, 300e9 / 2, 1.05e9, 2, _DOCS + "v4"),
        Chip("v5e", "TPU v5 lite", 197e12, 819e9, 16 * GIB, 200e9, 1.5e9, 1, _DOCS + "v5e"),
        Chip("v5p", "TPU v5", 459e12, 2765e9, 95 * GIB, 600e9, 1.75e9, 1, _DOCS + "v5p"),
        Chip("v6e", "TPU v6 lite", 918e12, 1640e9, 32 * GIB, 400e9, 1.75e9, 1, _DOCS + "v6e"),
    )
}


def chip_of(device_kind: str) -> Chip | None:
    """The chip of a device; None for those that are not in the table, as CPUs and GPUs."""
    return next((chip for chip in CHIPS.values() if chip.device_kind == device_kind), None)
