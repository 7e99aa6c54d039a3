"""The page, the groups and the PDF of a prediction, from the command line to files."""

import csv
import json

import pytest

from tests.cli import run_main
from tests.factory import tiny_config
from tests.report.test_page import stored
from vtadl_jax import run

FITTED = {"detector": "position_gaussian", "num_epochs": 0, "num_train_steps": 0, "mesh__data": 1}


@pytest.fixture(scope="module")
def workdir(shared, dataset):
    def fit(folder):
        run.run(tiny_config(dataset, **FITTED), folder)
        return folder

    return shared("predict-page-run", fit)


@pytest.fixture
def predicting(workdir, dataset, tmp_path, capsys):
    """Predicts the good test images with more arguments."""

    def predict(*arguments):
        given = f"--workdir={workdir}", f"--input={dataset / 'gear' / 'test' / 'good'}"
        rest = f"--output={tmp_path / 'out'}", "--maps=none", "--nooverlays"
        return run_main(capsys, "vtadl_jax.predict", *given, *rest, *arguments)

    return predict


def names_of(dataset):
    return sorted(path.name for path in (dataset / "gear" / "test" / "good").iterdir())


def test_images_are_counted_by_station_and_taken_in_order_of_time(predicting, dataset, tmp_path):
    names = names_of(dataset)
    rows = [f"{n},2026-11-{28 - i:02}T08:00:00,cam{i % 2}" for i, n in enumerate(names)]
    (tmp_path / "meta.csv").write_text("\n".join(["file,time,station", *rows, "gone.png,,cam7"]))
    done = predicting(f"--meta={tmp_path / 'meta.csv'}", "--period=month", "--threshold=-1e9")
    assert done.returncode == 0, done.stderr
    assert "1 rows of --meta have no image: gone.png" in done.stderr
    with (tmp_path / "out" / "predictions.csv").open() as stream:
        found = list(csv.DictReader(stream))
    assert [row["name"] for row in found] == names[::-1]
    assert {(row["station"], row["month"]) for row in found} == {
        ("cam0", "2026-11"),
        ("cam1", "2026-11"),
    }
    groups = json.loads((tmp_path / "out" / "groups.json").read_text())["groups"]
    assert [(g["station"], g["images"], g["defective"]) for g in groups] == [
        ("cam0", 2, 2),
        ("cam1", 2, 2),
    ]
    text = (tmp_path / "out" / "report.html").read_text()
    assert "By station and time" in text
    assert stored(text, "data")["cards"][0]["group"] == "cam1 2026-11"


def test_without_a_page_there_is_none(predicting, tmp_path):
    assert predicting("--noreport").returncode == 0
    assert not (tmp_path / "out" / "report.html").exists()
    assert not (tmp_path / "out" / "groups.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--meta=/no/such.csv",), "such.csv can't be read"),
        (("--meta=x", "--meta_pattern=y"), "give one"),
        (("--meta_pattern=[",), "is no regular expression"),
        (("--pdf", "--noreport"), "leave one of them"),
        (("--pdf",), "no browser to print a PDF with"),
    ],
)
def test_mistakes_end_in_one_line_and_write_nothing(
    predicting, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.setenv("PATH", str(tmp_path))
    done = predicting(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "out").exists()
