"""A choice of variants without the answers: what is read, what is written, what is refused."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vtadl_jax import experiments
from vtadl_jax.data.sources import load_good, load_splits
from vtadl_jax.data.synthetic.photo_defects import KINDS
from vtadl_jax.errors import UserError
from vtadl_jax.evaluation.selection import DRAWN, TEST, Part
from vtadl_jax.plans import Experiment
from vtadl_jax.selection import choose as choosing
from vtadl_jax.selection import sets
from vtadl_jax.selection.sets import ImageSet, Protocol, config_of, parse_sets, prepare

FILTERS = "--config configs/baseline_filters.py --config.image_size=32,32"
PLAN = f"""
filters | {FILTERS} --config.model.mdn.num_components=2
few | {FILTERS} --config.model.mdn.num_components=1
position | --config configs/position_gaussian.py --config.image_size=32,32
"""


@pytest.fixture
def parts(dataset, tmp_path) -> Path:
    """Drawn gears of the test session, under two names; to be changed."""
    for name in ("gear", "wheel"):
        shutil.copytree(dataset / "gear", tmp_path / "data" / name)
    return tmp_path / "data"


def select(tmp_path, text, *more):
    plan = tmp_path / "plan.txt"
    plan.write_text(text, encoding="utf-8")
    flags = [f"--plan={plan}", f"--workdir={tmp_path / 'runs'}", "--drawn=8", *more]
    return experiments.main(["experiments", "--select", *flags])


def spoil(data: Path) -> None:
    """Damages every test image and mask."""
    for folder in ("test", "ground_truth"):
        for path in data.rglob(f"{folder}/**/*.png"):
            path.write_bytes(b"spoilt")


FIGURES = {"filters": 0.9, "few": 0.6, "position": 0.8}


@pytest.fixture
def scored(monkeypatch):
    """Calls of `measure`, which trains nothing and returns figures by the variant's name."""
    calls = []

    def measure(variant, image_set, config, prepared, protocol, wanted):
        calls.append((image_set.name, variant.name))
        at = FIGURES[variant.name]
        values = {"image_auroc": [at, 0.7], "pixel_auroc": [at, 0.7], "aupro": [0.5, 0.5]}
        real = at if image_set.name == "gear" else 1 - at
        return {
            part: Part(
                {"image_auroc": value, "pixel_auroc": value, "aupro": 0.5},
                values if part == DRAWN else {},
                4,
                16,
            )
            for part, value in ((DRAWN, at), (TEST, real))
            if part in wanted
        }

    monkeypatch.setattr(choosing, "measure", measure)
    monkeypatch.setattr(sets, "write_sheet", lambda path, records: None)
    return calls


def test_good_images_are_read_without_the_test_images(parts):
    gears = ImageSet("gear", str(parts), "gear")
    config = config_of(Experiment("a", tuple(FILTERS.split())), gears)
    names = [record.name for record in load_splits(config).train]
    spoil(parts)
    with pytest.raises(UserError):
        load_splits(config)
    assert [record.name for record in load_good(config).train] == names
    shutil.rmtree(parts / "gear" / "test")
    assert [record.name for record in load_good(config).train] == names


def test_defects_are_drawn_from_good_images_alone(parts, tmp_path):
    one = ImageSet("gear", str(parts), "gear")
    config = config_of(Experiment("a", tuple(FILTERS.split())), one)
    first = prepare(one, [config], Protocol(tmp_path / "a", num_drawn=8), True)
    spoil(parts)
    second = prepare(one, [config], Protocol(tmp_path / "b", num_drawn=8), True)
    assert len(first.train) + len(first.held) == 20
    assert not {r.name for r in first.train} & {r.name for r in first.held}
    assert {record.defect for record in first.drawn} == set(KINDS)
    for record, other in zip(first.drawn, second.drawn, strict=True):
        assert record.image.read_bytes() == other.image.read_bytes()
    with Image.open(tmp_path / "a" / "gear" / "drawn.png") as sheet:
        assert sheet.height > 8 * 160  # a row of panels for each kind
    with pytest.raises(UserError, match="about other images"):
        prepare(one, [config], Protocol(tmp_path / "a", held_out=0.5, num_drawn=8), True)


