"""The comparison with anomalib: its arithmetic, its processes, its inputs, and both sides' numbers.

The last test runs anomalib: set VTADL_ANOMALIB to an interpreter that has it.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.networks.encoder_files import CASES, arrays_of
from vtadl_jax.benchmarks import peer_anomalib
from vtadl_jax.benchmarks.measures import anomalib, anomalib_inputs
from vtadl_jax.benchmarks.measures.processes import Worker
from vtadl_jax.benchmarks.peers import turns
from vtadl_jax.errors import UserError
from vtadl_jax.experiment import base, parse
from vtadl_jax.networks.frozen_vit_table import VITS
from vtadl_jax.options import replace

PYTHON = "VTADL_ANOMALIB"
ECHO = """
import sys
from vtadl_jax.benchmarks.peers.turns import serve

def fail(text):
    print("a library's text")
    raise ValueError(text)

serve({"double": lambda number: {"found": 2 * number}, "fail": fail, "leave": lambda: sys.exit(3)})
"""


def test_the_medians_are_of_all_rounds():
    def one(wall):
        return {"wall": wall, "cpu": 10 * wall}

    rounds = [
        {
            "fit": {"features": one(fit), "solve": one(1.0), "compiling": 7.0 * (number == 0)},
            "score_1": {"seconds": [one(0.1), one(0.2), one(0.6)]},
            "score_4": {"seconds": [one(2.0)]},
        }
        for number, fit in enumerate((1.0, 5.0, 2.0))
    ]
    found = anomalib.summary(rounds, 4)
    assert found == {
        "fit_seconds": 3.0,
        "features_seconds": 2.0,
        "solve_seconds": 1.0,
        "fit_cpu_seconds": 30.0,
        "image_seconds": 0.2,
        "image_cpu_seconds": 2.0,
        "image_in_batch_seconds": 0.5,
        "compiling_seconds": 7.0,
    }


def test_a_difference_is_relative_and_a_correlation_of_all_values():
    theirs = np.array([[0.0, 2.0], [4.0, 2.0]])
    found = anomalib.difference(np.array([[0.0, 2.0], [4.2, 2.0]]), theirs)
    assert found["difference"] == pytest.approx(0.05)
    assert found["correlation"] == pytest.approx(np.corrcoef([0, 2, 4.2, 2], [0, 2, 4, 2])[0, 1])
    assert anomalib.difference(np.ones(3), theirs[0, :1].repeat(3))["correlation"] == 0.0


def test_agreement_scales_ours_and_tells_edges_apart():
    rng = np.random.default_rng(0)
    theirs = {"scores": rng.random(2), "distances": rng.random((2, 3, 3))}
    theirs["maps"] = rng.random((2, 40, 40)) + 1
    ours = {name: value / 2 for name, value in theirs.items()}
    ours["maps"] = ours["maps"].copy()
    ours["maps"][:, 0] = 0
    found = anomalib.agreement(ours, theirs, 2.0)
    for name in ("scores", "distances", "maps_inside"):
        assert found[name]["difference"] < 1e-6
        assert found[name]["correlation"] == pytest.approx(1)
    assert found["maps"]["difference"] > 0.5


@pytest.mark.parametrize("method", anomalib.METHODS, ids=lambda m: m.name)
def test_our_side_of_each_method_has_a_config(method):
    sizes = anomalib.Sizes(16, 1024, 0.1)
    fields = {f"model.{name}": value for name, value in method.options(sizes).items()}
    model = replace(parse(base(method.detector)), fields).model
    assert model.features == method.network
    if method.detector == "patch_memory":
        wanted = 16 * 1024 if method.name == "anomaly_dino" else 1638
        assert (model.memory.size, model.memory.candidates) == (wanted, 16 * 1024)
        assert model.memory.projection == 239  # of anomalib's SparseRandomProjection(eps=0.9)


def test_a_process_answers_and_its_failures_are_one_line():
    with Worker("the process", (sys.executable, "-c", ECHO), 1) as worker:
        assert worker.ask("double", number=4) == {"found": 8}
        with pytest.raises(UserError, match=r"the process failed at 'fail': ValueError: a b$"):
            worker.ask("fail", text="a\nb")
        assert worker.ask("double", number=1) == {"found": 2}
        with pytest.raises(UserError, match="the process has ended at 'leave'"):
            worker.ask("leave")


def test_an_interpreter_that_is_not_there_is_named():
    with pytest.raises(UserError, match=r"nowhere/python: can't be started \(No such file"):
        Worker("the process", ("nowhere/python",), 1)


def test_seconds_of_a_call_come_with_its_result():
    result, seconds = turns.seconds_of(lambda: 3)
    assert result == 3
    assert set(seconds) == {"wall", "cpu"}
    assert turns.peak_mib() > 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train", "0"], "--train must be at least 1, got 0"),
        (["--test-images", "0"], "--test-images must be at least 1, got 0"),
        (["--train", "1"], "--train must be at least 2"),
        (["--test-images", "4"], "--test-images at least --batch"),
        (["--ratio", "0"], "--ratio must be above 0 and at most 1, got 0"),
        (["--only", "padim,fast"], "--only fast: known are anomaly_dino,patchcore,padim"),
    ],
)
def test_mistakes_on_the_command_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        peer_anomalib.main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_without_anomalib_the_recipe_is_told(capsys, tmp_path):
    assert peer_anomalib.main([]) == 2
    assert peer_anomalib.RECIPE in capsys.readouterr().err
    assert peer_anomalib.main(["--python", sys.executable, "--json", "nowhere/x.json"]) == 2
    assert "nowhere is not a folder" in capsys.readouterr().err
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')  # without packages
    bare.chmod(0o755)
    assert peer_anomalib.main(["--python", str(bare)]) == 2
    told = capsys.readouterr().err
    assert "No module named" in told
    assert peer_anomalib.RECIPE in told


def test_images_are_the_first_ones_by_name(tmp_path, capsys):
    (tmp_path / "good").mkdir()
    for number in range(6):
        Image.new("RGB", (8, 8)).save(tmp_path / "good" / f"{number}.png")
    good = str(tmp_path / "good")
    train, test = anomalib_inputs.find_images(good, "", 3, 2, tmp_path, 32)
    assert [p.stem for p in (*train, *test)] == list("01234")
    assert "the first 5 of 6 images" in capsys.readouterr().err
    train, test = anomalib_inputs.find_images(good, good, 6, 2, tmp_path, 32)
    assert (len(train), [p.stem for p in test]) == (6, ["0", "1"])
    with pytest.raises(UserError, match="6 images are too few for 6 to fit to and 2 to score"):
        anomalib_inputs.find_images(good, "", 6, 2, tmp_path, 32)
    with pytest.raises(UserError, match="no such folder"):
        anomalib_inputs.find_images(str(tmp_path / "no"), "", 6, 2, tmp_path, 32)


@pytest.mark.slow
def test_images_are_drawn_if_none_are_given(tmp_path):
    train, test = anomalib_inputs.find_images("", "", 2, 3, tmp_path, 32)
    assert len(train) == len(set(train)) == 2
    assert len(test) == len(set(test)) == 3
    assert [p.parent.name == "good" for p in test] == [False, False, True]
    assert anomalib_inputs.read_image(test[0], 16).shape == (16, 16, 3)


def test_weights_come_under_timms_names_at_the_images_grid(tmp_path, monkeypatch, capsys):
    case = next(c for c in CASES.values() if c.program == "huggingface" and c.vit.layer_scale)
    np.savez(tmp_path / "small.npz", **arrays_of(case))
    monkeypatch.setitem(VITS, "small", case.vit)
    found = anomalib_inputs.read_weights(str(tmp_path), "small", (3, 5))
    assert found["pos_embed"].shape == (1, 16, case.vit.width)
    assert {"blocks.0.attn.qkv.weight", "blocks.0.ls1.gamma", "norm.weight"} <= set(found)
    assert anomalib_inputs.read_weights(str(tmp_path), "resnet18", (3, 5)) == {}
    assert "no file resnet18.safetensors" in capsys.readouterr().err
    assert anomalib_inputs.read_weights("", "small", (3, 5)) == {}


def measured():
    side = {key: 2.0 for _, key, _, _ in peer_anomalib.ROWS}
    agreed = {"difference": 1e-6, "correlation": 1.0}
    return {
        "method": "padim",
        "network": "resnet18",
        "weights": "random",
        "notes": "100 features",
        "sizes": {"train": 4, "patches": 1024, "ratio": 0.1},
        "image_size": [128, 128],
        "sides": {"ours": side, "anomalib": {**side, "fit_seconds": 5.0, "compiling_seconds": 0}},
        "agreement": dict.fromkeys(("scores", "distances", "maps", "maps_inside"), agreed),
        "same": True,
        "decoding_seconds_an_image": 0.0123,
    }


def test_the_tables_have_a_row_a_figure():
    lines = peer_anomalib.table(measured()).splitlines()
    assert lines[2].split() == ["fit,", "s", "2.00", "5.00", "2.50"]
    assert "NOT THE SAME" not in lines[-1]
    text = peer_anomalib.markdown({"methods": [measured(), measured() | {"same": False}]})
    assert text.count("| fit, s | 2.00 | 5.00 | 2.50 |") == 2
    assert text.count("| compilation, s | 2.0 | 0.0 |  |") == 2
    assert text.count("NOT THE SAME NUMBERS") == 1
    assert text.count("once for both: 12.3 ms an image.") == 2
    assert "own bank" not in text
    banks = measured()["agreement"] | {"own_banks": {"difference": 0.2, "correlation": 0.9}}
    line = peer_anomalib.agreed(measured() | {"agreement": banks})
    assert "patches, each side with its own bank 2e-01 (correlation 0.9000)" in line


@pytest.mark.slow
@pytest.mark.parametrize("method", ["padim", "patchcore", "anomaly_dino"])
def test_both_sides_find_the_same(method, tmp_path):
    python = os.environ.get(PYTHON)
    if not python:
        pytest.skip(f"{PYTHON} names no interpreter with anomalib")
    out, page = tmp_path / "out.json", tmp_path / "out.md"
    command = ["--python", python, "--only", method, "--train", "3", "--test-images", "2"]
    command += ["--batch", "2", "--size", "64", "--repeats", "1", "--cores", "1"]
    assert peer_anomalib.main([*command, "--json", str(out), "--markdown", str(page)]) == 0
    (found,) = json.loads(out.read_text())["methods"]
    assert found["same"]
    assert found["weights"] == "random"
    assert found["masking"] is False
    assert found["agreement"]["distances"]["difference"] < 1e-3
    if method == "patchcore":
        assert found["agreement"]["own_banks"]["correlation"] > 0.9
    else:
        assert found["agreement"]["scores"]["difference"] < 1e-3
    assert all(side["image_seconds"] > 0 for side in found["sides"].values())
    assert Path(page).read_text().startswith(f"**{method}, ")
