"""Another environment's compiler: its interpreter, its flags and passes, and what differs."""

import json
import stat
import sys
from pathlib import Path

import pytest

from vtadl_jax.compiling import compiler_record, versions
from vtadl_jax.errors import UserError

PASSES = """pass_metadata {
  pass_id: 1
  pass_name: "pipeline-start"
  pipeline_name: "first"
}
pass_metadata {
  pass_id: 2
  pass_name: "dce"
  pipeline_name: "first"
  module_changed: true
}
pass_metadata {
  pass_id: 3
  pass_name: "dce"
  pipeline_name: "second"
}
pass_metadata {
  pass_id: 4
  pass_name: "cse"
  pipeline_name: "second"
}
"""


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_passes_are_counted_by_name():
    assert compiler_record.read_passes(PASSES) == {"dce": [2, 1], "cse": [1, 0]}
    assert compiler_record.read_passes("nothing") == {}


def test_flags_are_read_from_lines():
    text = "--xla_a=true\n--xla_b=\n--xla_c=x=y\n\nno flag\n"
    assert compiler_record.read_flags(text) == {"xla_a": "true", "xla_b": "", "xla_c": "x=y"}


def test_a_recording_reads_what_the_compiler_wrote():
    found = {}
    with compiler_record.recording(found) as options:
        folder = Path(options["xla_dump_to"])
        (folder / "module_0000.flagfile").write_text("--xla_a=1\n")
        (folder / "module_0000.metadata.textproto").write_text(PASSES)
    assert found == {"flags": {"xla_a": "1"}, "passes": {"dce": [2, 1], "cse": [1, 0]}}


def recorded(flags, passes):
    return {"compiler": {"flags": flags, "passes": passes}}


def test_flags_and_passes_that_are_gone_are_named():
    before = recorded({"a": "1", "b": "2", "c": "3"}, {"dce": [2, 1], "cse": [1, 0], "x": [1, 1]})
    after = recorded({"b": "2", "c": "4", "d": ""}, {"dce": [2, 0], "cse": [3, 0], "y": [1, 0]})
    flags, passes = versions.sections(before, after)
    assert flags.rows == [["a", "gone", "1", "–"], ["c", "changed", "3", "4"]]
    assert "1 gone, 1 with another value, 1 new: d" in flags.note
    assert [row[:2] for row in passes.rows] == [
        ["dce", "no longer changes the program"],
        ["x", "gone"],
        ["y", "new"],
    ]
    assert passes.rows[0][2] == "ran 2×, changed the program 1×"
    assert versions.sections({}, after) == []


def test_a_compiler_that_tells_nothing_is_said_to():
    flags, passes = versions.sections(recorded({}, {}), recorded({}, {}))
    assert flags.note == "The compiler tells no flags."
    assert passes.note == "This compiler tells no passes."


def test_an_interpreter_tells_its_versions():
    found = versions.versions_of(sys.executable)
    assert {"python", "jax", "jaxlib", "flax"} <= found.keys()


def test_a_path_that_is_no_interpreter_is_rejected(tmp_path):
    for python in (tmp_path / "none", script(tmp_path / "other", "echo hello")):
        with pytest.raises(UserError, match="does not run as a Python interpreter"):
            versions.versions_of(python)


def test_an_interpreter_without_jax_names_what_to_install(tmp_path):
    python = script(tmp_path / "python", """echo '{"python": "3.12.1", "flax": "1"}'""")
    with pytest.raises(UserError, match="has no jax and no jaxlib: install"):
        versions.versions_of(python)


def test_the_other_process_gives_a_reading_or_its_last_line(tmp_path):
    report = tmp_path / "r.json"
    written = json.dumps({"schema": 4, "fits": True})
    python = script(tmp_path / "python", f"echo '{written}' > {report}")
    assert versions.compile_with(python, ["--x"], report) == {"fits": True}
    report.unlink()
    failing = script(
        tmp_path / "failing", "echo noise >&2; echo 'error: no such field' >&2; exit 2"
    )
    with pytest.raises(UserError, match=r"can't compile this step: no such field$"):
        versions.compile_with(failing, [], report)


def test_the_other_process_has_its_own_compiler(tmp_path, monkeypatch):
    report = tmp_path / "r.json"
    python = script(
        tmp_path / "python", f"""echo "{{\\"libtpu\\": \\"$TPU_LIBRARY_PATH\\"}}" > {report}"""
    )
    monkeypatch.setenv("TPU_LIBRARY_PATH", f"{sys.prefix}/lib/libtpu.so")
    assert versions.compile_with(python, [], report) == {"libtpu": ""}
    monkeypatch.setenv("TPU_LIBRARY_PATH", "/opt/libtpu.so")  # the user's own
    assert versions.compile_with(python, [], report) == {"libtpu": "/opt/libtpu.so"}


def test_the_older_compiler_comes_first():
    def reading(**found):
        return {"program": {"versions": found}}

    old, new = reading(jax="0.9.2", libtpu="0.0.42.1"), reading(jax="0.10.0", libtpu="0.0.42.1")
    assert versions.older_first(old, new) == (old, new)
    assert versions.older_first(new, old) == (old, new)
    newer = reading(jax="0.10.0", libtpu="0.0.50")
    assert versions.older_first(newer, new) == (new, newer)
    same = reading(jax="0.10.0", libtpu="0.0.42.1")
    assert versions.older_first(same, new)[0] is same
