"""Command lines: what they accept, and the one-line errors for mistakes."""

import json
import os
import re
import subprocess
import sys

import pytest

from tests.cli import ROOT, environment, run_cli, run_main
from tests.factory import tiny_config
from vtadl_jax import options as options_lib
from vtadl_jax import run
from vtadl_jax.config import Config
from vtadl_jax.detectors import DETECTORS
from vtadl_jax.errors import UserError
from vtadl_jax.experiment import PACKAGED, base, load, parse
from vtadl_jax.legacy import nested
from vtadl_jax.training.stored import CONFIG

CONFIGS = sorted(p.name for p in (ROOT / "configs").glob("*.py") if p.stem != "__init__")
COMMANDS = [
    "vtadl_jax.main",
    "vtadl_jax.evaluate",
    "vtadl_jax.predict",
    "vtadl_jax.validate",
    "vtadl_jax.update",
    "vtadl_jax.export.__main__",
    "vtadl_jax.prepare",
    "vtadl_jax.compile",
    "vtadl_jax.experiments",
    "vtadl_jax.import_weights",
    "vtadl_jax.export.__main__",
]
TAKE_CONFIG = ["vtadl_jax.main", "vtadl_jax.compile", "vtadl_jax.import_weights"]


def error_of(done) -> str:
    """Returns the one-line error of a command, without notes."""
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.strip().splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no config: give --config FILE"),
        (["--config"], "--config needs a file"),
        (["--config", "configs/mvtek.py"], "no such file: did you mean configs/mvtec.py?"),
        (
            ["--config", "configs/mvtec.py", "--config.model.vit.widht=8"],
            "model.vit.widht: unknown field of detector 'vtadl': did you mean model.vit.width?",
        ),
        (
            ["--config", "configs/mvtec.py", "--config.model.vit.width=wide"],
            "config.model.vit.width=wide",
        ),
        (
            ["--config", "configs/mvtec.py", "--config.model.vit.width=1.5"],
            "config.model.vit.width=1.5",
        ),
        (
            ["--config", "configs/mvtec.py", "--config.detector=vtald"],
            "detector 'vtald': did you mean vtadl?",
        ),
        (["--config", "configs/mvtec.py", "--wrkdir=x"], "Did you mean: workdir"),
        (["--config", "configs/mvtec.py", "train"], "'train' is not understood"),
        (["--config", "configs/mvtec.py"], "data.root is empty"),
        (
            ["--config", "configs/mvtec.py", "--config.data.root=/no/such"],
            "/no/such does not exist",
        ),
        (
            ["--config", "configs/demo.py:vtadl", "--config.image_size=100,100"],
            "100 is not divisible",
        ),
        (["--config", "configs/demo.py", "--config.data.source=tape"], "'tape'"),
        (["--config", "configs/demo.py:vtadl", "--config.optimizer.schedule=linear"], "'linear'"),
        (["--config", "configs/demo.py:vtadl", "--config.mesh.data=99"], "mesh.data 99"),
        (["--config", "configs/demo.py", "--config.data.resize=64,64"], "cannot be cut"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message, tmp_path, capsys):
    done = run_main(capsys, "vtadl_jax.main", "--workdir", str(tmp_path / "run"), *arguments)
    assert message in error_of(done)
    assert not (tmp_path / "run").exists()


