"""All categories of a set, one after the other, and the table of them."""

import json
import shutil

import pytest

from tests.cli import run_main
from tests.factory import tiny_config, with_fields
from vtadl_jax import evaluate, run, sweep
from vtadl_jax.data.sources import all_categories
from vtadl_jax.errors import UserError

CATEGORIES = ("bolt", "gear")


@pytest.fixture(scope="module")
def categories(dataset, tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "parts"
    for category in CATEGORIES:
        shutil.copytree(dataset / "gear", root / category)
    return root


def fitted_config(root, **fields):
    """Of a method that is fitted and needs no step."""
    fields = {"num_train_steps": 0, "num_epochs": 0, "mesh__data": 1, **fields}
    return tiny_config(root, "position_gaussian", data__category="all", **fields)


@pytest.fixture(scope="module")
def swept(categories, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "all"
    config = fitted_config(categories)
    sweep.run_all(config, workdir, run.run)
    return config, workdir


def test_every_category_has_its_run_and_its_row(swept):
    config, workdir = swept
    assert all_categories(config) == CATEGORIES
    stored = json.loads((workdir / "summary.json").read_text())
    for category in CATEGORIES:
        results = json.loads((workdir / category / "results.json").read_text())
        assert f"{results['pixel_auroc']}" in json.dumps(stored)
    text = (workdir / "summary.md").read_text()
    assert all(f"| {category} " in text for category in (*CATEGORIES, "mean"))
    assert (workdir / "summary.csv").is_file()


@pytest.mark.slow
def test_what_is_complete_is_left_and_what_is_not_is_made(swept):
    config, workdir = swept
    (workdir / "bolt" / "results.json").unlink()
    made = []

    def run_one(config, folder):
        made.append(folder.name)
        return run.run(config, folder)

    sweep.run_all(config, workdir, run_one)
    assert made == ["bolt"]
    gear = with_fields(config, data__category="gear")
    assert sweep.is_complete(gear, workdir / "gear")
    assert not sweep.is_complete(with_fields(gear, num_epochs=3), workdir / "gear")


def test_a_mistake_names_its_category(categories, tmp_path):
    config = fitted_config(categories, data__defects=("nonsense",))
    with pytest.raises(UserError, match=r"^bolt: data.defects 'nonsense': the test set has"):
        sweep.run_all(config, tmp_path / "w", run.run)


@pytest.mark.slow
def test_evaluating_again_gives_the_same_and_obeys_thresholds(swept, capsys):
    _, workdir = swept
    folder = workdir / "gear"
    before = json.loads((folder / "results.json").read_text())
    done = run_main(capsys, "vtadl_jax.evaluate", f"--workdir={workdir}", "--category=all")
    assert done.returncode == 0, done.stderr
    assert "| gear " in done.stdout
    assert "image AUROC" in done.stderr
    after = json.loads((folder / "results.json").read_text())
    changing = {"seconds"}
    assert {k: v for k, v in after.items() if k not in changing} == {
        k: v for k, v in before.items() if k not in changing
    }
    found = evaluate.evaluate_run(folder, {"image_threshold": -1e9})["at_threshold"]["image"]
    assert found["set_by"] == "the user"
    assert found["fn"] == found["tn"] == 0
    assert before["at_threshold"]["image"]["set_by"] == "good training images"


@pytest.mark.slow
def test_intervals_hold_their_values_and_the_original_size_is_that_of_the_files(swept):
    _, workdir = swept
    options = {"num_bootstrap": 50, "original_size": True, "image_false_alarm_rate": 0.5}
    results = evaluate.evaluate_run(workdir / "bolt", options)
    assert results["intervals"].keys() == {
        "image_auroc",
        "image_average_precision",
        "pixel_auroc",
        "aupro",
    }
    for name, (low, high) in results["intervals"].items():
        assert low <= results[name] <= high
    decided = results["at_threshold"]["pixel"]
    counted = sum(decided[name] for name in ("tp", "fp", "fn", "tn"))
    assert counted == results["num_test_images"] * 32 * 32  # the drawn files are 32 × 32
    assert decided["regions"]["num_regions"] >= 10
    assert results["at_threshold"]["image"]["false_alarm_rate_asked"] == 0.5
    page = (workdir / "bolt" / "report.html").read_text(encoding="utf-8")
    assert "95 % interval" in page
    assert page.count('id="card-') == results["num_test_images"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workdir={w}", "--category=none"], "none: give the workdir of a run"),
        (["--workdir={w}/gear", "--category=all"], "holds no runs"),
        (["--workdir={w}/gear", "--data_root={w}/nowhere"], "nowhere"),
        (["--workdir={w}/gear", "--pixel_false_alarm_rate=2"], "rate 2.0: use more than 0"),
    ],
)
def test_mistakes_of_evaluation_end_in_one_line(swept, capsys, arguments, message):
    flags = [a.format(w=swept[1]) for a in arguments]
    done = run_main(capsys, "vtadl_jax.evaluate", *flags)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert message in done.stderr


def test_only_sets_with_a_list_can_be_swept(categories):
    with pytest.raises(UserError, match="'synthetic' has no list of categories"):
        all_categories(tiny_config(categories, data__source="synthetic"))


@pytest.mark.slow
def test_defects_that_were_trained_on_are_counted(categories, tmp_path):
    fields = {"data__anomaly_fraction": 0.2, "data__category": "gear"}
    config = with_fields(fitted_config(categories), **fields)
    results = run.run(config, tmp_path / "run")
    counted = sum(results["num_train_anomalous"].values())
    assert counted == 4  # a fifth of twenty
    again = evaluate.evaluate_run(tmp_path / "run", {})
    for name in ("num_train_images", "num_train_anomalous"):
        assert again[name] == results[name]
    good = results["num_train_images"] - counted
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert f"trained on {good} good and {counted} defective images" in page
