"""What the commands print: expected lines only, and no control characters in a pipe."""

import os
import re
import subprocess
import sys

import pytest

from tests.cli import ROOT, environment, run_cli
from vtadl_jax.runtime import console
from vtadl_jax.runtime.absent_tpu import has_sign_of_tpu, may_use_gpu

CONFIG = (
    "--config=configs/position_gaussian.py", "--config.data.source=mvtec_layout",
    "--config.data.category=gear", "--config.image_size=32,32", "--config.eval.num_pictures=1",
    "--config.mesh.data=1",
)  # fmt: skip
CLOSING = (
    r"cross-fitted to 20 good images in 10 folds, each without a part, in \d+s",
    r"results on 14 test images, in \d+s",
    r"  defective images found  \d+ of 10",
    r"  false alarms +\d+ among 4 good images",
    r"  image threshold +[\d.]+, from 20 good images, each scored by a fit without it .*",
    r"  image AUROC +[\d.]+",
    r"  pixel AUROC +[\d.]+",
    r"  AU-PRO \(FPR 0.3\) +[\d.]+",
    r"  kind of defect +found  image AUROC  pixel AUROC  AU-PRO",
    *[
        rf"  {kind} +\d of 2 .*"
        for kind in ["contamination", "dent", "missing", "scratch", "stain"]
    ],
    r"(note: \d+ marked regions? (is|are) too thin .*)?",
    r"open",
    r"  .*report\.html .*",
    r"  .*overview\.png .*",
    r"  .*results\.json .*",
    r"  .*scores\.csv .*",
    r"score new images: python -m vtadl_jax\.predict .*",
)
TRAINING = (
    r"gear: 20 images to train, 20 of them to calibrate by 10-fold cross-fitting, 14 to test .*",
    r"fitted to 20 images in \d+s",
    *CLOSING,
)


def check_lines(text: str, expected: tuple[str, ...]) -> None:
    """Every line is the next expected one; a pattern in (...)? may be missing."""
    lines, wanted = text.splitlines(), list(expected)
    while wanted:
        pattern = wanted.pop(0)
        if lines and re.fullmatch(pattern, lines[0]):
            lines.pop(0)
        else:
            assert pattern.endswith(")?"), f"{pattern} is missing before {lines[:1]}:\n{text}"
    assert not lines


def without_platform() -> dict[str, str]:
    """Variables of a process in which JAX chooses the platform and may load libtpu."""
    own = {**environment(), "ALLOW_MULTIPLE_LIBTPU_LOAD": "true"}
    return {name: value for name, value in own.items() if name != "JAX_PLATFORMS"}


@pytest.mark.slow
@pytest.mark.skipif(
    may_use_gpu() or has_sign_of_tpu(os.environ), reason="JAX speaks of this machine's devices"
)
def test_training_evaluation_and_prediction_print_expected_lines_only(dataset, tmp_path):
    workdir = f"--workdir={tmp_path / 'run'}"

    def run(command: str, *arguments: str) -> subprocess.CompletedProcess:
        done = subprocess.run(
            [sys.executable, "-m", f"vtadl_jax.{command}", *arguments],
            cwd=ROOT,
            env=without_platform(),
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        assert b"\r" not in done.stderr
        assert b"\x1b" not in done.stderr
        return done

    done = run("main", *CONFIG, f"--config.data.root={dataset}", workdir)
    assert done.stdout == b""
    check_lines(done.stderr.decode(), TRAINING)
    done = run("evaluate", workdir)
    check_lines(done.stderr.decode(), (r".*/run", *CLOSING))
    images = f"--input={dataset / 'gear' / 'test' / 'dent'}"
    done = run("predict", workdir, images, f"--output={tmp_path / 'out'}")
    scored = r"2 of 2 images scored, \d defective, \d good: .*/predictions\.csv"
    check_lines(done.stderr.decode(), (scored, r"open .*/report\.html"))


@pytest.mark.slow
def test_the_check_of_a_folder_prints_nothing_but_its_report(dataset):
    done = run_cli("vtadl_jax.prepare", "--check", f"--source={dataset}")
    assert done.stderr == ""
    assert "no faults found" in done.stdout


def test_long_work_says_so_where_there_is_no_terminal(capsys, monkeypatch):
    now = iter(range(0, 1000, 10))
    monkeypatch.setattr(console.time, "perf_counter", lambda: next(now))
    assert list(console.track(range(7), 7, "fit")) == list(range(7))
    assert capsys.readouterr().err == "fit 2/7\nfit 5/7\n"


def test_short_work_says_nothing(capsys):
    assert list(console.track(range(7), 7, "fit")) == list(range(7))
    assert capsys.readouterr().err == ""
