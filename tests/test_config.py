"""Command lines: what is understood, and the one line that each mistake gets."""

import json
from pathlib import Path

import pytest

from tests.cli import run_cli
from tests.factory import tiny_config
from vtadl_jax import config as config_lib
from vtadl_jax import main, sharding
from vtadl_jax.errors import UserError
from vtadl_jax.workdir import load_run

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(p.name for p in (ROOT / "configs").glob("*.py") if p.stem != "__init__")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no config: give --config FILE"),
        (["--config", "configs/mvtek.py"], "no such file: did you mean configs/mvtec.py?"),
        (["--config", "configs/mvtec.py", "--config.model.widht=8"], 'Did you mean "width"'),
        (["--config", "configs/mvtec.py", "--config.model.width=wide"], "config.model.width=wide"),
        (["--config", "configs/mvtec.py", "--config.model.width=1.5"], "config.model.width=1.5"),
        (["--config", "configs/mvtec.py", "--wrkdir=x"], "Did you mean: workdir"),
        (["--config", "configs/mvtec.py", "train"], "'train' is not understood"),
        (["--config", "configs/mvtec.py"], "data.root is empty"),
        (
            ["--config", "configs/mvtec.py", "--config.data.root=/no/such"],
            "/no/such does not exist",
        ),
        (["--config", "configs/demo.py", "--config.image_size=100,100"], "100 is not divisible"),
        (["--config", "configs/demo.py", "--config.data.source=tape"], "'tape'"),
        (["--config", "configs/demo.py", "--config.optimizer.schedule=linear"], "'linear'"),
        (["--config", "configs/demo.py", "--config.mesh.data=99"], "mesh.data 99"),
        (["--config", "configs/demo.py", "--config.data.resize=64,64"], "cannot be cut"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message, tmp_path):
    result = run_cli("vtadl_jax.main", *arguments, "--workdir", str(tmp_path / "run"))
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_train_steps", -3, "num_train_steps -3: use 0 or more"),
        ("log_every_steps", 0, "log_every_steps 0: use 1 or more"),
        ("optimizer__learning_rate", float("nan"), "learning_rate nan"),
        ("init_pixels", "grey", "init_pixels 'grey': use 'unit' or 'imagenet'"),
        ("init_from", "/no/such.npz", "/no/such.npz: no such file"),
        ("dtype", "float33", "dtype 'float33': use 'float32' or 'bfloat16'"),
        ("image_size", (32,), r"image_size \(32,\): give height and width"),
        ("data__channels", 4, "data.channels 4"),
        ("data__holdout_fraction", 0.0, "scores are calibrated on the images held out"),
        ("eval__fpr_limit", 0.0, "eval.fpr_limit 0.0"),
        ("optimizer__ema_decay", 1.0, "use less than 1"),
        ("eval__term_weights", (1.0, 2.0), "give 3 numbers, for mse, dissimilarity, max_nll"),
    ],
)
def test_impossible_values_are_refused_before_anything_is_written(field, value, message, tmp_path):
    with pytest.raises(UserError, match=message):
        main.run(tiny_config("/no/such/folder", **{field: value}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("c.batchsize = 4", "batch_size"),
        ("c.unlock(); c.learn_rate = 4", "unknown field learn_rate"),
        ("c.batch_size = 'many'", "many"),
        ("c.unlock(); del c.seed", "field seed is missing"),
        ("c = 3", "must return a ConfigDict"),
        ("import nothing_of_that_name", "nothing_of_that_name"),
        ("c.seed = = 1", "invalid syntax"),
    ],
)
def test_a_faulty_config_file_is_named(tmp_path, body, message):
    path = tmp_path / "mine.py"
    path.write_text(
        "from configs import default\ndef get_config():\n    c = default.get_config()\n"
        f"    {body}\n    return c\n"
    )
    result = run_cli("vtadl_jax.main", "--config", str(path))
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_overrides_reach_the_config():
    code = (
        "import sys; from vtadl_jax import config; c, name = config.parse_flags(sys.argv); "
        "print(name, c.data.category, c.image_size, c.optimizer.learning_rate)"
    )
    result = run_cli(
        "-c", code, "--config", "configs/mvtec.py:cable", "--config.image_size=256,128",
        "--config.optimizer.learning_rate=1",
    )  # fmt: skip
    assert result.stdout.split(maxsplit=2) == ["mvtec", "cable", "(256, 128) 1.0\n"]


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_names_its_command_and_only_known_fields(name):
    text = (ROOT / "configs" / name).read_text()
    if name != "default.py":
        assert f"python -m vtadl_jax.main --config configs/{name}" in text.split('"""')[1]
    result = run_cli(
        "-c", "import sys; from vtadl_jax import config; config.parse_flags(sys.argv)",
        "--config", f"configs/{name}",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr


def test_a_workdir_belongs_to_one_config(tmp_path):
    path = tmp_path / "config.json"
    config_lib.save(tiny_config("here"), path)
    config_lib.check_same_run(tiny_config("moved", num_train_steps=99, eval__batch_size=2), path)
    with pytest.raises(UserError, match=r"model\.width is 16 there and 32 here"):
        config_lib.check_same_run(tiny_config("here", model__width=32), path)
    assert json.loads(path.read_text())["model"]["width"] == 16


@pytest.mark.parametrize("field", ["batch_size", "model.filters.windows"])
def test_a_run_of_another_version_is_told_apart(tmp_path, field):
    stored = tiny_config(detector="surroundings").to_dict()
    node, (*parents, leaf) = stored, field.split(".")
    for parent in parents:
        node = node[parent]
    del node[leaf]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with pytest.raises(UserError, match=f"config.json is not of this version .*{leaf}"):
        load_run(tmp_path, sharding.make_mesh(data=-1, fsdp=1))
