"""Steps kept on disk run as they did, and only for what they were compiled for."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.factory import tiny_config
from vtadl_jax import executables


@pytest.fixture(scope="module")
def compiled():
    def step(state, batch):
        return {"count": state["count"] + 1}, {"sum": batch["x"].sum() + state["count"]}

    arguments = ({"count": jnp.ones(())}, {"x": jnp.arange(8.0)})
    return jax.jit(step).lower(*arguments).compile(), arguments


def test_a_kept_step_computes_the_same(compiled, tmp_path, capsys):
    step, arguments = compiled
    path = tmp_path / "kept" / "step.bin"
    executables.save(path, step)
    assert "kept the compiled step" in capsys.readouterr().err
    again = executables.load(path, jax.devices()[:1])
    assert again is not None
    for a, b in zip(
        jax.tree.leaves(step(*arguments)), jax.tree.leaves(again(*arguments)), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_what_is_missing_or_broken_is_compiled_instead(tmp_path, capsys):
    assert executables.load(tmp_path / "none.bin", jax.devices()[:1]) is None
    broken = tmp_path / "broken.bin"
    broken.write_bytes(b"not a pickle")
    assert executables.load(broken, jax.devices()[:1]) is None
    assert "can't be used" in capsys.readouterr().err


def test_the_key_follows_what_the_program_follows_from(compiled):
    _, arguments = compiled
    placed = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), arguments
    )

    def key(config=None, devices=1, shapes=placed, num_steps=100):
        config = tiny_config() if config is None else config
        return executables.key_of(config, jax.devices()[:devices], shapes, num_steps)

    assert key() == key()
    assert key() == key(tiny_config(log_every_steps=7, data__num_threads=3))
    other = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((*x.shape, 2), x.dtype, sharding=x.sharding), arguments
    )
    keys = [
        key(),
        key(tiny_config(model__depth=3)),
        key(tiny_config(optimizer__learning_rate=2e-3)),
        key(devices=2),
        key(shapes=other),
        key(num_steps=200),
    ]
    assert len(set(keys)) == len(keys)


RUN = """
import sys
from pathlib import Path

import jax
import jax.numpy as jnp

from tests.factory import tiny_config
from vtadl_jax import executables, sharding, train

def step(state, batch):
    x = batch["image"] @ state["w"]
    return {"w": state["w"] - 0.1 * jnp.tanh(x).mean(0)}, {"loss": jnp.square(x).mean()}

mesh = sharding.make_mesh(1)
state, batch = {"w": jnp.ones((64, 64))}, {"image": jnp.ones((8, 64))}
if sys.argv[1] == "compile":
    compiled = train.compile_train_step(jax.jit(step), state, batch)
else:
    compiled = executables.kept_step(
        tiny_config(), Path(sys.argv[2]), mesh, lambda: jax.jit(step), state, batch, 10
    )
print("loss", float(compiled(state, batch)[1]["loss"]))
"""


def test_a_step_that_the_cache_knows_can_still_be_kept(tmp_path):
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    said = []
    for what in ("compile", "keep", "take"):
        run = subprocess.run(
            [sys.executable, "-c", RUN, what, str(tmp_path / "runs")],
            cwd=Path(__file__).resolve().parents[1],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert run.returncode == 0, run.stderr
        said.append((run.stdout, run.stderr))
    assert said[0][0] == said[1][0] == said[2][0] == "loss 4096.0\n"
    assert "kept the compiled step" in said[1][1]
    assert "took the compiled step" in said[2][1]