def test_a_mistake_in_a_process_of_its_own():
    done = run_cli("vtadl_jax.main", "--config", "configs/mvtec.py", "--config.batchsize=4")
    assert error_of(done).endswith("batchsize: unknown field: did you mean batch_size?")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_train_steps", -3, "num_train_steps -3: use 0 or more"),
        ("log_every_steps", 0, "log_every_steps 0: use 1 or more"),
        ("optimizer__learning_rate", float("nan"), "optimizer.learning_rate nan"),
        ("model__init_pixels", "grey", "model.init_pixels 'grey': use 'unit' or 'imagenet'"),
        ("init_from", "/no/such.npz", "/no/such.npz: no such file"),
        ("dtype", "float33", "dtype 'float33': use 'float32' or 'bfloat16'"),
        ("image_size", (32,), r"image_size \(32,\): give 2 values"),
        ("data__channels", 4, "data.channels 4"),
        ("data__holdout_fraction", 0.0, "data.holdout_fraction 0.0: use more than 0 and less"),
        ("eval__fpr_limit", 0.0, "eval.fpr_limit 0.0"),
        ("optimizer__ema_decay", 1.0, "use at least 0 and less than 1"),
        ("eval__term_weights", (1.0, 2.0), "give 3 numbers, for mse, dissimilarity, max_nll"),
        ("model__vit__widht", 8, "unknown field model.vit.widht: did you mean model.vit.width"),
        ("batch_size", True, "batch_size True: give an integer"),
        ("batch_size", 10**9, "batch_size 1000000000: use at most 1048576"),
        ("num_train_steps", 2**31, "num_train_steps 2147483648: use at most 2147483647"),
        ("num_train_steps", 10**500, "num_train_steps 1000.*…: use at most"),
        ("optimizer__learning_rate", 10**400, "optimizer.learning_rate 1.*: give a number"),
        ("optimizer__learning_rate", 1e39, r"learning_rate 1e\+39: use at most 3.4e\+38"),
        ("model__loss__nll_weight", float("-inf"), "nll_weight -inf: give a finite number"),
        ("seed", 2**63, "seed 9223372036854775808: use 0 to 9223372036854775807"),
        ("image_size", (32, 2**20), r"image_size \(32, 1048576\): use at most 16384"),
        ("data__root", "parts\0", r"data.root 'parts\\x00': give a text without zero bytes"),
        ("data__resize", (40,), r"data.resize \(40,\): give 0 or 2 values"),
        ("eval__image_threshold", "high", "eval.image_threshold 'high': give a number or None"),
    ],
)
def test_impossible_values_are_refused_before_anything_is_written(field, value, message, tmp_path):
    with pytest.raises(UserError, match=message):
        run.run(tiny_config("/no/such/folder", **{field: value}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_ranges_read_as_plain_english():
    texts = [
        role.range
        for _, _, role in options_lib.fields_of(Config(model=DETECTORS["vtadl"].options()))
    ]
    assert {"more than 0 and less than 1", "more than 0 and at most 1", "0 to 1"} <= set(texts)
    assert not [text for text in texts if " to less" in text or " to more" in text]


def test_a_filter_bank_has_a_filter():
    with pytest.raises(UserError, match=r"model.filters.sigmas \(\): give one or more values"):
        tiny_config(detector="filter_mixture", model__filters__sigmas=())


@pytest.mark.parametrize("detector", sorted(DETECTORS))
def test_a_number_of_components_of_zero_is_refused_by_every_detector(detector):
    for name, _, _ in options_lib.fields_of(DETECTORS[detector].options()):
        if name.endswith("num_components"):
            with pytest.raises(UserError, match="num_components 0: use 1 or more"):
                parse(nested({"detector": detector, f"model.{name}": 0}))


@pytest.mark.parametrize(
    ("config", "flag", "message"),
    [
        ("context_mdn", "model.mdn.covariance=full", "of detector 'context_mdn'"),
        ("autoencoder", "model.vit.width=8", "of detector 'autoencoder'"),
        ("position_gaussian", "model.mdn.num_components=4", "of detector 'position_gaussian'"),
        ("mvtec", "model.filter.stride=4", "of detector 'vtadl'"),
        ("mvtec", "model.num_components=4", "did you mean model.mdn.num_components?"),
        ("mvtec", "learning_rate=1", "did you mean optimizer.learning_rate?"),
    ],
)
def test_a_field_that_the_detector_does_not_read_is_refused(config, flag, message):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        load(f"configs/{config}.py", [f"--config.{flag}"])
    assert f"--config.{flag.partition('=')[0]}: unknown field" in str(caught.value)


def test_stored_and_parsed_configs_refuse_such_fields_too():
    values = base("context_mdn").to_dict()
    values["model"]["mdn"]["covariance"] = "full"
    with pytest.raises(UserError, match=r"unknown field model\.mdn\.covariance"):
        parse(values)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("c.batchsize = 4", "batch_size"),
        ("c.unlock(); c.learn_rate = 4", "unknown field learn_rate: did you mean"),
        ("c.batch_size = 'many'", "many"),
        ("c = 3", "must return a ConfigDict"),
        ("import nothing_of_that_name", "nothing_of_that_name"),
        ("c.seed = = 1", "invalid syntax"),
    ],
)
def test_a_faulty_config_file_is_named(tmp_path, body, message, capsys):
    path = tmp_path / "mine.py"
    path.write_text(
        "from vtadl_jax.experiment import base\ndef get_config():\n    c = base('vtadl')\n"
        f"    {body}\n    return c\n"
    )
    line = error_of(run_main(capsys, "vtadl_jax.main", "--config", str(path)))
    assert message in line
    assert str(path) in line


