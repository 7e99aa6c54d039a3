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
    ):
        if a[name] != b[name]:
            rows.append([name, str(a[name]), str(b[name])])
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


def _collectives(before: Reading, after: Reading) -> Section:
    a, b = before["collective_totals"], after["collective_totals"]
    rows = [_row(name, a[name], b[name], thousands) for name in ("instructions", "executed")]
    rows += [
        _row(name.replace("_", " "), a[name], b[name], mib) for name in ("bytes", "wire_bytes")
    ]
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
