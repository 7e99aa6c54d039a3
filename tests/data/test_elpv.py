"""ELPV: its list of labels, and the package where it is installed."""

import importlib.util
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.data.factory import fails, grey, write
from vtadl_jax.configs import elpv as elpv_config
from vtadl_jax.data.sources import load_splits
from vtadl_jax.data.sources.elpv import elpv_splits, read_labels

installed = pytest.mark.skipif(
    importlib.util.find_spec("elpv_dataset") is None, reason="elpv-dataset is not installed"
)
PROBABILITIES = ("0.0", "0.3333333333333333", "0.6666666666666666", "1.0")


def cells(root: Path, count: int = 40) -> Path:
    """Probability by the number modulo 4, type by the half."""
    lines = []
    for i in range(count):
        name = f"images/cell{i:04d}.png"
        write(root / name, grey(i))
        kind = "mono" if i < count / 2 else "poly"
        lines.append(f"{name}  {PROBABILITIES[i % 4]:20} {kind}\n")
    (root / "labels.csv").write_text("".join(lines))
    return root


def test_good_cells_train_and_the_others_test(tmp_path):
    splits = elpv_splits(cells(tmp_path))
    assert splits.category == "elpv"
    assert {(r.label, r.defect, r.mask) for r in splits.train} == {(0, "good", None)}
    found = Counter((r.label, r.defect) for r in splits.test)
    assert found == {(0, "good"): 2, (1, "p33"): 10, (1, "p67"): 10, (1, "p100"): 10}
    every = splits.train + splits.test
    assert len(splits.train) == 8
    assert len({r.name for r in every}) == len(every) == 40
    assert all(r.image == tmp_path / r.name for r in every)


@pytest.mark.parametrize(("category", "numbers"), [("mono", range(20)), ("poly", range(20, 40))])
def test_cell_types(tmp_path, category, numbers):
    splits = elpv_splits(cells(tmp_path), category)
    assert splits.category == category
    names = {f"images/cell{i:04d}.png" for i in numbers}
    assert {r.name for r in splits.train + splits.test} == names


def test_held_out_cells_depend_on_the_seed(tmp_path):
    root = cells(tmp_path)

    def held(seed):
        return {r.name for r in elpv_splits(root, "", 0.5, seed).test if not r.label}

    assert held(0) == held(0) != held(1)
    assert len(held(0)) == 5
    with fails("data.test_fraction 1.5"):
        elpv_splits(root, "", 1.5)


def test_config_tests_on_certain_defects_only(tmp_path):
    config = elpv_config.get_config()
    config.data.root = str(cells(tmp_path))
    assert {r.defect for r in load_splits(config).test} == {"good", "p100"}
    config.data.defects = ("p33", "p67")
    assert {r.defect for r in load_splits(config).test} == {"good", "p33", "p67"}


def test_unknown_category(tmp_path):
    with fails("data.category 'multi'", "mono, poly"):
        elpv_splits(cells(tmp_path), "multi")


def test_no_list(tmp_path):
    with fails(tmp_path / "labels.csv", "--config.data.root=DIR", "pip install 'vtadl_jax[elpv]'"):
        elpv_splits(tmp_path)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("images/a.png 1.0", "2 columns"),
        ("images/a.png 1.0 mono x", "4 columns"),
        ("images/a.png 0.5 mono", "probability 0.5"),
        ("images/a.png 1.3333 mono", "probability 1.3333"),
        ("images/a.png -0.3333 mono", "probability -0.3333"),
        ("images/a.png nan mono", "probability nan"),
        ("images/a.png inf mono", "probability inf"),
        ("images/a.png high mono", "probability high"),
        ("images/a.png 1.0 thin", "type 'thin'"),
        ("images/cell0000.png 1.0 mono", "listed twice"),
        ("../cell.png 1.0 mono", "leads out of the folder"),
        ("/tmp/cell.png 1.0 mono", "leads out of the folder"),
    ],
)
def test_lines_that_make_no_sense(tmp_path, line, why):
    path = cells(tmp_path, 4) / "labels.csv"
    path.write_text(path.read_text() + "\n" + line + "\n")
    with fails(path, "line 6", why):
        elpv_splits(tmp_path)


def test_no_text(tmp_path):
    path = cells(tmp_path) / "labels.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with fails("cannot read", path):
        elpv_splits(tmp_path)


def test_no_good_cell(tmp_path):
    cells(tmp_path, 4)
    (tmp_path / "labels.csv").write_text("images/cell0001.png 1.0 mono\n")
    with fails(tmp_path / "labels.csv", "no mono cell of probability 0"):
        elpv_splits(tmp_path, "mono")


def test_missing_image(tmp_path):
    config = elpv_config.get_config()
    config.data.root = str(cells(tmp_path))
    (tmp_path / "images" / "cell0000.png").unlink()
    with fails(tmp_path / "images" / "cell0000.png", "no such file"):
        load_splits(config)


def test_package_absent(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with fails("not installed", "pip install 'vtadl_jax[elpv]'", "--config.data.root=DIR"):
        elpv_splits()


@installed
def test_package():
    splits = elpv_splits()
    every = splits.train + splits.test
    counts = {"good": 1508, "p33": 295, "p67": 106, "p100": 715}
    assert Counter(r.defect for r in every) == counts
    assert sum(not r.label for r in splits.test) == 302
    assert all(r.image.is_file() for r in every)
    assert len(elpv_splits(category="mono").train) == 588 - 118
    assert len(read_labels(every[0].image.parent.parent / "labels.csv")) == 2624


@installed
def test_the_package_is_not_imported():
    code = "import sys; from vtadl_jax.data.sources import elpv; elpv.elpv_splits(); "
    code += "sys.exit('elpv_dataset' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
