"""Measured times beside estimates: synthetic traces of a CPU and a TPU, and a real one."""

import gzip
import json

import jax
import jax.numpy as jnp
import pytest

from vtadl_jax.compiling import measured
from vtadl_jax.compiling.reading import read_text
from vtadl_jax.errors import UserError


def event(name, dur, run="1", module="jit_step", device="0", **more):
    args = {"hlo_op": name, "hlo_module": module, "run_id": run, "device_ordinal": device, **more}
    return {"ph": "X", "name": name, "dur": dur, "ts": 0, "pid": 1, "tid": 2, "args": args}


def write(path, events):
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt") as f:
        json.dump({"traceEvents": events}, f)
    return path


# Six iterations of fusion.1 in each of two calls, and a short program beside it.
STEPS = [event("fusion.1", 2.0, run) for run in "12" for _ in range(6)]
OTHERS = [event("copy.1", 3.0, run) for run in "12"] + [event("while.3", 12.0, run) for run in "12"]
SHORT = [event("add", 1.0, "9", "jit_other")]


def test_a_trace_is_read_by_module_and_call(tmp_path):
    path = write(tmp_path / "plugins" / "x.trace.json.gz", STEPS + OTHERS + SHORT)
    assert measured.find_trace(tmp_path) == path
    found = measured.read_trace(path)
    assert (found["module"], found["calls"], found["devices"]) == ("jit_step", 2, 1)
    assert found["operations"]["fusion.1"] == [pytest.approx(24e-6), 12]


def test_estimates_and_measured_times_are_of_one_call(tmp_path, reading):
    trace = measured.read_trace(write(tmp_path / "x.trace.json.gz", STEPS + OTHERS))
    found = measured.beside(reading, trace)
    assert found["found"] == 1.0  # the loop's own event counts its body's again, and is left out
    fusion, copied = found["rows"]
    assert fusion["measured"] == pytest.approx(12e-6)
    assert fusion["estimate"] == pytest.approx(6000 / 1.5e9)
    assert copied["measured"] == pytest.approx(3e-6)
    modules, instructions = measured.sections(found)
    assert modules.rows[0] == ["encoder/blocks/qkv", "1", "4 µs", "12 µs", "3.00", "80.0 %"]
    assert modules.rows[-1][0] == "all"
    assert "2 calls of jit_step on 1 device(s)" in modules.note
    assert instructions.rows[0][0] == "fusion.1"


def test_without_estimates_times_and_shares_stay(tmp_path, reading):
    trace = measured.read_trace(write(tmp_path / "x.trace.json.gz", STEPS + OTHERS))
    for one in reading["instructions"]:
        one["cycles"] = None
    modules, _ = measured.sections(measured.beside(reading, trace))
    assert modules.rows[0][2:] == ["–", "12 µs", "–", "80.0 %"]
    assert "estimates no cycles" in modules.note


def test_a_tpus_instructions_are_those_of_its_line(tmp_path):
    names = [
        {"ph": "M", "name": "thread_name", "pid": 3, "tid": 4, "args": {"name": "XLA Ops"}},
        {"ph": "M", "name": "thread_name", "pid": 3, "tid": 5, "args": {"name": "Steps"}},
    ]
    own = {"ph": "X", "name": "%fusion.1", "dur": 2.0, "pid": 3, "tid": 4, "args": {"run_id": 7}}
    step = {"ph": "X", "name": "7", "dur": 9.0, "pid": 3, "tid": 5}
    found = measured.read_trace(write(tmp_path / "x.trace.json.gz", [*names, own, step]))
    assert found["operations"] == {"fusion.1": [pytest.approx(2e-6), 1]}


def test_a_trace_of_another_program_is_refused(tmp_path, reading):
    events = [*STEPS[:1], event("other.5", 50.0)]
    trace = measured.read_trace(write(tmp_path / "x.trace.json.gz", events))
    with pytest.raises(UserError, match=r"96.2 % of the time in x.trace.json.gz is not of this"):
        measured.beside(reading, trace)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no gzip", "is no trace of jax.profiler"),
        (gzip.compress(b"{}"), "is no trace of jax.profiler"),
        (gzip.compress(b"[1]"), "is no trace of jax.profiler"),
        (gzip.compress(b'{"traceEvents": []}'), "has no instruction of a device"),
    ],
    ids=["no gzip", "no events", "a list", "none"],  # gzip writes the time
)
def test_files_that_are_no_traces_are_refused(tmp_path, content, message):
    path = tmp_path / "x.trace.json.gz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        measured.read_trace(path)


def test_a_folder_without_a_trace_names_the_remedy(tmp_path):
    with pytest.raises(UserError, match=r"--config.profile.num_steps=3"):
        measured.find_trace(tmp_path)


def test_a_trace_of_this_machine_names_the_programs_instructions(tmp_path, reading):
    @jax.jit
    def step(x):
        return jnp.tanh(x @ x).sum(0) + jnp.exp(x).mean()

    x = jax.device_put(jnp.ones((256, 256)), jax.devices()[0])
    compiled = step.lower(x).compile()
    jax.block_until_ready(step(x))
    with jax.profiler.trace(str(tmp_path)):
        for _ in range(2):
            jax.block_until_ready(step(x))
    trace = measured.read_trace(measured.find_trace(tmp_path))
    assert (trace["module"], trace["calls"], trace["devices"]) == ("jit_step", 2, 1)
    program = {**reading["program"], "chip": None}
    found = measured.beside({"program": program, **read_text(compiled.as_text(), 1)}, trace)
    assert 0 < found["found"] <= 1  # a share of time, which the load changes
    assert any(row["opcode"] in ("dot", "fusion", "custom-call") for row in found["rows"])