def test_a_field_that_a_file_leaves_out_has_its_default(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from vtadl_jax.experiment import base\ndef get_config():\n    c = base('vtadl')\n"
        "    c.unlock(); del c.seed\n    return c\n"
    )
    assert load(str(path))[0].seed == Config().seed


def test_overrides_reach_the_config():
    config, name = load(
        "configs/mvtec.py:cable",
        ["--config.image_size=256,128", "--config.optimizer.learning_rate=1"],
    )
    assert (name, config.data.category, config.image_size) == ("mvtec", "cable", (256, 128))
    assert config.optimizer.learning_rate == 1.0


# Names of earlier versions


@pytest.mark.parametrize(
    ("path", "flags", "said", "field", "value"),
    [
        ("configs/mvtec.py", ["model.width=96"], "model.width is called model.vit.width now",
         "model.vit.width", 96),
        ("configs/mvtec.py", ["model.patch_size=32"], "is called model.vit.patch_size now",
         "model.vit.patch_size", 32),
        ("configs/mvtec.py", ["train.share_update=False"], "is called train.shard_optimizer now",
         "train.shard_optimizer", False),
        ("configs/mvtec.py", ["loss.nll_weight=0.5"], "is called model.loss.nll_weight now",
         "model.loss.nll_weight", 0.5),
        ("configs/context_mdn.py", ["model.width=96"], "model.width is called model.mdn.hidden now",
         "model.mdn.hidden", 96),
        ("configs/autoencoder.py", ["model.autoencoder.latent_dim=9"],
         "is called model.latent_dim now", "model.latent_dim", 9),
        ("configs/floor.py", [], "configs/floor.py is called baseline_filters.py now",
         "detector", "filter_mixture"),
        ("configs/positions.py", ["model.filters.stride=4"],
         "configs/positions.py is called position_gaussian.py now", "model.filters.stride", 4),
        ("configs/mvtec.py", ["detector=surroundings"], "detector 'context_mdn' in place of",
         "detector", "context_mdn"),
    ],
)  # fmt: skip
def test_names_of_earlier_versions_are_understood_with_a_note(
    path, flags, said, field, value, capsys
):
    config, _ = load(path, [f"--config.{flag}" for flag in flags])
    noted = capsys.readouterr().err.strip()
    assert noted.startswith("note: ")
    assert said in noted
    assert len(noted.splitlines()) == 1
    assert dict(options_lib.flatten(config))[field] == value