def test_tables_are_sorted_and_name_the_command(parts, tmp_path, scored, capsys):
    spoil(parts)
    assert select(tmp_path, PLAN, f"--data={parts}") == 0
    assert scored == [(s, v) for s in ("gear", "wheel") for v in FIGURES]
    stored = json.loads((tmp_path / "runs" / "selection.json").read_text())
    gear = stored["sets"]["gear"]
    assert [row["variant"] for row in gear["variants"]] == ["filters", "position", "few"]
    assert [row["rank"] for row in gear["variants"]] == [1, 2, 3]
    assert gear["chosen"] == "filters"
    assert f"--config.data.root={parts} --config.data.category=gear" in gear["command"]
    assert "No test image was opened" in gear["note"]
    best = [row["best"] for row in gear["variants"]]
    assert best == pytest.approx([1 / 2 + 1 / 6, 1 / 6, 1 / 6])  # one resample is shared by three
    with (tmp_path / "runs" / "selection.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["set"] for row in rows] == ["gear"] * 3 + ["wheel"] * 3
    assert float(rows[0]["image_auroc"]) == 0.9
    text = (tmp_path / "runs" / "selection.md").read_text()
    assert text in capsys.readouterr().out
    assert "| 1 | filters | 0.767" in text


def test_other_sets_choose(parts, tmp_path, scored):
    assert select(tmp_path, PLAN, f"--data={parts}", "--by=sets") == 0
    stored = json.loads((tmp_path / "runs" / "selection.json").read_text())["sets"]
    assert {name: one["chosen"] for name, one in stored.items()} == {
        "gear": "few",
        "wheel": "filters",
    }


def test_agreement_of_both_rankings(parts, tmp_path, scored):
    assert select(tmp_path, PLAN, f"--data={parts}", "--agreement") == 0
    stored = json.loads((tmp_path / "runs" / "selection.json").read_text())["agreement"]
    drawn, others = stored["drawn defects"], stored["other sets"]
    assert drawn["gear"]["image_auroc"]["correlation"] == pytest.approx(1)
    assert drawn["gear"]["image_auroc"]["regret"] == 0
    assert drawn["wheel"]["image_auroc"]["correlation"] == pytest.approx(-1)
    assert drawn["wheel"]["image_auroc"]["regret"] == pytest.approx(0.3)
    assert drawn["gear"]["aupro"]["correlation"] is None
    assert others["gear"]["image_auroc"]["correlation"] == pytest.approx(-1)
    text = (tmp_path / "runs" / "selection.md").read_text()
    assert "| wheel | drawn defects | −1.00 / 0.200 | −1.00 / 0.300 |" in text


@pytest.mark.parametrize(
    ("text", "flags", "message"),
    [
        ("a | --config configs/best.py\n", [], "one variant only"),
        (PLAN + "x | --config configs/unet.py\n", [], "learns from defects"),
        (PLAN + "x | --config configs/best.py --config.data.root=D\n", [], "leave it out"),
        (
            PLAN + "x | --config configs/best.py --config.data.bits=12\n",
            [],
            "data.bits is 0 and",
        ),
        (PLAN + "x | --config configs/mnist.py\n", [], "data.source is 'folder' and 'mnist'"),
        (PLAN + "drawn | --config configs/best.py\n", [], "rename the line"),
        (PLAN, ["--held_out=0"], "no image is held out"),
        (PLAN, ["--drawn=3"], "--drawn 3: use 8"),
        (PLAN, ["--seeds=2"], "does not go with --select"),
        (PLAN, ["--data={data}"], "twice"),
        (PLAN, ["--data={data}:nix"], "nix"),
        (PLAN, ["--data=nowhere:a"], "no folder nowhere"),
    ],
)
def test_what_cannot_be_compared(parts, tmp_path, scored, capsys, text, flags, message):
    flags = [flag.replace("{data}", str(parts)) for flag in flags]
    assert select(tmp_path, text, f"--data={parts}", *flags) == 2
    assert message in capsys.readouterr().err
    assert not scored


def test_flags_of_a_selection_need_it(tmp_path, capsys):
    plan = tmp_path / "plan.txt"
    plan.write_text(PLAN)
    for flags, message in (
        (["--agreement"], "--agreement True is for --select"),
        (["--data=a", "--data=b"], "only --select takes several"),
    ):
        assert experiments.main(["experiments", f"--plan={plan}", *flags]) == 2
        assert message in capsys.readouterr().err


def test_sets_are_read_from_data(parts, tmp_path):
    assert [one.name for one in parse_sets([str(parts)])] == ["gear", "wheel"]
    (one,) = parse_sets([f"{parts}:wheel"])
    assert one.flags == (f"--config.data.root={parts}", "--config.data.category=wheel")
    plain = tmp_path / "screws" / "good"
    plain.mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(plain / "0.png")
    (own,) = parse_sets([str(plain)])
    assert (own.name, own.category) == ("screws-good", "")


@pytest.mark.slow
def test_a_real_choice_does_not_depend_on_test_images(parts, tmp_path, capsys):
    data = f"--data={parts}:gear"
    assert select(tmp_path, PLAN, data) == 0
    first = (tmp_path / "runs" / "selection.json").read_text()
    (tmp_path / "runs" / "gear" / "few" / "drawn.json").unlink()
    capsys.readouterr()
    assert select(tmp_path, PLAN, data) == 0  # continues: only one is scored again
    assert capsys.readouterr().err.count("images to train") == 1
    assert (tmp_path / "runs" / "selection.json").read_text() == first
    shutil.rmtree(tmp_path / "runs")
    spoil(parts)
    assert select(tmp_path, PLAN, data) == 0
    assert (tmp_path / "runs" / "selection.json").read_text() == first
    assert select(tmp_path, PLAN.replace("num_components=1", "num_components=3"), data) == 2
    assert "other arguments" in capsys.readouterr().err


@pytest.mark.slow
def test_real_figures_and_agreement(parts, tmp_path):
    assert select(tmp_path, PLAN, f"--data={parts}:gear", "--agreement") == 0
    stored = json.loads((tmp_path / "runs" / "gear" / "filters" / "test.json").read_text())
    assert stored["num_good"] == 4
    assert 0 < stored["metrics"]["aupro"] < 1
    agreed = json.loads((tmp_path / "runs" / "selection.json").read_text())["agreement"]
    assert agreed["drawn defects"]["gear"]["mean"]["of_worst"] >= 0
    assert agreed["other sets"]["gear"]["mean"] is None
