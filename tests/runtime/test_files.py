"""Files are written whole or not at all, and stored JSON is read without surprises."""

import json
import os
import resource
import subprocess
import sys

import pytest

from vtadl_jax.errors import UserError
from vtadl_jax.runtime import files

OLD = "what was there before\n"


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(OLD)
    return path


def test_a_file_is_replaced_and_nothing_else_is_left(path):
    files.write_json(path, {"a": [1, 2]})
    assert json.loads(path.read_text()) == {"a": [1, 2]}
    assert list(path.parent.iterdir()) == [path]


def test_what_is_raised_while_writing_leaves_the_file_before(path):
    def half():
        with files.replacing(path, "w") as file:
            file.write("half")
            file.flush()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert path.read_text() == OLD
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_leaves_the_file_before_and_is_told(path):
    """In a process of its own: a limit on the size of files holds for all threads."""
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))\n"
        "from pathlib import Path; from vtadl_jax.runtime.files import write_text\n"
        f"write_text(Path({str(path)!r}), 'x' * 9000)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"UserError: {path} can't be written (File too large): make room" in done.stderr
    assert path.read_text() == OLD
    assert list(path.parent.iterdir()) == [path]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_links_are_replaced_and_not_written_through(path, tmp_path):
    link = tmp_path / "results.json"
    link.symlink_to(path)
    files.write_text(link, "new")
    assert path.read_text() == OLD
    assert not link.is_symlink()
    assert link.read_text() == "new"


def test_a_waiting_name_is_never_taken(path, tmp_path, monkeypatch):
    monkeypatch.setattr(files.secrets, "token_hex", lambda _: "0" * 16)
    waiting = files.temporary_name(tmp_path / "scores.csv")
    waiting.symlink_to(path)
    with pytest.raises(UserError, match=r"scores\.csv can't be written"):
        files.write_text(tmp_path / "scores.csv", "new")
    assert path.read_text() == OLD


def test_a_folder_in_the_place_is_told(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match="move what is in its place"):
        files.write_text(tmp_path / "a", "new")
    with pytest.raises(UserError, match="is a folder, and a file is to be written there"):
        files.check_places(tmp_path, ["a"])
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with pytest.raises(UserError, match="is a link, and nothing is written or removed behind"):
        files.check_places(tmp_path, [], ["link"])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value"),
        ("[1]", "holds a list"),
        ("null", "holds a NoneType"),
        ("[" * 100_000, "too deeply"),
        ('{"a": ' + "9" * 5000 + "}", "limit"),
    ],
)
def test_json_of_another_kind_is_a_value_error(path, text, reason):
    path.write_text(text)
    with pytest.raises(ValueError, match=reason):
        files.read_json(path)


def test_a_pipe_and_a_folder_are_no_json(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(ValueError, match=r"not a file|directory"):
            files.read_json(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        files.read_json(tmp_path / "none")
