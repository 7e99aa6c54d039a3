"""A reading as titled tables of text: the contents of terminal, Markdown and HTML output."""

import dataclasses
from collections.abc import Sequence

from vtadl_jax.compiling import figures as figures_lib
from vtadl_jax.compiling.chips import Chip
from vtadl_jax.compiling.reading import Reading
from vtadl_jax.compiling.wording import duration, mib, percent, si, thousands
from vtadl_jax.compiling.xla_flags import written

Row = Sequence[str]


@dataclasses.dataclass(frozen=True)
class Section:
    """A table with a note below it; a header that ends in '>' means right-aligned numbers."""

    title: str
    header: Row
    rows: Sequence[Row]
    note: str = ""

    @property
    def names(self) -> list[str]:
        return [name.removesuffix(">") for name in self.header]

    @property
    def right(self) -> list[bool]:
        return [name.endswith(">") for name in self.header]


def title(reading: Reading) -> str:
    program = reading["program"]
    return f"{program['config']}, {program['step']} step on {program['topology']}"


def subtitle(reading: Reading) -> str:
    p = reading["program"]
    versions = ", ".join(f"{name} {value}" for name, value in p["versions"].items())
    chosen = "".join(f"; {name} as {form!r}" for name, form in p["implementations"].items())
    chosen += f"; flags {written(p['xla'])}" if p.get("xla") else ""
    images = f"{p['images_per_device']:g} image{'s' * (p['images_per_device'] != 1)} a device"
    return (
        f"{p['num_devices']} × {p['device_kind']}, {images}, {p['images']} in all; {p['dtype']}; "
        f"{si(p['num_parameters'])} parameters{chosen}; {versions}"
    )


def sections(reading: Reading, num_images: int) -> list[Section]:
    """Returns all tables of a report; those without data from the compiler are left out."""
    if not reading["fits"]:
        return [_does_not_fit(reading)]
    found = [_time(reading), _memory(reading)]
    if reading["program"]["step"] == "train" and figures_lib.figures(reading).call is not None:
        found.append(_schedule(reading, num_images))
    if reading["modules"]:
        found += [_modules(reading), _most_expensive(reading)]
    if reading["collectives"]:
        found.append(_collectives(reading))
    return [*found, _counts(reading), _seconds(reading)]


def _does_not_fit(reading: Reading) -> Section:
    memory = reading["memory"]
    rows = [["needed", mib(memory["needed"])], ["there is", mib(memory["limit"])]]
    note = "The compiler found no program within the device's memory: use fewer images a device."
    return Section("Does not fit", ["memory of a device", "size>"], rows, note)


def _time(reading: Reading) -> Section:
    f, cycles = figures_lib.figures(reading), reading["cycles"]
    chip = figures_lib.chip_of(reading)
    rows = [
        ["floating-point operations", si(f.flops), "XLA's count, after optimisation"],
        ["bytes accessed", si(f.bytes, "B"), "XLA's count; on-chip memory included"],
    ]
    if f.intensity is not None:
        told = f"{chip.name}'s ridge is {chip.ridge:.0f}: {f.bound} bound" if chip else ""
        rows.append(["operations a byte", f"{f.intensity:.1f}", told])
    if chip:
        rows.append(
            [
                "roofline time",
                duration(f.roofline),
                f"{si(chip.bf16_flops, 'FLOP/s')}, {si(chip.hbm_bandwidth, 'B/s')} ({chip.source})",
            ]
        )
    if cycles["total"] is not None and chip:
        once = f"{thousands(cycles['once'])} with loop bodies once"
        if reading["loops_of_unknown_length"]:
            once += f"; {reading['loops_of_unknown_length']} loops of unknown length count once"
        if missing := cycles["without_estimate"]:
            once += f"; {missing} fusions have no estimate"
        if calls := reading["library_calls"]:
            once += f"; {thousands(calls)} calls of cuDNN and cuBLAS are not in it"
        rows += [
            ["estimated cycles", thousands(cycles["total"]), once],
            ["their time", duration(f.compute), f"at {chip.clock / 1e9:g} GHz"],
            [
                "time on links",
                duration(f.links),
                f"{mib(reading['collective_totals']['wire_bytes'])} at "
                f"{si(chip.ici_bandwidth, 'B/s')}",
            ],
            *_between_slices(reading, f, chip),
            ["a call", duration(f.call), "all together, as if nothing overlapped"],
            ["images a second", si(f.images_per_second), "on all devices"],
        ]
    return Section("Work and time of a device", ["", "value>", ""], rows)


