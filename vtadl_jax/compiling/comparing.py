"""Compares two readings: the effect of a change on the compiled program."""

from collections.abc import Callable

from vtadl_jax.compiling import figures as figures_lib
from vtadl_jax.compiling.figures import change
from vtadl_jax.compiling.reading import Reading
from vtadl_jax.compiling.sections import Section
from vtadl_jax.compiling.wording import duration, mib, percent, si, thousands
from vtadl_jax.config import Config
from vtadl_jax.options import fields_of

_HEADER = ["", "before>", "after>", "change>"]
_NOT_COMPILED = frozenset(name for name, _, role in fields_of(Config()) if not role.compiled)


def comparison(before: Reading, after: Reading) -> list[Section]:
    """Returns tables of the differences of two readings; both must fit in memory."""
    found = [_settings(before, after), _totals(before, after)]
    if before["modules"] and after["modules"]:
        found.append(_modules(before, after))
    found.append(_fusions(before, after))
    return [*found, _collectives(before, after), _counts(before, after)]


def _settings(before: Reading, after: Reading) -> Section:
    a, b = before["program"], after["program"]
    rows = []
    for name in (
        "config",
        "step",
        "topology",
        "num_devices",
        "images_per_device",
        "implementations",
        "xla",
    ):
        if a.get(name) != b.get(name):
            rows.append([name, str(a.get(name)), str(b.get(name))])
    fields = sorted(a["fields"].keys() | b["fields"].keys())
    for name in fields:
        left, right = a["fields"].get(name), b["fields"].get(name)
        if left != right and _matters(name, b["step"]):
            rows.append([f"config.{name}", str(left), str(right)])
    for name in sorted(a["versions"].keys() | b["versions"].keys()):
        left, right = a["versions"].get(name), b["versions"].get(name)
        if left != right:
            rows.append([name, str(left), str(right)])
    note = "" if rows else "The same settings and versions: the code has changed, or nothing."
    return Section("What differs", ["setting", "before", "after"], rows, note)


def _matters(name: str, step: str) -> bool:
    """Returns whether a step's program depends on a config field; scoring reads those of eval."""
    return name not in _NOT_COMPILED or (step != "train" and name.startswith("eval."))


def _row(name: str, a: float | None, b: float | None, write: Callable[[float | None], str]):
    return [name, write(a), write(b), percent(change(a, b), signed=True)]


def _totals(before: Reading, after: Reading) -> Section:
    fa, fb = figures_lib.figures(before), figures_lib.figures(after)
    rows = [
        _row("estimated cycles", before["cycles"]["total"], after["cycles"]["total"], thousands),
        _row("a call", fa.call, fb.call, duration),
        _row("images a second", fa.images_per_second, fb.images_per_second, si),
        _row("floating-point operations", fa.flops, fb.flops, si),
        _row("bytes accessed", fa.bytes, fb.bytes, mib),
        _row("roofline time", fa.roofline, fb.roofline, duration),
    ]
    for name in ("arguments", "temporary", "program", "needed"):
        a, b = before["memory"].get(name), after["memory"].get(name)
        rows.append(_row(f"memory: {name}", a, b, mib))
    return Section("One device, one call", _HEADER, rows)


def _modules(before: Reading, after: Reading) -> Section:
    def both(reading: Reading, name: str) -> int:
        return sum(reading["modules"].get(name, {}).values())

    names = list(before["modules"].keys() | after["modules"].keys())
    names.sort(key=lambda n: (-abs(both(after, n) - both(before, n)), n))
    rows = [
        [
            name,
            thousands(both(before, name)),
            thousands(both(after, name)),
            f"{both(after, name) - both(before, name):+,}",
        ]
        for name in names
    ]
    header = ["module", "before>", "after>", "difference>"]
    return Section("Cycles by module", header, rows, "Largest difference first.")


MOST_FUSIONS = 20
_COUNTED = frozenset(("fusion", "convolution", "dot", "custom-call"))


def _fusions(before: Reading, after: Reading) -> Section:
    """Compares instructions by module, direction, source line and operation: names are renumbered.

    Cycles where both compilers estimate them, else executions of fusions and products.
    """
    timed = bool(before["modules"] and after["modules"])
    a, b = (_by_origin(reading, timed) for reading in (before, after))
    names = [name for name in a.keys() | b.keys() if a.get(name, 0) != b.get(name, 0)]
    names.sort(key=lambda n: (-abs(b.get(n, 0) - a.get(n, 0)), n))
    rows = [
        [
            module + (" (backward)" if backward else ""),
            source or "–",
            operation or "–",
            thousands(a.get((module, backward, source, operation), 0)),
            thousands(b.get((module, backward, source, operation), 0)),
            f"{b.get(key, 0) - a.get(key, 0):+,}",
        ]
        for key in names[:MOST_FUSIONS]
        for module, backward, source, operation in [key]
    ]
    what = "Cycles" if timed else "Executions of fusions, products and calls"
    note = f"{what}, largest difference first: {len(rows)} of {len(names)} that differ."
    header = ["module", "source", "operation", "before>", "after>", "difference>"]
    return Section("Fusions", header, rows, note)


def _by_origin(reading: Reading, timed: bool) -> dict[tuple[str, bool, str, str], int]:
    found: dict[tuple[str, bool, str, str], int] = {}
    for one in reading["instructions"]:
        weight = (one["cycles"] or 0) if timed else int(one["opcode"] in _COUNTED)
        key = (one["module"], one["backward"], one["source"], one["operation"])
        if weight:
            found[key] = found.get(key, 0) + weight * one["times"]
    return found


def _collectives(before: Reading, after: Reading) -> Section:
    a, b = before["collective_totals"], after["collective_totals"]
    rows = [_row(name, a[name], b[name], thousands) for name in ("instructions", "executed")]
    rows += [
        _row(name.replace("_", " "), a[name], b[name], mib) for name in ("bytes", "wire_bytes")
    ]
    left, right = before["between_slices"]["wire_bytes"], after["between_slices"]["wire_bytes"]
    if left or right:
        rows.append(_row("between slices", left, right, mib))
    kinds = sorted({c["kind"] for c in (*before["collectives"], *after["collectives"])})
    for kind in kinds:
        left, right = (
            sum(c["bytes"] for c in reading["collectives"] if c["kind"] == kind)
            for reading in (before, after)
        )
        rows.append(_row(f"of {kind}", left, right, mib))
    return Section("Collectives", _HEADER, rows)


def _counts(before: Reading, after: Reading) -> Section:
    rows = [
        _row(name, before["counts"].get(name), after["counts"].get(name), thousands)
        for name in after["counts"]
    ]
    return Section("Instructions of the schedule", _HEADER, rows)
