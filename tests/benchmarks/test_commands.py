"""Commands with a config: help, mistakes in one line, and figures of a small run."""

import json

import pytest
from absl import flags

from tests.factory import tiny_config, tiny_dataset
from vtadl_jax import experiment
from vtadl_jax.benchmarks import (
    faults,
    input_pipeline,
    kernels,
    metrics,
    networks,
    peer,
    peer_anomalib,
    service,
    step,
    workloads,
)
from vtadl_jax.benchmarks.measures import started
from vtadl_jax.errors import UserError
from vtadl_jax.training.assembly import Assembly


@pytest.mark.parametrize("command", [step, input_pipeline, faults, service])
def test_help_tells_the_flags(command, capsys):
    assert command.main(["", "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(command.__doc__)
    assert "--json" in out


@pytest.mark.parametrize("command", [kernels, networks, peer, peer_anomalib, metrics])
def test_help_of_commands_without_a_config(command, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(["--help"])
    assert ended.value.code == 0
    assert "--json" in capsys.readouterr().out


def test_no_flag_is_defined_for_other_programs():
    own = {name for module in (step, input_pipeline, faults, service) for name in module.FLAGS}
    assert not own & (set(flags.FLAGS) - {"help"})


@pytest.mark.parametrize("command", [step, input_pipeline])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: no config: give --config FILE"),
        (["--config=configs/demo.py:vtadl", "--steps=0"], "error: flag --steps=0"),
        (["--config=configs/demo.py:vtadl", "--config.model.vit.widht=8"], "did you mean"),
        (["--config=configs/demo.py:vtadl", "--json=nowhere/out.json"], "nowhere is not a folder"),
    ],
)
def test_mistakes_on_the_command_line(command, arguments, message, capsys):
    assert command.main(["", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", ["mvtec", "official"])
def test_packaged_experiments_are_found_from_any_folder(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = workloads.load_packaged(name)
    assert config.image_size == (512, 512)
    assert config.data.channels == 3


def test_the_settings_of_started_programs_are_fields_of_their_config():
    overrides = [f"--config.{name}={value}" for name, value in started.SETTINGS.items()]
    text = f"{started.ROOT / 'configs' / 'folder.py'}:{started.CATEGORY}"
    config, _ = experiment.load(text, overrides)
    assert config.model.vit.width == started.SETTINGS["model.vit.width"]


def test_a_detector_that_is_only_fitted_has_no_step(monkeypatch):
    config = tiny_config()
    fitted = type("Fitted", (), {"loss": None})()
    monkeypatch.setattr(workloads, "assemble", lambda *_, **__: Assembly(config, fitted, None))
    with pytest.raises(UserError, match="'vtadl' is fitted, without train steps"):
        workloads.assemble_trained(config)


@pytest.mark.slow
def test_step_tells_times_and_memory():
    config = tiny_config(model__vit__depth=1, batch_size=2, mesh__data=1)
    found = step.measure(config, repeats=1)
    assert found["config_shape"] == (2, 32, 32, 3)
    assert found["step_seconds"] > 0
    assert found["images_per_second"] == pytest.approx(2 / found["step_seconds"])


@pytest.mark.slow
def test_resident_images_are_trained_on_beside_a_constant_batch(tmp_path):
    root = tiny_dataset(tmp_path / "parts")
    config = tiny_config(root, model__vit__depth=1, batch_size=2, mesh__data=1)
    config = input_pipeline.resident_config(config, tmp_path)
    assert (config.data.cache, config.data.root) == ("device", str(root))
    found = input_pipeline.measure_step(workloads.assemble_trained(config), steps=10)
    assert set(found["step_seconds"]) == {"constant", "resident"}
    assert found["resident_over_constant"] > 0


@pytest.mark.slow
def test_each_way_to_read_is_timed(tmp_path):
    pytest.importorskip("torch", reason="torch is not installed (extra bench)")
    found = input_pipeline.measure_reading(tmp_path, images=16, drawn_side=64, workers=0, rounds=1)
    assert set(found["images_per_second"]) == {"torch_decode", "decode", "prepared", "host_cache"}
    assert json.loads(json.dumps(found))["decode_over_torch"] > 0
