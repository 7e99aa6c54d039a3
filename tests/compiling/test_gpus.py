"""GPUs that are not there: their descriptions, names and, with the CUDA plugin, a program."""

import re

import pytest

from tests.factory import tiny_config
from vtadl_jax.compiling import figures
from vtadl_jax.compiling.gpus import GPUS, has_gpu_compiler
from vtadl_jax.compiling.reading import read_step
from vtadl_jax.compiling.topology import find_target
from vtadl_jax.errors import UserError


def test_descriptions_are_xlas_text():
    text = GPUS["l4"].target_config()
    assert "cuda_compute_capability { major: 8 minor: 9 }" in text
    assert "memory_bandwidth: 300000000000\n" in text
    assert "clock_rate_ghz: 2.04\n" in text
    assert text.count("{") == text.count("}")
    for gpu in GPUS.values():
        assert not re.search(r": \S*e\+", gpu.target_config())  # integers are written out
        assert gpu.chip.ridge > 100


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("h100:9", "a host has 1 to 8 GPUs"),
        ("h100:0", "a host has 1 to 8 GPUs"),
        ("h999:1", "GPUs (h100, b200, l4) and their number, as h100:8"),
        ("h100:2x2", "GPUs (h100, b200, l4) and their number, as h100:8"),
    ],
)
def test_names_that_are_no_gpus_are_refused(name, message):
    with pytest.raises(UserError, match=re.escape(message)):
        find_target(name)


def test_without_the_plugin_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("vtadl_jax.compiling.topology.has_gpu_compiler", lambda: False)
    with pytest.raises(UserError, match=r"pip install 'vtadl_jax\[cuda\]'"):
        find_target("h100:1")


@pytest.mark.slow
@pytest.mark.skipif(not has_gpu_compiler(), reason="needs the plugin of the extra cuda")
def test_a_step_is_compiled_for_two_gpus():
    # Triton's default tiles do not suit the tiny products.
    flags = {"xla_gpu_enable_triton_gemm": False}
    reading = read_step(tiny_config(), "tiny", find_target("h100:2"), "train", 2, xla=flags)
    assert reading["fits"]
    assert reading["program"]["device_kind"] == "NVIDIA H100 80GB HBM3"
    assert reading["cycles"]["total"] > 0
    assert {c["kind"] for c in reading["collectives"]} >= {"all-reduce"}
    assert (figures.figures(reading).call is None) == bool(reading["library_calls"])
