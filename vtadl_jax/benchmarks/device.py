"""Measures train steps on this machine's accelerator beside the compiler's estimates; one JSON.

python -m vtadl_jax.benchmarks.device --json device.json

For each config: the time of a step on random images, a profile of three steps, and the compiler's
estimate of each module beside its measured time (`vtadl_jax.compile --measured`). Each runs in a
process of its own, most important first, until --seconds have passed; what was left out is named.
Exit codes: 0 done, 1 a config failed or was left out, 2 a mistake.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from vtadl_jax.benchmarks.timing import check_json, write_json
from vtadl_jax.errors import UserError
from vtadl_jax.runtime.command import run_command
from vtadl_jax.runtime.console import say
from vtadl_jax.runtime.versions import compiler_versions

# The train steps of docs/compilation.md.
CONFIGS = (
    "configs/mvtec.py --config.dtype=bfloat16 --config.model.vit.remat=True",
    "configs/capsnet.py --config.dtype=bfloat16",
    "configs/pyramid_ae.py --config.dtype=bfloat16",
    "configs/piade.py --config.dtype=bfloat16",
    "configs/mvtec.py",
)
FLAGS = flags.FlagValues()
_JSON = flags.DEFINE_string("json", "", "Also write the figures to this file.", flag_values=FLAGS)
_SECONDS = flags.DEFINE_integer(
    "seconds", 480, "Time for everything.", lower_bound=10, flag_values=FLAGS
)
_CONFIGS = flags.DEFINE_multi_string(
    "measure", [], "A config with its fields, in place of the usual ones.", flag_values=FLAGS
)
LEAST_SECONDS = 30  # a config is not begun with less time left


def measure(configs: Sequence[str], seconds: float) -> dict[str, Any]:
    """Returns the figures of all configs that could be measured in time, and names the others."""
    until = time.monotonic() + seconds
    results, left_out = [], []
    for text in configs:
        left = until - time.monotonic()
        if left < min(LEAST_SECONDS, seconds):
            left_out.append(text)
            continue
        say(f"measuring {text}, {left:.0f} s left")
        results.append({"config": text, **_measure_one(text.split(), until)})
    spent = seconds - (until - time.monotonic())
    return {
        "versions": compiler_versions(),
        "seconds": round(spent, 1),
        "results": results,
        "left_out": left_out,
    }


def _measure_one(words: Sequence[str], until: float) -> dict[str, Any]:
    """Returns the step's times and the table by module, or 'trouble' with what there is."""
    found: dict[str, Any] = {}
    config = [f"--config={words[0]}", *words[1:]]
    with tempfile.TemporaryDirectory(prefix="vtadl_jax_device_") as name:
        folder = Path(name)
        times = folder / "step.json"
        trace = folder / "trace"
        try:
            _run("benchmarks.step", [*config, f"--json={times}", f"--trace={trace}"], until)
            found["step"] = json.loads(times.read_text(encoding="utf-8"))
            output = folder / "compiled"
            _run("compile", [*config, f"--measured={trace}", f"--output={output}"], until)
            (report,) = output.glob("*.json")
            found |= _beside(json.loads(report.read_text(encoding="utf-8")))
        except UserError as e:
            found["trouble"] = str(e)
            say(f"  {e}")
    return found


def _beside(reading: dict[str, Any]) -> dict[str, Any]:
    """Returns estimates and measured times of a reading, by module."""
    measured = reading["measured"]
    modules: dict[str, dict[str, Any]] = {}
    for row in measured["rows"]:
        module = modules.setdefault(row["module"], {"estimate": None, "measured": 0.0})
        module["measured"] += row["measured"]
        if row["estimate"] is not None:
            module["estimate"] = (module["estimate"] or 0.0) + row["estimate"]
    kept = ("module", "devices", "calls", "found", "seconds")
    return {
        "trace": {name: measured[name] for name in kept},
        "modules": modules,
        "cycles": reading["cycles"],
        "memory": reading["memory"],
        "device_kind": reading["program"]["device_kind"],
    }


def _run(module: str, arguments: Sequence[str], until: float) -> None:
    """Runs a command of this package. Raises UserError with its last line if it fails."""
    left = max(until - time.monotonic(), 1)
    try:
        done = subprocess.run(
            [sys.executable, "-m", f"vtadl_jax.{module}", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=left,
        )
    except subprocess.TimeoutExpired as e:
        raise UserError(f"vtadl_jax.{module}: not done in the time that was left") from e
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        told = lines[-1] if lines else f"exit code {done.returncode}"
        raise UserError(f"vtadl_jax.{module}: {told.removeprefix('error: ')}")


def run() -> int:
    """Measures what the flags ask for; prints the figures and writes them."""
    check_json(_JSON.value)
    figures = measure(_CONFIGS.value or CONFIGS, _SECONDS.value)
    print(write_json(figures, _JSON.value))
    for text in figures["left_out"]:
        say(f"left out, no time: {text}")
    failed = any("trouble" in result for result in figures["results"])
    return int(failed or bool(figures["left_out"]))


def main(argv: list[str]) -> int:
    return run_command(FLAGS, argv, __doc__, run, "nothing was written")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
