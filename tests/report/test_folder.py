"""The files of a report take their places together; only the program's pictures are removed."""

import json
import os
import signal

import pytest

from vtadl_jax.errors import Preempted, UserError
from vtadl_jax.evaluation.results import RESULTS_FILE
from vtadl_jax.evaluation.trained_run import CALIBRATION
from vtadl_jax.report.folder import DRAWN, OVERLAYS, OVERVIEW, SCORES, draft
from vtadl_jax.runtime.preemption import StopRequest


def put(out, text, *pictures):
    """Makes a report whose files all hold `text`."""
    with draft(out) as folder:
        for name in (CALIBRATION, RESULTS_FILE, SCORES, OVERVIEW):
            (folder / name).write_text(text)
        for name in pictures:
            (folder / OVERLAYS / name).write_text(text)


def content(out):
    return {
        path.relative_to(out).as_posix(): path.read_text()
        for path in out.rglob("*")
        if path.is_file() and path.name != DRAWN
    }


def test_a_report_replaces_the_one_before(tmp_path):
    put(tmp_path, "first", "a.png", "b.png")
    put(tmp_path, "second", "b.png", "c.png")
    assert set(content(tmp_path).values()) == {"second"}
    assert sorted(p.name for p in (tmp_path / OVERLAYS).iterdir()) == ["b.png", "c.png"]
    assert json.loads((tmp_path / DRAWN).read_text()) == {"drawn": ["b.png", "c.png"]}


def fail():
    raise UserError("a spoilt image")


def interrupt():
    raise KeyboardInterrupt


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("end", [fail, interrupt, terminate])
def test_what_ends_halfway_leaves_all_as_it_was(tmp_path, end):
    def half():
        with StopRequest().listening(), draft(tmp_path) as folder:
            (folder / CALIBRATION).write_text("half")
            (folder / OVERLAYS / "b.png").write_text("half")
            end()

    put(tmp_path, "first", "a.png")
    before = content(tmp_path)
    with pytest.raises((UserError, KeyboardInterrupt, Preempted)):
        half()
    assert content(tmp_path) == before


def test_pictures_of_others_stay(tmp_path, capsys):
    put(tmp_path, "first", "a.png")
    for name in ("holiday.png", "b.png", "notes.txt"):
        (tmp_path / OVERLAYS / name).write_text("mine")
    put(tmp_path, "second", "b.png", "c.png")
    found = content(tmp_path / OVERLAYS)
    assert found == {"holiday.png": "mine", "b.png": "mine", "notes.txt": "mine", "c.png": "second"}
    assert "1 pictures" in capsys.readouterr().err


def test_a_list_cannot_name_files_elsewhere(tmp_path):
    put(tmp_path, "first", "a.png")
    precious = tmp_path / "precious.png"
    precious.write_text("mine")
    (tmp_path / DRAWN).write_text('{"drawn": ["../precious.png", 5, "a.png"]}')
    put(tmp_path, "second", "b.png")
    assert precious.read_text() == "mine"
    assert [p.name for p in (tmp_path / OVERLAYS).iterdir()] == ["b.png"]


def test_pictures_of_version_0_1_are_known_by_its_scores(tmp_path):
    (tmp_path / OVERLAYS).mkdir()
    (tmp_path / OVERLAYS / "dent_3.png").write_text("old")
    (tmp_path / OVERLAYS / "holiday.png").write_text("mine")
    (tmp_path / SCORES).write_text("name,label\ntest/dent/3.png,1\n")
    put(tmp_path, "new", "good_1.png")
    assert content(tmp_path / OVERLAYS) == {"good_1.png": "new", "holiday.png": "mine"}


def test_a_link_in_the_place_of_the_overlays_is_refused_first(tmp_path):
    (tmp_path / "album").mkdir()
    (tmp_path / "album" / "holiday.png").write_text("mine")
    out = tmp_path / "run"
    out.mkdir()
    (out / OVERLAYS).symlink_to(tmp_path / "album")
    with pytest.raises(UserError, match=r"run/overlays is a link"), draft(out):
        pytest.fail("work before the check")
    assert [p.name for p in (tmp_path / "album").iterdir()] == ["holiday.png"]


def test_errors_name_the_file_where_it_belongs(tmp_path):
    with pytest.raises(UserError) as told, draft(tmp_path) as folder:
        (folder / "nowhere" / "a").write_text("x")
    assert str(told.value).startswith(f"{tmp_path}/nowhere/a can't be written")