def _between_slices(reading: Reading, f: figures_lib.Figures, chip: Chip) -> list[list[str]]:
    sent = reading["between_slices"]
    if not sent["executed"]:
        return []
    told = f"{mib(sent['wire_bytes'])} in {thousands(sent['executed'])} transfers"
    rate = chip.dcn_bandwidth
    told += f" at {si(rate, 'B/s')}" if rate else "; its rate is not documented, not in a call"
    return [["time between slices", duration(f.slices), told]]


def _memory(reading: Reading) -> Section:
    memory = reading["memory"]
    told = {
        "arguments": "state or variables, and the batch",
        "outputs": "",
        "aliased": "outputs in the buffers of donated arguments",
        "temporary": "while it runs",
        "program": "its code",
        "peak": "as the compiler plans it, code aside",
        "needed": "arguments + outputs - aliased + temporary + program",
    }
    rows = [[name, mib(memory[name]), note] for name, note in told.items() if name in memory]
    if chip := figures_lib.chip_of(reading):
        part = memory["needed"] / chip.hbm_bytes
        rows.append(["memory of the device", mib(chip.hbm_bytes), f"{percent(part)} needed"])
    note = ""
    if found := reading.get("largest_batch"):
        over = found["too_many"]
        note = f"Largest batch that fits: {found['images']} images a device" + (
            f" ({over} do not)" if over else ""
        )
        note += f"; {len(found['tried'])} sizes compiled."
    return Section("Memory of a device", ["", "size>", ""], rows, note)


def _schedule(reading: Reading, num_images: int) -> Section:
    s = figures_lib.schedule(reading, num_images)
    rows = [
        ["steps", thousands(s.calls), f"{s.epochs:g} epochs of {s.images} images"],
        ["by cycles and links", duration(s.seconds), ""],
        ["by the roofline", duration(s.roofline_seconds), "with XLA's count of bytes"],
    ]
    return Section("The whole training", ["", "value>", ""], rows, "Input and evaluation aside.")


def _modules(reading: Reading) -> Section:
    total = reading["cycles"]["total"]
    rows = []
    for name, ways in reading["modules"].items():
        both = ways["forward"] + ways["backward"]
        values = [thousands(ways["forward"]), thousands(ways["backward"]), thousands(both)]
        rows.append([name, *values, percent(both / total)])
    note = "Modules and named scopes; a file where there is neither. A fusion counts whole."
    header = ["module", "forward>", "backward>", "cycles>", "share>"]
    return Section("Cycles by module", header, rows, note)


def _most_expensive(reading: Reading) -> Section:
    rows = [
        [
            thousands(d["cycles"]),
            d["module"] + (" (backward)" if d["backward"] else ""),
            d["source"] or "–",
            d["operation"] or d["opcode"],
            d["result"] + (f" × {d['times']}" if d["times"] > 1 else ""),
        ]
        for d in reading["most_expensive"]
    ]
    header = ["cycles>", "module", "source", "operation", "result"]
    return Section("Most expensive fusions", header, rows)


def _collectives(reading: Reading) -> Section:
    rows = [
        [
            c["kind"],
            thousands(c["times"]),
            thousands(c["group_size"]),
            thousands(c["arrays"]),
            mib(c["bytes"]),
            ", ".join(f"{name} {mib(size)}" for name, size in c["bytes_by_dtype"].items()),
            c["carries"] + ": " + ", ".join(c["modules"]),
        ]
        for c in reading["collectives"]
    ]
    totals = reading["collective_totals"]
    note = (
        f"{totals['instructions']} in the program, {totals['executed']} executed a call; "
        f"{mib(totals['bytes'])} of data, {mib(totals['wire_bytes'])} leave a device in a ring."
    )
    header = ["kind", "times>", "devices>", "arrays>", "bytes>", "types (one execution)", "carries"]
    return Section("Collectives", header, rows, note)


def _counts(reading: Reading) -> Section:
    rows = [[name, thousands(count)] for name, count in reading["counts"].items()]
    rows.append(["aliased outputs", thousands(reading["aliased_outputs"])])
    return Section("Instructions of the schedule", ["kind", "count>"], rows)


def _seconds(reading: Reading) -> Section:
    rows = [[name, duration(value)] for name, value in reading["seconds"].items()]
    rows.append(["programs compiled", thousands(reading["programs"])])
    return Section("Compilation on this machine", ["", "value>"], rows)
