"""All categories of a set, one after the other, and the table of them."""

import json
import shutil

import pytest

from tests.cli import run_cli
from tests.factory import tiny_config, tiny_dataset
from vtadl_jax import evaluate, main, sweep
from vtadl_jax.data.sources import all_categories
from vtadl_jax.errors import UserError

CATEGORIES = ("bolt", "gear")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tiny_dataset(tmp_path_factory.mktemp("data") / "parts")
    if not (root / "bolt").exists():
        shutil.copytree(root / "gear", root / "bolt")
    for other in root.iterdir():
        if other.is_dir() and other.name not in CATEGORIES:
            shutil.rmtree(other)
    return root


@pytest.fixture(scope="module")
def swept(dataset, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "all"
    config = tiny_config(dataset, data__category="all", mesh__data=1)
    sweep.run_all(config, workdir, main.run)
    return config, workdir


def test_every_category_has_its_run_and_its_row(dataset, swept):
    config, workdir = swept
    assert all_categories(config) == CATEGORIES
    stored = json.loads((workdir / "summary.json").read_text())
    for category in CATEGORIES:
        results = json.loads((workdir / category / "results.json").read_text())
        assert f"{results['pixel_auroc']}" in json.dumps(stored)
    text = (workdir / "summary.md").read_text()
    assert all(f"| {category} " in text for category in (*CATEGORIES, "mean"))
    assert (workdir / "summary.csv").is_file()


def test_what_is_complete_is_left_and_what_is_not_is_made(swept):
    config, workdir = swept
    (workdir / "bolt" / "results.json").unlink()
    made = []

    def run(config, folder):
        made.append(folder.name)
        return main.run(config, folder)

    sweep.run_all(config, workdir, run)
    assert made == ["bolt"]
    longer = config.copy_and_resolve_references()
    longer.num_train_steps, longer.data.category = 6, "gear"
    assert not sweep.is_complete(longer, workdir / "gear")


def test_a_mistake_names_its_category(dataset, tmp_path):
    config = tiny_config(dataset, data__category="all", batch_size=0)
    with pytest.raises(UserError, match=r"^bolt: batch_size 0: use 1 or more"):
        sweep.run_all(config, tmp_path / "w", main.run)


def test_evaluating_again_gives_the_same_and_obeys_thresholds(swept):
    _, workdir = swept
    folder = workdir / "gear"
    before = json.loads((folder / "results.json").read_text())
    run = run_cli("vtadl_jax.evaluate", f"--workdir={workdir}", "--category=all")
    assert run.returncode == 0, run.stderr
    assert "| gear " in run.stdout
    after = json.loads((folder / "results.json").read_text())
    changing = {"seconds"}
    assert {k: v for k, v in after.items() if k not in changing} == {
        k: v for k, v in before.items() if k not in changing
    }
    found = evaluate.evaluate_run(folder, {"image_threshold": -1e9})["at_threshold"]["image"]
    assert found["set_by"] == "the user"
    assert found["fn"] == found["tn"] == 0
    assert before["at_threshold"]["image"]["set_by"] == "good training images"


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workdir={w}", "--category=none"], "is not a run, it has no config.json"),
        (["--workdir={w}/gear", "--category=all"], "holds no runs"),
        (["--workdir={w}/gear", "--data_root={w}/nowhere"], "nowhere"),
        (["--workdir={w}/gear", "--pixel_false_alarm_rate=2"], "use more than 0 and less than 1"),
    ],
)
def test_mistakes_of_evaluation_end_in_one_line(swept, arguments, message):
    run = run_cli("vtadl_jax.evaluate", *(a.format(w=swept[1]) for a in arguments))
    assert run.returncode == 2
    assert run.stderr.splitlines()[-1].startswith("error: ")
    assert message in run.stderr


def test_only_sets_with_a_list_can_be_swept(dataset):
    with pytest.raises(UserError, match="'synthetic' has no list of categories"):
        all_categories(tiny_config(dataset, data__source="synthetic"))
