"""Records what the compiler did: the values of its flags and the passes that it ran.

XLA writes both into files if it is asked to. The TPU's compiler tells all of its flags and passes,
XLA's compiler for CPUs none: `XLA_FLAGS=--help` prints its flags, but cuts the list.
"""

import contextlib
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_PASS = re.compile(r"^pass_metadata \{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_NAME = re.compile(r'pass_name: "([^"]*)"')
_PIPELINE_START = "pipeline-start"


@contextlib.contextmanager
def recording(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields the options of a compilation that is recorded; fills `found` at the end.

    flags: name → value as text; passes: name → [times it ran, times it changed the program]. Both
    are empty where the compiler tells none.
    """
    with tempfile.TemporaryDirectory(prefix="vtadl_jax_compiler_") as name:
        folder = Path(name)
        yield {"xla_dump_to": name, "xla_dump_module_metadata": True}
        flags: dict[str, str] = {}
        for path in sorted(folder.glob("*.flagfile")):
            flags |= read_flags(path.read_text(encoding="utf-8", errors="replace"))
        passes: dict[str, list[int]] = {}
        for path in sorted(folder.glob("*metadata.textproto")):
            passes |= read_passes(path.read_text(encoding="utf-8", errors="replace"))
        found |= {"flags": flags, "passes": passes}


def read_flags(text: str) -> dict[str, str]:
    """Returns name → value of a file with lines '--name=value'."""
    lines = (line.removeprefix("--").partition("=") for line in text.splitlines())
    return {name: value for name, equals, value in lines if equals}


def read_passes(text: str) -> dict[str, list[int]]:
    """Returns name → [times run, times that it changed the module] of XLA's pass metadata."""
    found: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for block in _PASS.findall(text):
        name = _NAME.search(block)
        if name is None or name.group(1) == _PIPELINE_START:
            continue
        found[name.group(1)][0] += 1
        found[name.group(1)][1] += "module_changed: true" in block
    return dict(found)
