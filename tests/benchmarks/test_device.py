"""The figures of a device: what is measured, left out and reported as trouble."""

import json
import subprocess
import sys

import pytest

from tests.cli import ROOT, environment
from vtadl_jax.benchmarks import device
from vtadl_jax.errors import UserError

CONFIG = """from tests.factory import tiny_config
from vtadl_jax.options import to_config_dict


def get_config():
    return to_config_dict(tiny_config(image_size=(32, 32), batch_size=2))
"""


def test_configs_without_time_are_named(monkeypatch):
    monkeypatch.setattr(device, "_measure_one", lambda words, until: {"step": {}})
    found = device.measure(["a", "b"], 60)
    assert [result["config"] for result in found["results"]] == ["a", "b"]
    assert found["left_out"] == []
    now = iter([0.0, 1.0, 45.0, 50.0])
    monkeypatch.setattr(device.time, "monotonic", lambda: next(now))
    found = device.measure(["a", "b"], 60)
    assert [result["config"] for result in found["results"]] == ["a"]
    assert found["left_out"] == ["b"]
    assert found["seconds"] == 50.0


def test_a_config_that_fails_keeps_its_last_line(monkeypatch):
    def run(module, arguments, until):
        raise UserError(f"vtadl_jax.{module}: no such file")

    monkeypatch.setattr(device, "_run", run)
    found = device.measure(["nowhere.py"], 60)
    assert found["results"] == [
        {"config": "nowhere.py", "trouble": "vtadl_jax.benchmarks.step: no such file"}
    ]


def test_a_command_that_fails_or_lasts_too_long_is_trouble(monkeypatch):
    with pytest.raises(UserError, match=r"vtadl_jax.compile: no config"):
        device._run("compile", [], device.time.monotonic() + 60)

    def last(*_, timeout, **__):
        raise subprocess.TimeoutExpired("x", timeout)

    monkeypatch.setattr(device.subprocess, "run", last)
    with pytest.raises(UserError, match="not done in the time that was left"):
        device._run("compile", [], device.time.monotonic())


def test_estimates_are_summed_by_module():
    row = {"module": "a", "estimate": 2.0, "measured": 3.0}
    measured = {
        "module": "jit", "devices": 1, "calls": 3, "found": 1.0, "seconds": 9.0,
        "rows": [row, row, {"module": "b", "estimate": None, "measured": 1.0}],
    }  # fmt: skip
    program = {"device_kind": "TPU v5 lite"}
    found = device._beside({"measured": measured, "cycles": {}, "memory": {}, "program": program})
    assert found["modules"] == {
        "a": {"estimate": 4.0, "measured": 6.0},
        "b": {"estimate": None, "measured": 1.0},
    }


@pytest.mark.slow
def test_the_script_writes_one_json(tmp_path):
    (tmp_path / "tiny.py").write_text(CONFIG, encoding="utf-8")
    script, output = ROOT / "launch" / "measure_device.sh", tmp_path / "device.json"
    done = subprocess.run(
        [script, output, "--measure", f"{tmp_path / 'tiny.py'} --config.seed=1"],
        cwd=ROOT,
        env={**environment(), "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text(encoding="utf-8"))
    (result,) = found["results"]
    assert result["step"]["step_seconds"] > 0
    assert result["trace"]["calls"] == 3
    assert 0 < result["trace"]["found"] <= 1  # a share of time, which the load changes
    assert sum(module["measured"] for module in result["modules"].values()) > 0
