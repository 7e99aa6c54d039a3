"""Compiles a step with another installed environment, in a process of its own.

The other interpreter runs this package's code, so that both programs come from the same sources;
JAX, XLA and the TPU's compiler are those of its environment.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from vtadl_jax.compiling.reading import Reading
from vtadl_jax.compiling.sections import Section
from vtadl_jax.compiling.wording import thousands
from vtadl_jax.errors import UserError
from vtadl_jax.runtime.versions import package_root

_ASK = """
import importlib.metadata, json, sys
found = {"python": sys.version.split()[0]}
for name in ("jax", "jaxlib", "libtpu", "flax"):
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""
_LIBTPU = "TPU_LIBRARY_PATH"
MOST = 24  # names of new flags that are listed


def versions_of(python: Path) -> dict[str, str]:
    """Returns name → version of an interpreter's python, jax, jaxlib, libtpu and flax.

    Raises UserError for a path that is no interpreter, and for one without JAX.
    """
    try:
        done = subprocess.run(
            [python, "-c", _ASK], capture_output=True, text=True, check=True, timeout=120
        )
        found = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as e:
        raise UserError(
            f"--with_python {python} does not run as a Python interpreter: give the path of "
            f"bin/python in another environment"
        ) from e
    missing = [name for name in ("jax", "jaxlib", "flax") if name not in found]
    if missing:
        raise UserError(
            f"--with_python {python} has no {' and no '.join(missing)}: install this package's "
            f"dependencies there, as {python} -m pip install 'vtadl_jax[tpu]' jax==VERSION"
        )
    return found


def name_of(found: Mapping[str, str]) -> str:
    """Returns 'jax-0.12.0.1-libtpu-0.0.50.1' of an environment's versions, for names of files."""
    return "-".join(f"{name}-{found[name]}" for name in ("jax", "libtpu") if name in found)


def older_first(other: Reading, own: Reading) -> tuple[Reading, Reading]:
    """Returns the readings with the older JAX and compiler first; `other` if they are the same."""

    def key(reading: Reading) -> list[list[int]]:
        found = reading["program"]["versions"]
        texts = [found.get(name, "0") for name in ("jax", "libtpu")]
        return [[int(part) for part in re.findall(r"\d+", text)] for text in texts]

    return (own, other) if key(own) < key(other) else (other, own)


def compile_with(python: Path, arguments: Sequence[str], report: Path) -> Reading:
    """Runs this command with another interpreter and returns the reading that it writes.

    arguments: of `vtadl_jax.compile`; report: the JSON of its report. Raises UserError with the
    last line of the other process if it fails.
    """
    done = subprocess.run(
        [python, "-m", "vtadl_jax.compile", *arguments],
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in (0, 1) or not report.is_file():
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        told = lines[-1].removeprefix("error: ") if lines else f"exit code {done.returncode}"
        raise UserError(f"--with_python {python} can't compile this step: {told}")
    reading = json.loads(report.read_text(encoding="utf-8"))
    return {name: value for name, value in reading.items() if name != "schema"}


def _environment() -> dict[str, str]:
    """Returns the variables of the other process, which finds this code, but not this libtpu."""
    path = [str(package_root().parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    found = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    # JAX sets it to the compiler of this environment when it is imported.
    if Path(found.get(_LIBTPU, "")).is_relative_to(sys.prefix):
        del found[_LIBTPU]
    return found


def sections(before: Reading, after: Reading) -> list[Section]:
    """Returns tables of the compiler's flags and passes that differ; [] without records of both."""
    a, b = before.get("compiler"), after.get("compiler")
    if not a or not b:
        return []
    return [_flags(a["flags"], b["flags"]), _passes(a["passes"], b["passes"])]


def _flags(a: dict[str, str], b: dict[str, str]) -> Section:
    gone, new = sorted(a.keys() - b.keys()), sorted(b.keys() - a.keys())
    changed = sorted(name for name in a.keys() & b.keys() if a[name] != b[name])
    rows = [[name, "gone", a[name], "–"] for name in gone]
    rows += [[name, "changed", a[name] or "''", b[name] or "''"] for name in changed]
    if not a or not b:
        return Section("Flags of the compiler", _HEADER, [], "The compiler tells no flags.")
    names = ", ".join(new[:MOST])
    more = f" and {len(new) - MOST} more" if len(new) > MOST else ""
    told = f": {names}{more}" if new else ""
    note = (
        f"{len(a)} flags before, {len(b)} after: {len(gone)} gone, {len(changed)} with another "
        f"value, {len(new)} new{told}."
    )
    return Section("Flags of the compiler", _HEADER, rows, note)


_HEADER = ["flag", "", "before", "after"]


def _passes(a: dict[str, list[int]], b: dict[str, list[int]]) -> Section:
    rows = []
    for name in sorted(a.keys() | b.keys()):
        left, right = a.get(name), b.get(name)
        if left is None or right is None:
            kind = "new" if left is None else "gone"
        elif bool(left[1]) != bool(right[1]):
            kind = "changes the program" if right[1] else "no longer changes the program"
        else:
            continue
        rows.append([name, kind, *(_ran(side) for side in (left, right))])
    note = (
        f"{len(a)} passes before, {len(b)} after; those that are gone, new, or changed the program "
        f"with one compiler only."
        if a and b
        else "This compiler tells no passes."
    )
    return Section("Passes of the compiler", ["pass", "", "before", "after"], rows, note)


def _ran(passes: list[int] | None) -> str:
    if passes is None:
        return "–"
    return f"ran {thousands(passes[0])}×, changed the program {thousands(passes[1])}×"
