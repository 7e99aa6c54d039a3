"""The whole command on drawn images: killed, resumed, measured again."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.cli import ROOT
from tests.factory import tiny_dataset

METHODS = ("position_gaussian", "unet")


def start(tmp_path, *more):
    command = [
        *(sys.executable, "-m", "vtadl_jax.comparison", f"--data={tmp_path / 'parts'}"),
        *(f"--methods={','.join(METHODS)}", "--categories=gear", "--folds=1", "--minutes=0.05"),
        *(f"--workdir={tmp_path / 'cells'}", *more),
    ]
    environment = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_comparison_is_killed_and_resumed(tmp_path):
    tiny_dataset(tmp_path / "parts")
    first, second = (tmp_path / "cells" / "gear" / name for name in METHODS)
    process = start(tmp_path)
    for _ in range(1200):  # until the second cell trains
        if (second / "fold-0").is_dir() or process.poll() is not None:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (first / "cell.json").is_file()
    assert not (second / "cell.json").is_file()
    before = (first / "cell.json").stat().st_mtime_ns
    budget = (second / "budget.json").read_text()

    process = start(tmp_path)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert "gear, position_gaussian (1 of 2): complete" in errors
    assert (first / "cell.json").stat().st_mtime_ns == before
    assert (second / "budget.json").read_text() == budget
    stored = json.loads((tmp_path / "cells" / "comparison.json").read_text())["cells"]
    assert [cell["status"] for cell in stored] == ["complete", "complete"]
    fitted, trained = stored
    assert fitted["stages"] == ["fit", "calibrate"]
    assert trained["training"]["steps"] == json.loads(budget)["steps"]
    assert trained["parameters"]["trained"] > 0
    assert trained["memory"]["train_step"] > trained["memory"]["by_device"]["cpu"]["forward"] > 0
    assert trained["latency"]["cpu float32"]["seconds"] > 0
    images = json.loads((second / "fold-0" / "images.json").read_text())
    assert images, "the list of the fold's files"

    process = start(tmp_path, "--latency_only")
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    again = json.loads((second / "cell.json").read_text())
    assert again["metrics"] == trained["metrics"]
    assert again["latency"]["cpu float32"] != trained["latency"]["cpu float32"]
