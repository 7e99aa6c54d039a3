"""Two commands that write into one workdir: the second is refused, in one line."""

import os
import socket
import subprocess
import sys

import pytest

from vtadl_jax.errors import UserError
from vtadl_jax.runtime.lock import LOCK, is_empty, locked


def test_a_second_lock_is_refused_with_process_and_host(tmp_path):
    with locked(tmp_path):
        assert is_empty(tmp_path)
        wanted = f"in use by process {os.getpid()} on {socket.gethostname()}: wait"
        with pytest.raises(UserError, match=wanted), locked(tmp_path):
            pass
    with locked(tmp_path):
        pass


def test_a_process_that_is_killed_leaves_no_lock(tmp_path):
    code = (
        "import os; from pathlib import Path; from vtadl_jax.runtime.lock import locked\n"
        f"with locked(Path({str(tmp_path)!r})): os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert (tmp_path / LOCK).read_text().startswith("process ")
    with locked(tmp_path):
        pass


def test_what_killed_processes_left_is_removed(tmp_path):
    left = tmp_path / f".config.json.{'0a' * 8}.tmp"
    left.write_text("half")
    folder = tmp_path / f".report.{'1b' * 8}.tmp"
    (folder / "overlays").mkdir(parents=True)
    mine = tmp_path / ".config.json.tmp"
    mine.write_text("mine")
    with locked(tmp_path):
        assert not left.exists()
        assert not folder.exists()
        assert mine.exists()
    assert not is_empty(tmp_path)


def test_a_link_in_its_place_is_not_followed(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / LOCK).symlink_to(precious)
    with pytest.raises(UserError, match="is a link: remove it"), locked(tmp_path):
        pass
    assert precious.read_text() == "mine"
