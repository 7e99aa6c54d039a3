"""Preparing records, killed or interrupted anywhere: run again, it ends as if it had not been."""

import os
import shutil
import signal
import subprocess
import sys

import pytest

from tests.cli import ROOT, run_cli
from tests.data.trees import mvtec_tree, snapshot
from vtadl_jax import prepare


@pytest.fixture
def raw(tmp_path):
    mvtec_tree(tmp_path / "raw", "nut", channels=3)
    return mvtec_tree(tmp_path / "raw", "screw")


KILLS = """
import os, signal, sys
from pathlib import Path
from vtadl_jax.data import manifest
from vtadl_jax.data.builders import base, build, staging
from vtadl_jax.data.builders.image_folders import ImageFolders

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

def at(number, function):
    '''`function`, killed when it is called for the number-th time.'''
    calls = [0]
    def call(*args, **kwargs):
        calls[0] += 1
        if calls[0] == number:
            die()
        return function(*args, **kwargs)
    return call

points = {
    "locking": (staging.fcntl, "flock", 1),
    "unpacking": (build, "find_root", 1),
    "first image": (base.encode, "original_image", 1),
    "some image": (base.encode, "original_image", 9),
    "manifest": (manifest, "write", 1),
    "second category": (base.encode, "original_image", 14),
    "second manifest": (manifest, "write", 2),
    "cleaning up": (staging.shutil, "rmtree", 1),
}
source, out = map(Path, sys.argv[1:])
for number, (point, (module, name, count)) in enumerate(points.items()):
    child = os.fork()
    if not child:
        setattr(module, name, at(count, getattr(module, name)))
        build.prepare(build.Job(ImageFolders, out / str(number)), source)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, point
assert "tensorflow" not in sys.modules and "jax" not in sys.modules
"""


@pytest.mark.slow
@pytest.mark.parametrize("archive", [False, True])
def test_killed_anywhere_and_run_again(raw, tmp_path, archive):
    source = raw
    if archive:
        shutil.make_archive(str(tmp_path / "set"), "gztar", raw.parent, raw.name)
        source = tmp_path / "set.tar.gz"
    killed = run_cli("-c", KILLS, str(source), str(tmp_path / "out"))
    assert (killed.returncode, killed.stderr) == (0, "")
    clean = tmp_path / "clean"
    prepare.prepare("folder", source, clean)
    outs = [tmp_path / "out" / str(number) for number in range(8)]
    litter = [out.exists() and any(p.name.startswith(".") for p in out.iterdir()) for out in outs]
    assert litter == [
        True,
        archive,
        True,
        True,
        True,
        True,
        True,
        True,
    ]  # folders need no unpacking
    finished = [out.name for out in outs if (out / "image_folders/nut/1.0.0").exists()]
    assert finished == ["5", "6", "7"]
    for out in outs:
        prepare.prepare("folder", source, out)
        assert snapshot(out) == snapshot(clean)


@pytest.mark.slow
def test_ctrl_c(raw, tmp_path):
    """A real interrupt while images are written."""
    code = (
        "import os, signal, sys, time\n"
        # A shell's background job, as a CI may be, and its children ignore interrupts otherwise.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from vtadl_jax import prepare\n"
        "from vtadl_jax.data.builders import base\n"
        "def slow(*_):\n"
        "    os.write(1, b'at work\\n')\n"
        "    time.sleep(0.2)\n"
        "    return base.encode._png(__import__('numpy').zeros((24, 32), 'uint8'))\n"
        "base.encode.original_image = slow\n"
        "sys.exit(prepare.main(sys.argv))\n"
    )
    arguments = ("--source", str(raw), "--data_dir", str(tmp_path / "out"), "--category=screw")
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env=os.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "at work\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1].startswith("interrupted: ")
    assert not (tmp_path / "out").exists()
