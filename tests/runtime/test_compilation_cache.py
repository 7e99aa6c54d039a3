"""The compilation cache next to the runs, and the account of the time before the first step."""

import time

import jax
import jax.numpy as jnp
import pytest

from tests.cli import run_cli
from vtadl_jax.errors import UserError
from vtadl_jax.runtime import compilation_cache
from vtadl_jax.training.feed import TrainFeed

PROGRAM = """
import sys, jax, jax.numpy as jnp
from pathlib import Path
from vtadl_jax.runtime import compilation_cache
from vtadl_jax.errors import UserError
print(compilation_cache.use_compilation_cache(Path(sys.argv[1])))
with compilation_cache.watching_cache() as use:
    jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((4, 4))).block_until_ready()
print(use)
"""


@pytest.mark.slow
def test_a_second_process_finds_what_the_first_compiled(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    first, second = (run_cli("-c", PROGRAM, str(tmp_path / "runs")) for _ in range(2))
    assert first.returncode == 0, first.stderr
    folder, told = first.stdout.splitlines()
    assert folder == str(tmp_path / "runs" / compilation_cache.CACHE)
    assert "0 hits" in told
    misses = int(told.split(", ")[1].split()[0])
    assert misses > 0
    assert second.stdout.splitlines()[1] == f"compilation cache: {misses} hits, 0 misses"


@pytest.mark.slow
def test_commands_that_score_have_the_cache_of_the_user(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    program = (
        "import jax; from vtadl_jax.runtime import compilation_cache as c; c.use_own_cache(); "
        "print(jax.config.values['jax_compilation_cache_dir'])"
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    place = tmp_path / "caches" / "vtadl_jax" / compilation_cache.CACHE
    assert run_cli("-c", program).stdout == f"{place}\n"
    (tmp_path / "file").touch()  # no folder can be made in it
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert run_cli("-c", program).stdout == "None\n"


def test_a_place_that_the_user_chose_is_kept(tmp_path):
    before = jax.config.values["jax_compilation_cache_dir"]
    assert before  # conftest sets it
    assert str(compilation_cache.use_compilation_cache(tmp_path)) == before
    assert jax.config.values["jax_compilation_cache_dir"] == before


def test_laps_add_up_to_the_time_since_the_process_began(monkeypatch):
    monkeypatch.setattr(compilation_cache.Stopwatch, "_process_told", False)
    watch = compilation_cache.Stopwatch()
    watch.lap("imports")
    with watch.aside("compile"):
        time.sleep(0.05)
    watch.lap("data")
    time.sleep(0.02)
    watch.lap("imports")
    assert watch.parts["data"] >= 0.05
    assert watch.beside["compile"] >= 0.05
    assert watch.total == pytest.approx(sum(watch.parts.values()))
    assert str(watch).startswith(f"first step {watch.total:.1f}s after the process began: imports")
    assert "; meanwhile compile 0." in str(watch)
    second = compilation_cache.Stopwatch()
    second.lap("data")
    assert str(second).startswith("first step 0.0s after the run began: data 0.0s")


def test_a_process_that_compiles_nothing_says_so():
    with compilation_cache.watching_cache() as use:
        pass
    assert str(use) == "compilation cache not used"
    jnp.zeros(3)


def test_a_feed_that_was_started_gives_the_same_batches():
    def batches(started):
        feed = TrainFeed(
            iter([{"x": 1}, {"x": 2}, {"x": 3}]), lambda b: {k: -v for k, v in b.items()}, {}
        )
        if started:
            feed.start()
        return [next(feed) for _ in range(3)]

    assert batches(started=True) == batches(started=False) == [{"x": -1}, {"x": -2}, {"x": -3}]


def test_a_mistake_in_the_first_batch_is_told_where_it_is_taken():
    def put(_):
        raise UserError("image.png can't be read")

    feed = TrainFeed(iter([{"x": 1}]), put, {})
    feed.start()
    with pytest.raises(UserError, match=r"image\.png"):
        next(feed)
