"""Traces of chosen steps and their summary."""

import gzip
import json

import jax
import jax.numpy as jnp
import pytest

from vtadl_jax.config import ProfileOptions
from vtadl_jax.runtime import profiling


def settings(**fields):
    return ProfileOptions(**{"first_step": 1, "num_steps": 2, "memory": True, **fields})


def event(name, ts, dur, thread="t"):
    return {"name": name, "ts": float(ts), "dur": float(dur), "thread": thread}


def test_time_within_a_call_belongs_to_what_it_calls():
    events = [
        event("outer", 0, 100),
        event("inner", 10, 30),
        event("deep", 20, 10),
        event("inner", 50, 20),
        event("outer", 200, 10),
        event("outer", 0, 1000, "other"),
        event("$python", 0, 9e6),
    ]
    lines = profiling.summary(events, 2)
    own = {line.split("per step")[1].strip(): float(line.split()[0]) for line in lines}
    # Microseconds over two steps. outer: 100 - 30 - 20 + 10 + 1000; inner: 20 + 20; deep: 10.
    assert own == pytest.approx({"outer": 0.53, "inner": 0.02, "deep": 0.005}, abs=0.006)
    assert next(iter(own)) == "outer"  # and the record of Python's calls is left out


def test_events_are_read_with_their_threads(tmp_path):
    path = tmp_path / "t.json.gz"
    raw = [
        {"ph": "M", "name": "thread_name", "pid": 1, "tid": 2, "args": {"name": "worker"}},
        {"ph": "X", "name": "add", "pid": 1, "tid": 2, "ts": 5, "dur": 3},
        {"ph": "C", "name": "counter", "pid": 1, "ts": 5},
    ]
    with gzip.open(path, "wt", encoding="utf-8") as f:
        json.dump({"traceEvents": raw}, f)
    assert profiling.read_events(path) == [event("add", 5, 3, "worker")]


@pytest.mark.slow
def test_the_chosen_steps_are_traced(tmp_path, capsys):
    step = jax.jit(lambda x: jnp.sin(x @ x))
    profiler = profiling.Profiler(tmp_path, settings())
    x = jnp.ones((64, 64))
    for number in range(5):
        with profiler.step(number):
            x = step(x)
        profiler.after(x)
    profiler.close()
    told = capsys.readouterr().err
    assert "traced 2 steps into" in told
    assert "ms per step" in told
    (trace,) = (tmp_path / profiling.FOLDER).rglob("*perfetto_trace.json.gz")
    names = {e["name"] for e in profiling.read_events(trace)}
    assert profiling.STEP in names
    assert (tmp_path / profiling.FOLDER / profiling.MEMORY).stat().st_size > 0


def test_no_trace_writes_nothing(tmp_path):
    profiler = profiling.Profiler(tmp_path, settings(num_steps=0))
    with profiler.step(0):
        pass
    profiler.after(None)
    profiler.close()
    assert not list(tmp_path.iterdir())
