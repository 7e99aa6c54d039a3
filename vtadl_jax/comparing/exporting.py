"""The size of a run as an ONNX file, where `python -m vtadl_jax.export` writes one."""

import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SECONDS = 600


def onnx_size(workdir: Path) -> dict[str, Any]:
    """Exports a run into a temporary folder; returns its bytes, or None and the reason.

    In a process of its own: an exporter may need packages or memory that this one does not.
    """
    if importlib.util.find_spec("vtadl_jax.export.onnx") is None:
        return {"bytes": None, "reason": "not exported: this version has no ONNX exporter"}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "model.onnx"
        command = ("-m", "vtadl_jax.export", "--format", "onnx", f"--workdir={workdir}")
        try:
            done = subprocess.run(
                [sys.executable, *command, f"--output={out}"],
                capture_output=True,
                text=True,
                check=False,
                timeout=SECONDS,
            )
        except subprocess.TimeoutExpired:
            return {"bytes": None, "reason": f"not exported: took more than {SECONDS} s"}
        sizes = [path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()]
    if done.returncode == 0 and sizes:
        return {"bytes": sum(sizes), "reason": ""}  # weights may be in files beside the graph
    lines = done.stderr.strip().splitlines()
    reason = lines[-1].removeprefix("error: ") if lines else f"exit code {done.returncode}"
    return {"bytes": None, "reason": f"not exported: {reason[:300]}"}
