"""Configs as runs store them, of this and of earlier versions."""

import dataclasses
import json
from pathlib import Path

import pytest

from tests.factory import tiny_config
from vtadl_jax import config as schema
from vtadl_jax import options as options_lib
from vtadl_jax.config import Config
from vtadl_jax.detectors import DETECTORS
from vtadl_jax.errors import UserError
from vtadl_jax.training.stored import CONFIG, load_config, save_config


def test_a_stored_config_comes_back(tmp_path):
    for detector in DETECTORS:
        config = tiny_config("here", detector, image_size=(32, 48), eval__image_threshold=1.5)
        save_config(config, tmp_path / CONFIG)
        assert load_config(tmp_path) == config


def test_a_workdir_belongs_to_one_config():
    stored, where = tiny_config("here"), Path("run")
    moved = tiny_config("moved", num_train_steps=99, eval__batch_size=2, data__cache="host")
    schema.check_same_run(moved, stored, where)
    schema.check_same_run(tiny_config("here", data__channels=0), stored, where)  # as it found them
    with pytest.raises(UserError, match=r"model\.vit\.width is 16 there and 32 here"):
        schema.check_same_run(tiny_config("here", model__vit__width=32), stored, where)
    other = tiny_config("here", detector="context_mdn")
    with pytest.raises(UserError, match=r"detector is 'vtadl' there .* \(and \d+ more\)"):
        schema.check_same_run(other, stored, where)


def test_a_run_without_a_field_that_is_new_has_its_default(tmp_path):
    config = tiny_config(detector="context_mdn")
    stored = config.to_dict()
    del stored["data"]["anomaly_fraction"]
    (tmp_path / CONFIG).write_text(json.dumps({"format": 2, **stored}))
    assert load_config(tmp_path) == config


def test_a_run_with_a_field_that_nobody_knows_is_told_apart(tmp_path):
    stored = tiny_config().to_dict()
    stored["optimizer"]["momentum"] = 0.9
    (tmp_path / CONFIG).write_text(json.dumps({"format": 2, **stored}))
    with pytest.raises(UserError, match=r"config\.json: unknown field optimizer\.momentum"):
        load_config(tmp_path)


def test_a_run_of_a_newer_version_is_refused_with_both_versions(tmp_path):
    stored = {"format": 99, "versions": {"vtadl_jax": "9.1"}, **tiny_config().to_dict()}
    (tmp_path / CONFIG).write_text(json.dumps(stored))
    with pytest.raises(UserError, match=r"newer version of vtadl_jax \(9\.1, format 99; this is"):
        load_config(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '"config"'])
def test_what_is_no_config_is_told(tmp_path, text):
    (tmp_path / CONFIG).write_text(text)
    with pytest.raises(UserError, match=r"config\.json"):
        load_config(tmp_path)


# The flat config of version 0.1, as its runs stored it: all detectors' fields, read or not.
OLD = {
    "detector": "vtadl",
    "image_size": [32, 48],
    "init_pixels": "imagenet",
    "model": {
        "patch_size": 8, "width": 24, "depth": 3, "num_heads": 2, "mlp_dim": 48,
        "features": "filters", "filters": {"stride": 4, "windows": [1, 2]},
        "autoencoder": {"latent_dim": 32}, "mdn": {"num_components": 7, "covariance": "full"},
    },
    "loss": {"nll_weight": 0.25, "mse_weight": 1.0, "ssim_weight": 1.0},
    "train": {"share_update": False},
}  # fmt: skip


@pytest.mark.parametrize(
    ("detector", "fields"),
    [
        ("vtadl", {"model.vit.width": 24, "model.vit.depth": 3, "model.loss.nll_weight": 0.25,
                   "model.init_pixels": "imagenet", "model.mdn.covariance": "full",
                   "train.shard_optimizer": False, "image_size": (32, 48)}),
        ("surroundings", {"detector": "context_mdn", "model.mdn.hidden": 24,
                          "model.context.windows": (1, 2), "model.mdn.num_components": 7}),
        ("autoencoder", {"model.latent_dim": 32, "model.loss.mse_weight": 1.0}),
        ("filter_mixture", {"model.filters.stride": 4}),
    ],
)  # fmt: skip
def test_a_run_of_the_version_before_is_read_under_todays_names(tmp_path, detector, fields):
    (tmp_path / CONFIG).write_text(json.dumps({**OLD, "detector": detector}))
    config = load_config(tmp_path)
    found = dict(options_lib.flatten(config))
    assert {name: found[name] for name in fields} == fields
    # What the detector does not read is left out, what it has anew takes its default.
    assert dataclasses.asdict(config).keys() == dataclasses.asdict(Config()).keys()
