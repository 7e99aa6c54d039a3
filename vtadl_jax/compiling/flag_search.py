"""Searches documented flags of the compiler for a step: a greedy search, by compiling.

First every candidate alone, then the best together, one after another as long as each helps.
Readings are cached by the program and its flags, so an interrupted search continues.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vtadl_jax.compiling import figures as figures_lib
from vtadl_jax.compiling.figures import change
from vtadl_jax.compiling.reading import Reading
from vtadl_jax.compiling.sections import Section
from vtadl_jax.compiling.topology import Target
from vtadl_jax.compiling.wording import duration, mib, percent, thousands
from vtadl_jax.compiling.xla_flags import Candidate, Value, launch_lines, written
from vtadl_jax.errors import UserError

GOALS = ("cycles", "memory")
LEAST = 0.002  # a smaller relative gain is not worth a flag


@dataclasses.dataclass(frozen=True)
class Tried:
    """A set of flags that was compiled. reading: None if the compiler refused it, see `trouble`."""

    flags: Mapping[str, Value]
    what: str
    reading: Reading | None = None
    trouble: str = ""


@dataclasses.dataclass(frozen=True)
class Found:
    """Result of a search. tried: in order, the flags given at the start first; best: of them."""

    tried: tuple[Tried, ...]
    best: Tried


def cost(reading: Reading | None, goal: str) -> float | None:
    """Returns what the search lowers, None if the program does not fit or the compiler tells none.

    cycles: time of a call in seconds, by estimated cycles and bytes on links; memory: bytes needed.
    """
    if reading is None or not reading["fits"]:
        return None
    if goal == "memory":
        return reading["memory"].get("needed")
    return figures_lib.figures(reading).call


def search(
    read: Callable[[Mapping[str, Value]], Reading],
    base: Mapping[str, Value],
    candidates: Sequence[Candidate],
    goal: str,
    progress: Callable[[str], None],
) -> Found:
    """Returns the flags with the lowest cost and all that were tried.

    read: flags → reading, UserError where the compiler refuses them. base: flags that stay set.
    Raises UserError if the compiler does not tell the cost of the program without candidates.
    """
    tried: list[Tried] = []

    def attempt(flags: Mapping[str, Value], what: str) -> tuple[Tried, float | None]:
        progress(f"{len(tried) + 1}: {written(flags)}")
        try:
            one = Tried(flags, what, read(flags))
        except UserError as e:
            if not tried:
                raise
            one = Tried(flags, what, trouble=str(e))
        tried.append(one)
        return one, cost(one.reading, goal)

    best, lowest = attempt(dict(base), "at the start")
    if lowest is None:
        raise UserError(_no_cost(best, goal))
    progress(f"  {_told(best)}")
    helpful: list[tuple[float, Candidate]] = []
    for candidate in candidates:
        one, value = attempt({**base, **candidate.flags}, candidate.what)
        progress(f"  {_told(one)}")
        if value is not None and value < lowest * (1 - LEAST):
            helpful.append((value, candidate))
    helpful.sort(key=lambda pair: pair[0])
    chosen: dict[str, Value] = dict(base)
    for number, (value, candidate) in enumerate(helpful):
        if candidate.flags.keys() & (chosen.keys() - base.keys()):
            continue  # another value of the same flag is in already
        flags = {**chosen, **candidate.flags}
        if number == 0:
            one = next(t for t in tried if t.flags == flags)
        else:
            one, found = attempt(flags, f"with {candidate.text}")
            progress(f"  {_told(one)}")
            if found is None or found >= lowest * (1 - LEAST):
                continue
            value = found
        best, lowest, chosen = one, value, flags
    return Found(tuple(tried), best)


def _no_cost(tried: Tried, goal: str) -> str:
    reading = tried.reading
    if reading is not None and not reading["fits"]:
        return (
            f"this step needs {mib(reading['memory']['needed'])} and does not fit: use fewer images"
        )
    other = "memory" if goal == "cycles" else "cycles"
    return f"--search_flags {goal}: this compiler does not tell it: use --search_flags {other}"


def _told(tried: Tried) -> str:
    if tried.reading is None:
        return f"refused: {tried.trouble}"
    if not tried.reading["fits"]:
        return "does not fit"
    needed = mib(tried.reading["memory"].get("needed"))
    return f"{thousands(tried.reading['cycles']['total'])} cycles, {needed}"


HEADER = (
    "flags",
    "what they do",
    "cycles>",
    "a call>",
    "change>",
    "memory needed>",
    "change>",
    "collectives>",
    "sent by a device>",
)


def sections(
    found: Found, target: Target, goal: str, unknown: Sequence[Candidate]
) -> list[Section]:
    """Returns the table of all tried flags and the lines that set the best ones for a run.

    unknown: candidates that the compiler does not know.
    """
    first = found.tried[0].reading
    assert first is not None
    rows = [_row(tried, first, tried is found.best) for tried in found.tried]
    notes = [f"{len(found.tried)} sets of flags. The best by {goal} is marked *."]
    notes += [f"Refused: {t.trouble}." for t in found.tried if t.reading is None]
    if unknown:
        notes.append(f"Not known to this compiler: {', '.join(c.text for c in unknown)}.")
    tables = [Section("Flags", HEADER, rows, " ".join(notes))]
    lines = launch_lines(target, found.best.flags)
    told = lines or f"No flag lowers {goal} by more than {100 * LEAST:g} %: nothing to set."
    return [*tables, Section("In the shell, or the launch script, of a run", [""], [], told)]


def _row(tried: Tried, first: Reading, best: bool) -> list[str]:
    name = written(tried.flags) + " *" * best
    if tried.reading is None or not tried.reading["fits"]:
        trouble = "refused" if tried.reading is None else "does not fit"
        return [name, tried.what, trouble, *"–" * (len(HEADER) - 3)]
    r, totals = tried.reading, tried.reading["collective_totals"]
    call, before = figures_lib.figures(r).call, figures_lib.figures(first).call
    needed = r["memory"].get("needed")
    return [
        name,
        tried.what,
        thousands(r["cycles"]["total"]),
        duration(call),
        percent(change(before, call), signed=True),
        mib(needed),
        percent(change(first["memory"].get("needed"), needed), signed=True),
        thousands(totals["executed"]),
        mib(totals["wire_bytes"]) if totals["executed"] else "–",
    ]


def as_data(found: Found) -> list[dict[str, Any]]:
    """Returns what was tried for JSON: readings without their lists of instructions."""
    return [
        {
            "flags": dict(tried.flags),
            "what": tried.what,
            "trouble": tried.trouble,
            "best": tried is found.best,
            "reading": None
            if tried.reading is None
            else {k: v for k, v in tried.reading.items() if k != "instructions"},
        }
        for tried in found.tried
    ]
