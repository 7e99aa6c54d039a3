"""Checkpoints: which are kept, their content, damage, full disks, other devices."""

import collections
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtadl_jax import __version__, legacy
from vtadl_jax.errors import UserError
from vtadl_jax.runtime import sharding
from vtadl_jax.training import checkpoint
from vtadl_jax.training.checkpoint import CHECKSUMS, Best, Checkpoints
from vtadl_jax.training.state import TrainState
from vtadl_jax.training.stored import FROZEN


class Position:
    """A data iterator with the methods that checkpoints use."""

    def __init__(self):
        self.taken = 0

    def get_state(self):
        return {"next_index": self.taken}

    def set_state(self, state):
        self.taken = state["next_index"]


def state_of(step, mesh=None, frozen=1.0):
    state = TrainState(
        step=jnp.asarray(step),
        params={"w": jnp.arange(8192.0).reshape(8, 1024) + step},
        stats={"mean": jnp.full(3, step)},
        frozen={"network": {"kernel": jnp.full((2, 3), frozen)}},
        opt_state=(),
        ema_params=None,
        key=jnp.zeros(2, jnp.uint32),
    )
    return sharding.put_state(mesh or sharding.make_mesh(1), state)


def save(checkpoints, *steps, **more):
    position = Position()
    for step in steps:
        position.taken = step
        checkpoints.save(step, state_of(step), position, **more)
    checkpoints.wait()


@pytest.fixture
def four(tmp_path):
    """A folder with checkpoints of steps 1 to 4."""
    checkpoints = Checkpoints(tmp_path, keep=4)
    save(checkpoints, 1, 2, 3, 4, config={"seed": 7}, calibration={"mean": [1.5]})
    checkpoints.close()
    return tmp_path


def restore(workdir, **options):
    checkpoints = Checkpoints(workdir, **options)
    position = Position()
    try:
        return checkpoints.restore(state_of(0), position), position
    finally:
        checkpoints.close()


def test_a_checkpoint_holds_state_position_config_and_calibration(four):
    found, position = restore(four)
    assert (found.step, int(found.state.step), position.taken) == (4, 4, 4)
    np.testing.assert_array_equal(found.state.params["w"], state_of(4).params["w"])
    assert {name: found.about[name] for name in ("config", "calibration")} == {
        "config": {"seed": 7},
        "calibration": {"mean": [1.5]},
    }
    assert found.about["format"] == legacy.FORMAT
    assert found.about["versions"]["vtadl_jax"] == __version__


def test_frozen_weights_are_kept_once_a_run(four):
    found, _ = restore(four)
    np.testing.assert_array_equal(found.state.frozen["network"]["kernel"], np.ones((2, 3)))
    assert (four / FROZEN).is_file()
    names = [path.name for path in (four / "checkpoints").rglob("*")]
    assert not [name for name in names if "frozen" in name or "kernel" in name]
    written = (four / FROZEN).stat().st_mtime_ns
    checkpoints = Checkpoints(four, keep=4)
    save(checkpoints, 5)
    checkpoints.close()
    assert (four / FROZEN).stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "the run's frozen weights, can't be read"),
        (lambda path: path.write_bytes(path.read_bytes()[:99]), "can't be read"),
        (lambda path: np.savez(path, other=np.ones(3)), "is from another network: network/kernel"),
    ],
)
def test_frozen_weights_that_are_gone_or_wrong_are_told(four, spoil, message):
    spoil(four / FROZEN)
    with pytest.raises(UserError, match=message):
        restore(four)


@pytest.mark.slow
def test_a_checkpoint_of_a_newer_version_is_refused_with_both_versions(four, monkeypatch):
    monkeypatch.setattr(legacy, "FORMAT", 1)
    with pytest.raises(UserError, match=r"by a newer version .*format 2; this is .*, format 1"):
        restore(four)


@pytest.mark.slow
@pytest.mark.parametrize(("largest", "kept"), [(True, [1, 5, 6]), (False, [3, 5, 6])])
def test_the_newest_and_the_best_are_kept(tmp_path, largest, kept):
    checkpoints = Checkpoints(tmp_path, keep=2, best=Best("score", largest))
    for step, score in zip(range(1, 7), (9.0, 5.0, 1.0, 5.0, 4.0, None), strict=True):
        numbers = {} if score is None else {"score": score, "other": -score}
        save(checkpoints, step, numbers=numbers)
        if step == 4:  # as after a kill
            checkpoints.close()
            checkpoints = Checkpoints(tmp_path, keep=2, best=Best("score", largest))
    assert checkpoints.steps == kept
    checkpoints.close()


def test_a_saved_step_is_not_saved_again(four):
    checkpoints = Checkpoints(four, keep=4)
    save(checkpoints, 4)
    assert checkpoints.steps == [1, 2, 3, 4]
    checkpoints.close()


