"""The notebooks: each equals its script cell by cell, holds no outputs, and runs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli import ROOT, environment

SCRIPTS = sorted((ROOT / "notebooks").glob("*.py"))
RESULTS = {
    "own_images": ("no faults found", "image_auroc", "threshold", "new_stain.png: score"),
    "study_a_step": ("outputs are in the buffers", "MiB", "products of", "memory: temporary"),
}
every_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)


def cells_of(script: str) -> list[tuple[str, str]]:
    """Returns (cell type, source) of a script in the percent format."""
    found = []
    for kind, text in re.findall(
        r"^# %%( \[markdown\])?\n(.*?)(?=^# %%|\Z)", script, flags=re.MULTILINE | re.DOTALL
    ):
        source = text.strip("\n")
        if kind:
            source = re.sub(r"^# ?", "", source, flags=re.MULTILINE)
        found.append(("markdown" if kind else "code", source))
    return found


def test_the_notebooks_are_known():
    assert {script.stem for script in SCRIPTS} == RESULTS.keys()
    assert {p.stem for p in (ROOT / "notebooks").glob("*.ipynb")} == RESULTS.keys()


@every_script
def test_a_notebook_equals_its_script(script):
    notebook = json.loads(script.with_suffix(".ipynb").read_text(encoding="utf-8"))
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]
    assert cells == cells_of(script.read_text(encoding="utf-8")), (
        "make it again: jupytext --to ipynb notebooks/*.py"
    )
    for cell in notebook["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.slow
@every_script
def test_a_script_runs(script, tmp_path):
    done = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env={**environment(), "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for text in RESULTS[script.stem]:
        assert text in done.stdout
    if script.stem == "own_images":
        assert Path(tmp_path, "runs/own-images/report.html").is_file()
