"""Times, rates and training duration, computed from a reading and the chip's peak rates."""

import dataclasses
from typing import Any

from vtadl_jax.compiling.chips import Chip
from vtadl_jax.compiling.reading import Reading


@dataclasses.dataclass(frozen=True)
class Figures:
    """Estimates for one call on one device, in seconds; None if compiler or chip table lack data.

    roofline: the larger of the times of FLOPs and bytes at the chip's peaks; compute: summed cycles
    at its clock; links: bytes sent by collectives at the rate of all links of a chip; slices: bytes
    sent between slices at the rate of their network, 0 for one slice; call: compute, links and
    slices, without overlap; None if the program calls libraries, which have no estimate.
    """

    flops: float | None
    bytes: float | None
    intensity: float | None
    roofline: float | None
    bound: str
    compute: float | None
    links: float | None
    slices: float | None
    call: float | None
    images_per_second: float | None


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A whole training: its epochs, images per epoch, steps and time."""

    images: int
    epochs: float
    calls: int
    seconds: float | None
    roofline_seconds: float | None


def chip_of(reading: Reading) -> Chip | None:
    fields = reading["program"]["chip"]
    return Chip(**fields) if fields else None


def figures(reading: Reading) -> Figures:
    chip, program = chip_of(reading), reading["program"]
    flops, num_bytes = reading["work"]["flops"], reading["work"]["bytes"]
    intensity = flops / num_bytes if flops and num_bytes else None
    roofline, bound, compute, links, slices, call = None, "", None, None, None, None
    if chip and intensity is not None:
        roofline = chip.roofline_seconds(flops, num_bytes)
        bound = "products" if intensity >= chip.ridge else "memory"
    total = reading["cycles"]["total"]
    if chip and total is not None:
        compute = chip.seconds(total)
        links = reading["collective_totals"]["wire_bytes"] / chip.ici_bandwidth
        sent = reading["between_slices"]["wire_bytes"]
        slices = 0.0 if not sent else sent / chip.dcn_bandwidth if chip.dcn_bandwidth else None
        if not reading["library_calls"]:
            call = compute + links + (slices or 0.0)
    rate = program["images"] / call if call else None
    return Figures(flops, num_bytes, intensity, roofline, bound, compute, links, slices, call, rate)


def schedule(reading: Reading, images: int) -> Schedule:
    """Returns the training's length: num_epochs over `images` in whole batches, or
    num_train_steps."""
    found, fields = figures(reading), reading["program"]["fields"]
    calls = fields["num_train_steps"] or max(
        fields["num_epochs"] * images // reading["program"]["images"], 1
    )

    def times(seconds: float | None) -> float | None:
        return None if seconds is None else seconds * calls

    epochs = fields["num_epochs"]
    if fields["num_train_steps"]:
        epochs = round(calls * reading["program"]["images"] / images, 1)
    return Schedule(images, epochs, calls, times(found.call), times(found.roofline))


def change(before: float | None, after: float | None) -> float | None:
    """Returns the relative change; None if it is undefined."""
    if before is None or after is None or not before:
        return None
    return after / before - 1


def as_dict(value: Any) -> dict:
    return dataclasses.asdict(value)