def test_old_names_on_the_command_line_reach_the_run(dataset, tmp_path, capsys):
    done = run_main(
        capsys, "vtadl_jax.main", "--config", "configs/positions.py:gear", "--serialize",
        "--config.data.source=mvtec_layout", f"--config.data.root={dataset}",
        "--config.image_size=32,32", "--config.train.share_update=False",
        "--config.eval.num_pictures=1", "--workdir", str(tmp_path / "run"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for said in ("positions.py is called", "train.share_update is called", "--serialize has"):
        assert f"note: {said}" in done.stderr.replace("configs/", "").replace("field ", "")
    assert json.loads((tmp_path / "run" / CONFIG).read_text())["train"]["shard_optimizer"] is False


# Help


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_usage_and_flags_and_exits_with_0(command, capsys):
    done = run_main(capsys, command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "python -m vtadl_jax." in done.stdout
    flags = re.findall(r"^ *--(?:\[no\])?(\w+)", done.stdout, re.MULTILINE)
    assert "help" in flags
    assert not {"flagfile", "undefok"} & set(flags)
    assert len(flags) > 2


@pytest.mark.parametrize("command", TAKE_CONFIG)
def test_help_of_a_config_lists_its_fields_with_unit_and_range(command, capsys):
    done = run_main(
        capsys, command, "--config=configs/official.py", "--config.data.augment.contrast=0.25",
        "--help",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    lines = {line.split("=")[0].strip(): line for line in done.stdout.splitlines() if "=" in line}
    assert "degrees" in lines["--config.data.augment.rotation_degrees"]
    assert "0 to 180" in lines["--config.data.augment.rotation_degrees"]
    assert "=0.25" in lines["--config.data.augment.contrast"]
    assert "'constant' or 'cosine'" in lines["--config.optimizer.schedule"]
    config = load("configs/official.py")[0]
    assert {f"--config.{name}" for name, _, _ in options_lib.fields_of(config)} <= lines.keys()


@pytest.mark.slow
def test_help_into_a_closed_pipe_ends_without_a_traceback():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "vtadl_jax.import_torch", "--help"],
        stdout=writer, stderr=subprocess.PIPE, text=True, check=False, env=environment(),
    )  # fmt: skip
    os.close(writer)
    assert done.returncode == 0
    assert done.stderr == (
        "note: python -m vtadl_jax.import_torch is called python -m vtadl_jax.import_weights now\n"
    )


def test_help_in_a_process_of_its_own():
    done = run_cli("vtadl_jax.main", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--config FILE[:ARGUMENT]" in done.stdout


@pytest.mark.slow
def test_importing_the_predictor_defines_no_flags():
    code = (
        "from absl import flags\n"
        "from vtadl_jax.evaluation.predictor import Predictor\n"
        "print([m for m in flags.FLAGS.flags_by_module_dict() if 'vtadl' in m])\n"
        "flags.DEFINE_string('config', '', 'Of another program.')\n"
        "flags.DEFINE_string('workdir', '', 'Of another program.')\n"
    )
    found = run_cli("-c", code)
    assert (found.returncode, found.stdout) == (0, "[]\n"), found.stderr


# Config files


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_names_its_command_and_only_known_fields(name):
    text = (ROOT / "configs" / name).read_text()
    assert f"python -m vtadl_jax.main --config configs/{name}" in text.split('"""')[1]
    assert len(text.splitlines()) <= 40
    load(f"configs/{name}")


def test_every_field_has_a_meaning_and_a_default_in_its_range():
    for detector, method in DETECTORS.items():
        config = Config(detector=detector, model=method.options())
        for name, value, role in options_lib.fields_of(config):
            assert role.help or role.unit, name
            assert name in ("detector", "init_from") or role.allows(value), name
        assert parse(config.to_dict()) == config


def test_the_packaged_configs_are_those_of_the_checkout():
    found = {path.name for path in PACKAGED.glob("*.py")} - {"__init__.py"}
    assert found <= set(CONFIGS)


def test_names_on_the_command_line_are_separated_by_commas():
    flags = ["--config.model.use=subspace, filter_mixture", "--config.data.defects=crack"]
    config, _ = load("configs/experts.py", flags)
    assert config.model.use == ("subspace", "filter_mixture")
    assert config.data.defects == ("crack",)
