"""Mistakes in a run are reported first: before data are read or drawn, before any write."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from tests.data.factory import write
from tests.factory import tiny_config, with_fields
from tests.training.steps import QUICK, supervised
from vtadl_jax import run
from vtadl_jax.data.records import Record
from vtadl_jax.errors import UserError
from vtadl_jax.experiment import load
from vtadl_jax.training import setup as setups
from vtadl_jax.training.setup import check_supervision, make_setup, with_channels

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch_size": 12}, "batch_size 12 is not divisible by 8"),
        ({"eval__batch_size": 3}, "eval.batch_size 3 is not divisible by 8"),
        ({"mesh__data": 99}, "mesh.data 99"),
        ({"mesh__fsdp": 2, "train__parallel": "pmap"}, "'pmap' replicates the state"),
        ({"data__resize": (16, 16)}, "cannot be cut"),
        ({"image_size": (36, 36)}, "is not divisible"),
        ({"eval__term_weights": (1.0, 2.0)}, "give 3 numbers, for mse, dissimilarity, max_nll"),
        ({"keep_best": "f1"}, "'f1': use one of mse, dissimilarity, max_nll, image_auroc"),
        ({"num_train_steps": 0, "num_epochs": 0}, "this detector is trained, not fitted"),
        ({"init_from": "/no/such.npz"}, "/no/such.npz: no such file"),
    ],
)
def test_a_mistake_in_a_config_is_told_before_data_are_drawn(tmp_path, fields, message):
    config = tiny_config(tmp_path / "parts", data__source="synthetic", **fields)
    with pytest.raises(UserError, match=message):
        make_setup(config, tmp_path / "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("optimizer.schedule=linear", "optimizer.schedule 'linear': use 'constant' or 'cosine'"),
        ("optimizer.ema_decay=1.0", "optimizer.ema_decay 1.0: use at least 0 and less than 1"),
        ("data.augment.rotation_degrees=200.0", "rotation_degrees 200.0: use 0 to 180"),
        ("data.cache=disk", "data.cache 'disk': use 'none' or 'host' or 'device'"),
        ("train.parallel=pjit", "train.parallel 'pjit': use 'jit' or 'pmap'"),
        ("dtype=float33", "dtype 'float33': use 'float32' or 'bfloat16'"),
    ],
)
def test_a_value_that_the_schema_forbids_is_told_when_the_config_is_read(flag, message):
    with pytest.raises(UserError, match=message):
        load(str(ROOT / "configs" / "demo.py"), [f"--config.{flag}"])


def test_a_workdir_of_something_else_is_told_before_data_are_drawn(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "letter.txt").write_text("dear")
    config = tiny_config(tmp_path / "parts", data__source="synthetic")
    with pytest.raises(UserError, match="exists and is not a run"):
        make_setup(config, tmp_path / "run")
    assert not (tmp_path / "parts").exists()


def test_nothing_is_written_by_a_setup(dataset, tmp_path):
    setup = make_setup(tiny_config(dataset, **QUICK), tmp_path / "run")
    assert (len(setup.records), len(setup.holdout), len(setup.test)) == (16, 4, 14)
    assert setup.num_steps == 4
    assert setup.category == "gear"
    assert not list(tmp_path.iterdir())


def test_epochs_are_of_the_images_that_are_trained_on(dataset, tmp_path):
    config = tiny_config(dataset, **QUICK, num_train_steps=0, num_epochs=5)
    assert make_setup(config, tmp_path / "run").num_steps == 5 * 16 // 8


# Supervised methods


@pytest.fixture
def with_supervised(monkeypatch):
    monkeypatch.setattr(setups, "make_detector", lambda config: supervised())


@pytest.mark.usefixtures("with_supervised")
def test_a_supervised_method_is_refused_good_images_alone(dataset, tmp_path):
    with pytest.raises(UserError, match=r"learns from labels and masks of defects.*anomaly_fract"):
        make_setup(tiny_config(dataset, **QUICK), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("with_supervised")
@pytest.mark.parametrize("cache", ["none", "host", "device"])
def test_a_supervised_method_is_trained_on_defects_it_is_not_tested_on(dataset, tmp_path, cache):
    config = tiny_config(
        dataset, **QUICK, data__anomaly_fraction=0.25, data__cache=cache, eval__num_pictures=1,
        data__augment__flip_horizontal=True, keep_best="none", log_every_steps=1,
    )  # fmt: skip
    workdir = tmp_path / "run"
    setup = make_setup(config, workdir)
    assert sum(record.label for record in setup.records) == 5  # a quarter of 20
    assert not sum(record.label for record in setup.holdout)
    names = [{r.name for r in part} for part in (setup.records, setup.holdout, setup.test)]
    assert sum(map(len, names)) == len(set.union(*names)) == 34
    results = run.run(config, workdir)
    assert results["num_test_images"] == 14 - 5
    assert results["step"] == 4


def test_a_method_without_needs_is_not_asked_for_defects():
    good = [Record(np.zeros((4, 4), np.uint8), None, 0, "good", "a")]
    check_supervision(dataclasses.replace(supervised(), needs=frozenset()), tiny_config(), good)
    with pytest.raises(UserError, match=r"anomaly_fraction=0\.1"):
        check_supervision(supervised(), tiny_config(), good)


def test_images_tell_how_many_channels_a_network_has(tmp_path):
    from tests.data.factory import write

    grey, colour = np.full((4, 4, 3), 9, np.uint8), np.zeros((4, 4, 3), np.uint8)
    colour[0, 0, 0] = 200
    config = tiny_config(data__channels=0)
    for pixels, channels in ((grey, 1), (colour, 3)):
        path = write(tmp_path / f"{channels}.png", pixels)
        records = [Record(path, None, 0, "good", "a")]
        assert with_channels(config, records).data.channels == channels


# Pretrained weights


def pretrained_method():
    """A detector with a frozen weight that only a file has."""
    plain = dataclasses.replace(supervised(), needs=frozenset())

    def init(key):
        return {**plain.init(key), "frozen": {"kernel": jnp.zeros(3)}}

    def load_pretrained(variables, arrays):
        if "kernel" not in arrays:
            raise UserError("kernel is missing")
        return {**variables, "frozen": {"kernel": jnp.asarray(arrays["kernel"])}}

    return dataclasses.replace(
        plain, init=init, load_pretrained=load_pretrained, pretrained_required=True
    )


def test_frozen_weights_come_from_a_file_and_are_told_before_data_are_drawn(
    tmp_path, monkeypatch, dataset
):
    monkeypatch.setattr(setups, "make_detector", lambda config: pretrained_method())
    good, bad = tmp_path / "good.npz", tmp_path / "bad.npz"
    np.savez(good, kernel=np.arange(3, dtype=np.float32))
    np.savez(bad, colonel=np.zeros(3, np.float32))
    drawn = tiny_config(tmp_path / "parts", data__source="synthetic", **QUICK)
    drawn = with_fields(drawn, keep_best="none")
    for path, message in (("", "give --config.init_from=FILE"), (bad, "kernel is missing")):
        with pytest.raises(UserError, match=message):
            make_setup(with_fields(drawn, init_from=str(path)), tmp_path / "run")
        assert not (tmp_path / "parts").exists()
    config = with_fields(drawn, init_from=str(good), data__source="mvtec_layout")
    setup = make_setup(with_fields(config, data__root=str(dataset)), tmp_path / "run")
    np.testing.assert_array_equal(setup.assembly.make_state().frozen["kernel"], np.arange(3))


def test_a_file_for_a_method_that_takes_none_is_refused(tmp_path):
    config = tiny_config(
        tmp_path / "parts", data__source="synthetic", **QUICK, init_from="weights.npz"
    )
    with pytest.raises(UserError, match="detector 'image_mixture' takes no pretrained weights"):
        make_setup(config, tmp_path / "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("peak", "bits", "message"),
    [
        (4000, 0, "warning: the 16-bit images have values up to 4000 only"),
        (4000, 12, ""),
        (40000, 0, ""),
        (255, 12, "warning: data.bits 12 changes nothing"),
    ],
)
def test_bits_that_images_do_not_use_are_told(tmp_path, capsys, peak, bits, message):
    dtype = np.uint8 if peak == 255 else np.uint16
    for i in range(20):
        write(tmp_path / "data" / f"{i}.png", np.full((32, 32), peak - i, dtype))
    fields = {"data__source": "folder", "data__category": "", "data__bits": bits}
    config = tiny_config(tmp_path / "data", "position_gaussian", **fields, mesh__data=1)
    setup = make_setup(with_fields(config, num_train_steps=0), tmp_path / "run")
    assert setup.geometry.bits == bits
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(warnings) == bool(message)
    assert message in "".join(warnings)
