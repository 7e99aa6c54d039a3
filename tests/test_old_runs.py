"""Runs of earlier versions still evaluate, predict and resume, with the same results.

`fixtures/runs_0_1_0.zip` was written by version 0.1.0 on the data set of `factory.tiny_dataset`
in the folder `data`: a VT-ADL and a `surroundings` of 4 steps, and a fitted `filter_mixture`.
`expected.json` has that version's numbers of them and, of the first two, of a copy resumed to
step 6.
"""

import json
import zipfile
import zlib
from pathlib import Path

import pytest

from tests.factory import as_decided, tiny_config, tiny_dataset
from vtadl_jax import legacy
from vtadl_jax.detectors.position_gaussian import PositionGaussianOptions
from vtadl_jax.errors import UserError
from vtadl_jax.evaluate import evaluate_run
from vtadl_jax.evaluation.predictor import Predictor
from vtadl_jax.networks.features import FilterOptions
from vtadl_jax.options import flatten
from vtadl_jax.run import run
from vtadl_jax.training.stored import CONFIG, load_config, save_config

FIXTURE = Path(__file__).with_name("fixtures") / "runs_0_1_0.zip"
CONTEXT = {
    "model__context__windows": (1, 2),
    "model__context__radii": (1,),
    "model__context__position": True,
    "model__filters__sigmas": (1, 2),
    "model__filters__color": True,
}
NAMES = ("vtadl", "surroundings", "filter_mixture")


@pytest.fixture
def old_runs(tmp_path, monkeypatch):
    """The runs beside their data, in the working directory; they are not changed by a test."""
    with zipfile.ZipFile(FIXTURE) as archive:
        archive.extractall(tmp_path)
    tiny_dataset(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs_0_1_0"


def expected(runs: Path, name: str) -> dict:
    return json.loads((runs / "expected.json").read_text())[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_old_run_evaluates_to_its_numbers(old_runs, name):
    results = evaluate_run(old_runs / name, {})
    for metric, value in expected(old_runs, name)["evaluated"].items():
        assert results[metric] == pytest.approx(value, abs=2e-3), metric


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_old_run_predicts_its_scores(old_runs, name):
    predictor = Predictor.from_workdir(old_runs / name)
    for path, score in expected(old_runs, name)["predicted"].items():
        assert predictor(path).score == pytest.approx(score, rel=2e-3, abs=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "detector", "fields"),
    [("vtadl", "vtadl", {}), ("surroundings", "context_mdn", CONTEXT)],
)
def test_an_old_run_resumes(old_runs, name, detector, fields):
    config = tiny_config(
        "data",
        detector=detector,
        num_train_steps=6,
        keep_checkpoints=1,
        keep_best="none",
        eval__num_pictures=0,
        mesh__data=1,
        **fields,
    )
    results = run(config, old_runs / name)
    for metric, value in expected(old_runs, name)["resumed"].items():
        assert results[metric] == pytest.approx(value, abs=5e-3), metric
    stored = load_config(old_runs / name)
    assert stored == as_decided(config, stored)  # stored anew under today's names
    assert (stored.eval.cross_fit, stored.data.orientations) == ("off", "none")


@pytest.mark.slow
def test_old_names_become_todays(old_runs):
    config = load_config(old_runs / "surroundings")
    assert config.detector == "context_mdn"
    assert config.model.context.windows == (1, 2)
    assert config.model.mdn.hidden == 16
    assert config.train.shard_optimizer
    config = load_config(old_runs / "vtadl")
    assert config.model.vit.width == 16
    assert config.model.loss.mse_weight == 5.0
    assert config.init_from == ""


def test_a_field_that_an_old_run_lacks_has_the_value_it_had_then(old_runs):
    path = old_runs / "vtadl" / CONFIG
    stored = json.loads(path.read_text())
    del stored["model"]["decoder"]["sees"], stored["eval"]["original_size"]
    path.write_text(json.dumps(stored))
    config = load_config(old_runs / "vtadl")
    assert config.model.decoder.sees == "vector"
    assert config.eval.original_size is False


def test_an_old_position_gaussian_keeps_its_statistics(old_runs):
    path = old_runs / "filter_mixture" / CONFIG
    stored = json.loads(path.read_text())
    assert stored["model"]["features"] == "filters"  # stored for all detectors, read by some
    stored["detector"] = "position_gaussian"
    stored["model"]["filters"] |= {"stride": 4, "sigmas": [2]}
    path.write_text(json.dumps(stored))
    model = load_config(old_runs / "filter_mixture").model
    assert model == PositionGaussianOptions(filters=FilterOptions(stride=4))
    assert model.features == "statistics"


def test_frozen_weights_of_an_old_checkpoint_are_taken_out_of_its_statistics():
    stored = {"step": 3, "batch_stats": {"efficientnet_lite0": {"stem": 1}, "window_1": 2}}
    found = legacy.upgrade_state(stored)
    assert found == {"step": 3, "frozen": {"stem": 1}, "stats": {"window_1": 2}}


@pytest.mark.slow
@pytest.mark.parametrize("what", ["config", "checkpoint"])
def test_what_a_newer_version_wrote_is_refused(old_runs, what):
    folder = old_runs / "filter_mixture"
    if what == "config":
        stored = json.loads((folder / CONFIG).read_text())
        text = json.dumps({**stored, "format": 3, "versions": {"vtadl_jax": "9.1"}})
        (folder / CONFIG).write_text(text)
    else:
        about = folder / "checkpoints" / "0" / "about" / "metadata"
        stored = json.loads(about.read_text())
        about.write_text(json.dumps({**stored, "format": 3}))
        sums = folder / "checkpoints" / "0" / "checksums.json"
        listed = json.loads(sums.read_text())
        listed["about/metadata"] = [about.stat().st_size, zlib.crc32(about.read_bytes())]
        sums.write_text(json.dumps(listed))
    with pytest.raises(UserError, match="was written by a newer version of vtadl_jax"):
        Predictor.from_workdir(folder)


def test_what_this_version_stores_names_its_version_and_code(tmp_path):
    save_config(tiny_config(), tmp_path / CONFIG)
    stored = json.loads((tmp_path / CONFIG).read_text())
    assert stored["format"] == legacy.FORMAT
    assert {"vtadl_jax", "code", "jax"} <= stored["versions"].keys()
    assert dict(flatten(load_config(tmp_path))) == dict(flatten(tiny_config()))
