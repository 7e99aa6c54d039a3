"""Peak rates of TPU chips, with their sources.

Rates of products, memory, links and networks are those of the vendor's pages,
docs.cloud.google.com/tpu/docs (read November 2026); jax.experimental.pallas.tpu.get_tpu_info() of
jax 0.10.2 has the same rates within 3 % (v5p's memory within 12 %). Links are documented in both
directions together, and halved here. v5e's network is its pod's 6.4 Tbit/s over 256 chips; v4's is
not documented. A clock is not documented for every chip: v4's 1.05 GHz is from Jouppi et al.,
"TPU v4", 2023, table 4; the others are the peak of bfloat16 products divided by the operations of
the chip's matrix units per cycle. For tpu7x that is v6e's number for each of its two cores: the
compiler estimates a product of 16384² bfloat16 matrices at 445 k operations a cycle of a core, of
v6e at 409 k.
"""

import dataclasses

GIB = 2**30
GBIT = 10**9 / 8  # bytes


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peak rates of one device, as the compiler counts devices.

    bf16_flops, hbm_bandwidth: per second; hbm_bytes: memory; ici_bandwidth: bytes per second that
    leave a chip over all its links; dcn_bandwidth: bytes per second of the network between slices,
    None if it is not documented; clock: Hz; cores: TensorCores per chip that are separate
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
    dcn_bandwidth: float | None = None

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
        # libtpu describes a chip of v4 and of tpu7x as two devices, one per TensorCore.
        Chip("v4", "TPU v4", 275e12 / 2, 1200e9 / 2, 16 * GIB, 300e9 / 2, 1.05e9, 2, _DOCS + "v4"),
        Chip(
            "v5e", "TPU v5 lite", 197e12, 819e9, 16 * GIB, 200e9, 1.5e9, 1, _DOCS + "v5e", 25 * GBIT
        ),
        Chip("v5p", "TPU v5", 459e12, 2765e9, 95 * GIB, 600e9, 1.75e9, 1, _DOCS + "v5p", 50 * GBIT),
        Chip(
            "v6e",
            "TPU v6 lite",
            918e12,
            1640e9,
            32 * GIB,
            400e9,
            1.75e9,
            1,
            _DOCS + "v6e",
            100 * GBIT,
        ),
        Chip(
            "tpu7x",
            "TPU7x",
            2307e12 / 2,
            7380e9 / 2,
            96 * GIB,
            600e9 / 2,
            2.2e9,
            2,
            _DOCS + "tpu7x",
            50 * GBIT,
        ),
    )
}


def chip_of(device_kind: str) -> Chip | None:
    """Returns the chip of a device; None for devices not in the table, such as CPUs and GPUs."""
    return next((chip for chip in CHIPS.values() if chip.device_kind == device_kind), None)
