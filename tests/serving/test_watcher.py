"""The folder watcher: whole files, one result each, names, unreadable files, faults, restarts."""

import contextlib
import json
import os
import threading

import numpy as np
import pytest

from tests.serving.fakes import FakeModel, make_batcher, png
from vtadl_jax.errors import UserError
from vtadl_jax.runtime.files import temporary_name
from vtadl_jax.serving import watcher as module
from vtadl_jax.serving.limits import Limits
from vtadl_jax.serving.watcher import Watcher

NEVER = threading.Event()


class Line:
    """A watcher over two folders, with a model without a network."""

    def __init__(self, root):
        self.watch, self.results = root / "in", root / "out"
        self.watch.mkdir()
        self.model = FakeModel()

    @contextlib.contextmanager
    def running(self, map_format="none", **limits):
        batcher = make_batcher(self.model)
        with Watcher.opened(self.watch, self.results, 0.01) as watcher:
            watcher.score_with(batcher, "plate", Limits(**limits), map_format)
            yield watcher
        batcher.close(5)

    def put(self, name, content=None):
        path = self.watch / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png() if content is None else content)
        return path

    def found(self):
        """Returns all results as (name of the image, score in grey values)."""
        read = [json.loads(path.read_text()) for path in sorted(self.results.rglob("*.json"))]
        return sorted((each["name"], round(each["score"] * 255)) for each in read)

    def lines(self):
        text = (self.results / "journal.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def line(tmp_path):
    return Line(tmp_path)


def looks(watcher, times=2):
    return sum(watcher.look(NEVER) for _ in range(times))


def test_a_file_is_scored_at_the_second_look_and_once(line):
    line.put("a.png")
    line.put("sub/b.png", png(value=7, spot=240))
    with line.running() as watcher:
        assert [watcher.look(NEVER) for _ in range(4)] == [0, 2, 0, 0]
    assert line.found() == [("a.png", 40), ("sub/b.png", 240)]
    (place,) = (line.results / "sub").iterdir()
    found = json.loads(place.read_text())
    assert place.name.startswith("b.png-")
    assert found["model"] == "plate"
    assert found["decision"] == "defective"
    assert found["source"]["bytes"] == len(png(value=7, spot=240))
    assert found["regions"][0]["area"] == 6
    with line.running() as watcher:  # a restart
        assert looks(watcher, 3) == 0


def test_a_file_that_grows_is_left_until_it_is_whole(line):
    content = png()
    path = line.put("a.png", content[:30])
    with line.running() as watcher:
        assert watcher.look(NEVER) == 0
        path.write_bytes(content[:40])
        assert watcher.look(NEVER) == 0
        path.write_bytes(content)
        assert [watcher.look(NEVER) for _ in range(2)] == [0, 1]
    assert not (line.results / "unreadable").exists()


def test_a_file_that_changes_while_it_is_read_is_read_again(line, monkeypatch):
    path = line.put("a.png", png(value=1))
    read = module.Arrival.read

    def overtaken(arrival, most):
        if arrival.size and path.read_bytes() == png(value=1):
            path.write_bytes(png(value=2))
            os.utime(path, ns=(1, arrival.mtime_ns + 1))
        return read(arrival, most)

    monkeypatch.setattr(module.Arrival, "read", overtaken)
    with line.running() as watcher:
        assert looks(watcher, 4) == 1
    assert line.found() == [("a.png", 2)]


def test_a_file_with_a_taken_name_gets_a_result_of_its_own(line):
    with line.running() as watcher:
        for value in (1, 2, 3):
            path = line.put("latest.png", png(value=value))
            os.utime(path, ns=(value * 10**9, value * 10**9))
            looks(watcher)
        line.put("LATEST.png", png(value=4))
        looks(watcher)
    assert line.found() == [("LATEST.png", 4), *(("latest.png", value) for value in (1, 2, 3))]


def test_results_that_were_taken_away_are_not_made_again(line):
    line.put("a.png")
    with line.running() as watcher:
        looks(watcher)
    for path in line.results.glob("*.json"):
        path.unlink()
    with line.running() as watcher:
        assert looks(watcher, 3) == 0


def test_a_file_that_cannot_be_read_is_moved_with_the_reason_at_its_second_try(line, capsys):
    path = line.put("sub/bad.png", b"no image")
    line.put("large.png", png(41, 41))
    line.put("picture.gif", b"GIF89a" + bytes(20))
    line.put("nan.png", png(13, 13))
    with line.running(max_pixels=1600) as watcher:
        looks(watcher, 3)
        assert path.exists()  # its writer may have paused
        looks(watcher, 4)
        assert list(line.watch.rglob("*.*")) == []
    moved = sorted((line.results / "unreadable").iterdir())
    names = [each.name.rpartition("-")[0] for each in moved]
    assert names == sorted([*("bad.png", "large.png", "picture.gif", "nan.png")] * 2)
    images = [each for each in moved if each.suffix != ".txt"]
    assert {each.suffix for each in images} == {".png", ".gif"}
    reasons = {
        each.name.partition(".")[0]: each.read_text() for each in moved if each not in images
    }
    assert reasons["bad"].startswith("sub/bad.png\n")
    assert "not an image of a known kind" in reasons["bad"]
    assert "41×41 pixels" in reasons["large"]
    assert "no decision" in reasons["nan"]
    assert {each["outcome"] for each in line.lines()} == {"unreadable"}
    assert "bad.png can't be read" in capsys.readouterr().err


def test_an_unreadable_file_of_a_taken_name_does_not_replace_another(line):
    with line.running() as watcher:
        for number in range(3):
            path = line.put("bad.png", b"no image %d" % number)
            os.utime(path, ns=(number, number * 10**9))
            looks(watcher, 7)
    kept = {path.read_bytes() for path in (line.results / "unreadable").glob("*.png")}
    assert kept == {b"no image %d" % number for number in range(3)}


def test_what_is_no_image_is_passed_over_with_a_line(line, capsys):
    line.put("order.xml", b"x")
    line.put(".a.png.part", b"x")
    line.put(".hidden/a.png")
    line.put("a.png")
    with line.running() as watcher:
        assert looks(watcher, 6) == 1
    err = capsys.readouterr().err
    assert err.count("passed over, as its name is not of an image: order.xml") == 1
    assert (line.watch / "order.xml").exists()


def test_maps_are_written_before_the_result_that_names_them(line):
    line.put("a.png", png(spot=240))
    with line.running("npy") as watcher:
        looks(watcher)
    (place,) = line.results.glob("*.json")
    found = json.loads(place.read_text())
    numbers = np.load(line.results / found["map"]["file"])
    assert numbers.shape == (6, 8)
    assert numbers.max() == np.float32(240) / np.float32(255)


def test_a_full_disk_loses_nothing(line, monkeypatch, capsys):
    line.put("a.png")
    write, broken = module.write_json, [True]

    def full(path, value):
        if broken:
            raise UserError(f"{path} can't be written (No space left on device): make room")
        write(path, value)

    monkeypatch.setattr(module, "write_json", full)
    with line.running() as watcher:
        assert looks(watcher, 8) == 0
        assert "a.png waits, as it failed" in capsys.readouterr().err
        broken.clear()
        assert looks(watcher, 16) == 1
    assert line.found() == [("a.png", 40)]
    assert len(line.lines()) == 1


def test_a_fault_of_the_device_loses_nothing(line, capsys):
    line.put("a.png")
    with line.running() as watcher:
        line.model.fault = RuntimeError("device lost")
        assert looks(watcher, 3) == 0
        line.model.fault = None
        assert looks(watcher, 8) == 1
    assert "RuntimeError: device lost" in capsys.readouterr().err


def test_a_file_that_may_not_be_read_stays_where_it_is(line, monkeypatch, capsys):
    path = line.put("a.png")

    def refuse(arrival, most):
        raise PermissionError(13, "Permission denied")

    with line.running() as watcher:
        with monkeypatch.context() as patch:
            patch.setattr(module.Arrival, "read", refuse)
            looks(watcher, 12)
        assert path.exists()
        assert "Permission denied" in capsys.readouterr().err
        assert looks(watcher, 20) == 1


def test_a_crash_between_result_and_journal_repeats_nothing(line, monkeypatch):
    line.put("a.png")
    with line.running() as watcher, monkeypatch.context() as patch:
        patch.setattr(module.Journal, "add", lambda *_: (_ for _ in ()).throw(SystemExit))
        with pytest.raises(SystemExit):
            looks(watcher)
    (place,) = line.results.glob("*.json")
    before = place.stat().st_mtime_ns
    with line.running() as watcher:
        assert looks(watcher, 3) == 0
    assert place.stat().st_mtime_ns == before
    assert [each["outcome"] for each in line.lines()] == ["scored"]


def test_a_journal_that_was_cut_short_is_continued(line, capsys):
    line.put("a.png")
    with line.running() as watcher:
        looks(watcher)
    with (line.results / "journal.jsonl").open("a") as journal:
        journal.write('{"key": "12')
    line.put("b.png")
    leftover = temporary_name(line.results / "b.json")
    leftover.write_text("x")
    with line.running() as watcher:
        assert not leftover.exists()
        assert looks(watcher, 3) == 1
    capsys.readouterr()
    with line.running() as watcher:
        assert looks(watcher, 3) == 0
    assert "1 lines that were cut short" in capsys.readouterr().err
    assert len(line.found()) == 2


def test_stopping_finishes_what_was_begun_and_leaves_the_rest(line):
    stop = threading.Event()
    for number in range(40):
        line.put(f"{number}.png")
    predict = line.model.predict_batch

    def one_batch(images):
        stop.set()
        return predict(images)

    line.model.predict_batch = one_batch
    with line.running() as watcher:
        watcher.look(stop)
        stop.clear()
        assert watcher.look(stop) == 8  # twice the batch size
    assert len(line.found()) == len(line.lines()) == 8
    with line.running() as watcher:
        watcher.look(NEVER)
        stop.clear()
        assert looks(watcher) == 32


def test_a_folder_that_goes_away_is_waited_for(line, capsys):
    with line.running() as watcher:
        moved = line.watch.rename(line.watch.with_name("elsewhere"))
        looks(watcher, 3)
        moved.rename(line.watch)
        line.put("a.png")
        assert looks(watcher, 2) == 1
    err = capsys.readouterr().err
    assert err.count("can't be listed") == 1
    assert "can be listed again" in err


def test_two_watchers_do_not_share_results(line):
    with line.running(), pytest.raises(UserError, match=r"--results .* is in use"):
        line.running().__enter__()


@pytest.mark.parametrize(
    ("watch", "results", "message"),
    [
        ("nowhere", "out", "nowhere is no folder"),
        ("in", "in/out", "within each other"),
        ("in", ".", "within each other"),
        ("in", "in", "within each other"),
        ("in", "link", "is a link"),
    ],
)
def test_folders_that_do_not_fit_are_refused(tmp_path, watch, results, message):
    (tmp_path / "in").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "other")
    opened = Watcher.opened(tmp_path / watch, tmp_path / results, 0.1)
    with pytest.raises(UserError, match=message):
        opened.__enter__()


@pytest.mark.skipif(os.name != "posix", reason="names of bytes")
def test_any_name_gets_a_result(line):
    names = [os.fsdecode(b"\xe4\xff.png"), "a\nb.png", "=1+1.png", "x" * 240 + ".png", "a\\b.png"]
    for name in names:
        line.put(name)
    with line.running() as watcher:
        assert looks(watcher) == len(names)
        assert looks(watcher, 2) == 0
    files = list(line.results.glob("*.json"))
    assert len(files) == len(names)
    assert all(file.name.isprintable() and "\\" not in file.name for file in files)