def damage_cut(folder):
    victim = max(
        (p for p in (folder / "state").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size
    )
    victim.write_bytes(victim.read_bytes()[:-7])


def damage_bit(folder):
    victim = max(
        (p for p in (folder / "state").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size
    )
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)


def damage_gone(folder):
    shutil.rmtree(folder / "state")


def damage_list(folder):
    (folder / CHECKSUMS).write_text("{")


def damage_half(folder):
    (folder / CHECKSUMS).unlink()


def damage_list_of_another_kind(folder):
    (folder / CHECKSUMS).write_text("[]")


def damage_entry(folder):
    (folder / CHECKSUMS).write_text('{"state/_METADATA": 5}')


def damage_list_that_is_empty(folder):
    (folder / CHECKSUMS).write_text("{}")


DAMAGE = {
    damage_list_of_another_kind: "it holds a list",
    damage_entry: "it says 5 of state/_METADATA",
    damage_list_that_is_empty: "it lists no files",
    damage_cut: "bytes instead of",
    damage_bit: "has another checksum",
    damage_gone: "No such file",
    damage_list: CHECKSUMS,
    damage_half: f"no {CHECKSUMS}",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_newest_is_named_put_aside_and_the_one_before_used(four, capsys, damage):
    damage(four / "checkpoints" / "4")
    found, position = restore(four)
    assert (found.step, position.taken) == (3, 3)
    said = capsys.readouterr().err
    assert f"{four / 'checkpoints' / '4'} is damaged: " in said
    assert DAMAGE[damage] in said
    assert (four / "checkpoints" / "damaged-4").is_dir()
    checkpoints = Checkpoints(four, keep=4)
    save(checkpoints, 4)
    assert checkpoints.steps == [1, 2, 3, 4]
    checkpoints.close()


def test_readers_use_the_one_before_and_change_nothing(four):
    damage_bit(four / "checkpoints" / "4")
    found, _ = restore(four, writable=False)
    assert found.step == 3
    assert (four / "checkpoints" / "4").is_dir()


def test_no_usable_checkpoint_is_a_mistake_that_says_so(four):
    for step in range(1, 5):
        damage_gone(four / "checkpoints" / str(step))
    with pytest.raises(UserError, match="holds no usable checkpoint"):
        restore(four)


def test_what_a_killed_save_left_is_tidied_up(four):
    torn = four / "checkpoints" / "5.orbax-checkpoint-tmp"
    torn.mkdir()
    (torn / "state").mkdir()
    found, _ = restore(four)
    assert found.step == 4
    assert not torn.exists()


def test_the_list_names_every_file(four):
    folder = four / "checkpoints" / "4"
    listed = json.loads((folder / CHECKSUMS).read_text())
    files = [path for path in folder.rglob("*") if path.is_file()]
    names = {p.relative_to(folder).as_posix() for p in files if p.name not in checkpoint.LATER}
    assert listed.keys() == names - {CHECKSUMS}


def test_a_disk_without_room_leaves_the_last_good_one(four, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage(1, 1, 100))
    checkpoints = Checkpoints(four, keep=4)
    with pytest.raises(UserError, match=r"takes 0 MiB, 0 are free; the last good one is step 4"):
        save(checkpoints, 5)
    checkpoints.close()
    assert restore(four)[0].step == 4


def test_a_write_that_fails_in_the_background_is_said_in_one_line(four, monkeypatch):
    checkpoints = Checkpoints(four, keep=4)

    def full():
        raise ValueError("RESOURCE_EXHAUSTED: Failed writing: No space left on device")

    monkeypatch.setattr(checkpoints._manager, "wait_until_finished", full)
    with pytest.raises(UserError, match=r"No space left on device; the last good one is step 4"):
        checkpoints.wait()


def test_other_errors_are_not_taken_for_a_full_disk():
    assert checkpoint.disk_trouble(OSError(28, "No space left on device")) is not None
    assert checkpoint.disk_trouble(ValueError("shapes differ")) is None


@pytest.mark.parametrize("shape", [(8, 1), (2, 4), (1, 8)])
def test_a_state_goes_on_over_other_devices(four, shape):
    mesh = sharding.make_mesh(*shape)
    checkpoints = Checkpoints(four, keep=4)
    found = checkpoints.restore(state_of(0, mesh)).state
    checkpoints.close()
    weight, expected = found.params["w"], sharding.state_sharding(mesh, found).params["w"]
    np.testing.assert_array_equal(weight, state_of(4).params["w"])
    assert weight.sharding.is_equivalent_to(expected, 2)
    assert len(weight.sharding.device_set) == 8
    assert found.frozen["network"]["kernel"].sharding.is_fully_replicated
    assert jax.tree.all(jax.tree.map(lambda x: x.is_fully_addressable, found))
