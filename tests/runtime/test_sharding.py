"""Every way to split a step over devices, microbatches and processes gives one device's results."""

import math
import re

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from tests.factory import tiny_config
from tests.training.steps import make_step
from vtadl_jax.errors import UserError
from vtadl_jax.experiment import base, parse
from vtadl_jax.runtime import sharding
from vtadl_jax.training.assembly import assemble
from vtadl_jax.training.compiled_steps import compile_train_step
from vtadl_jax.training.state import TrainState

FIELDS = {"model__mdn__noise_std": 0.2, "model__vit__width": 64, "model__vit__mlp_dim": 128}
FORMS = {
    "eight": {"devices": 8},
    "four, each updating all": {"devices": 4, "train__shard_optimizer": False},
    "4 x 2, shared weights": {"devices": 4, "fsdp": 2},
    "1 x 8, shared weights": {"devices": 1, "fsdp": 8},
    "mapped over eight": {"devices": 8, "train__parallel": "pmap"},
    "two devices, in two parts, mapped": {
        "devices": 2,
        "train__accumulate": 2,
        "train__parallel": "pmap",
    },
}


def one_step(devices=1, fsdp=1, **fields):
    state, step, batch = make_step(tiny_config(**FIELDS, **fields), devices, fsdp=fsdp)
    state, metrics = step(state, batch)
    return jax.device_get((state.params, state.stats, metrics))


@pytest.fixture(scope="session")
def alone(shared):
    return shared("one device", lambda _: one_step())


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_one_step_is_that_of_one_device(alone, form):
    params, stats, metrics = one_step(**FORMS[form])
    assert metrics.keys() == alone[2].keys()
    for name, value in metrics.items():
        assert value == pytest.approx(alone[2][name], rel=1e-5 if name == "loss" else 1e-4)
    pairs = zip(jax.tree.leaves((params, stats)), jax.tree.leaves(alone[:2]), strict=True)
    differences, sizes = zip(
        *((np.square(a - b).sum(), np.square(b).sum()) for a, b in pairs), strict=True
    )
    assert np.sqrt(sum(differences) / sum(sizes)) < 1e-4


def temporary_memory(**fields):
    assembly = assemble(tiny_config(image_size=(64, 64), **fields), 1)
    mesh = sharding.make_mesh(1)
    shapes, split = assembly.state_shapes(mesh), sharding.batch_sharding(mesh)
    images = {"image": jax.ShapeDtypeStruct((8, 64, 64, 3), np.uint8, sharding=split)}
    step = compile_train_step(assembly.make_step(mesh, shapes), shapes, images)
    return step.memory_analysis().temp_size_in_bytes


@pytest.mark.slow
def test_working_in_parts_takes_less_memory():
    assert temporary_memory(train__accumulate=4) < 0.6 * temporary_memory(train__accumulate=1)


@pytest.mark.slow
def test_recomputing_blocks_takes_less_memory():
    fields = {**FIELDS, "model__vit__depth": 16, "model__vit__patch_size": 8}
    kept, made_again = (temporary_memory(model__vit__remat=r, **fields) for r in (False, True))
    assert made_again < 0.5 * kept


@pytest.mark.slow
def test_each_device_holds_its_share_of_the_papers_state():
    assembly = assemble(parse(base("vtadl").to_dict()), 1)
    state, mesh = assembly.shapes, sharding.make_mesh(1, 8)
    shares = jax.tree.map(
        lambda x, s: math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize,
        state,
        sharding.state_sharding(mesh, state),
    )
    whole = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(state))
    assert whole > 3 * 4 * 47e6  # parameters and Adam's two moments
    assert sum(jax.tree.leaves(shares)) <= whole / 8 * 1.05


@pytest.mark.slow
def test_the_compiled_step_takes_shares_as_arguments():
    state, step, batch = make_step(tiny_config(**FIELDS), 1, fsdp=8)
    shares = [x.addressable_shards[0].data.nbytes for x in jax.tree.leaves((state, batch))]
    padding = 64 * len(shares)
    assert step.memory_analysis().argument_size_in_bytes <= sum(shares) + padding
    assert sum(shares) < 0.3 * sum(x.nbytes for x in jax.tree.leaves(state))


@pytest.mark.slow
def test_moments_are_shared_among_all_devices():
    state, step, batch = make_step(tiny_config(**FIELDS, optimizer__ema_decay=0.9), 4, fsdp=2)
    held = {
        name: sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree))
        / sum(x.nbytes for x in jax.tree.leaves(tree))
        for name, tree in (("weights", state.params), ("moments", state.opt_state))
    }
    assert held["moments"] < 0.2 < 0.45 < held["weights"]  # an eighth and a half, but for the small
    after, _ = step(state, batch)
    for old, new in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
        assert old.sharding == new.sharding


@pytest.mark.slow
def test_weights_are_gathered_one_by_one():
    state, step, _ = make_step(tiny_config(**FIELDS, model__vit__depth=4), 1, fsdp=8)
    found = re.findall(r"= f32\[([\d,]*)\]\S* all-gather", step.as_text())
    gathered = {tuple(int(n) for n in shape.split(",") if n) for shape in found}
    shared = [
        leaf.shape
        for leaf in jax.tree.leaves(state.params["encoder"]["blocks"])
        if not leaf.sharding.is_fully_replicated
    ]
    assert shared
    for depth, *shape in shared:
        assert tuple(shape) in gathered or (1, *shape) in gathered  # a layer's
        assert (depth, *shape) not in gathered  # never all layers' at once


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int32, np.float32])
@pytest.mark.parametrize("devices", [1, 8])
def test_rows_of_any_type_are_looked_up(devices, dtype):
    mesh = sharding.make_mesh(devices)
    rows = np.random.default_rng(0).integers(0, 2, (11, 3)).astype(dtype)
    index = np.array([10, 0, 3, 3, 7, 1, 9, 2], np.int32)
    take = jax.jit(lambda rows, index: sharding.take_rows(mesh, rows, index))
    found = take(sharding.put_rows(mesh, rows), sharding.put_batch(mesh, index))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, rows[index])


def test_frozen_weights_are_whole_on_every_device():
    weight = jax.ShapeDtypeStruct((512, 1024), np.float32)
    state = TrainState(None, {}, {}, weight, {"mu": weight}, None, None)
    placed = sharding.state_sharding(sharding.make_mesh(2, 4), state, shard_optimizer=True)
    assert placed.frozen.spec == PartitionSpec()
    assert placed.opt_state["mu"].spec == PartitionSpec(None, ("fsdp", "data"))


def test_a_state_is_shared_by_the_longest_axis_that_divides():
    mesh = sharding.make_mesh(2, 4)
    spec = {
        name: sharding.state_sharding(mesh, jax.ShapeDtypeStruct(shape, np.float32)).spec
        for name, shape in {
            "kernel": (6, 512, 1024),
            "odd": (4098, 8),
            "small": (64,),
            "none": (4099, 3),
        }.items()
    }
    assert spec["kernel"] == PartitionSpec(None, None, "fsdp")
    assert spec["odd"] == PartitionSpec(None, "fsdp")
    assert spec["small"] == spec["none"] == PartitionSpec()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sharding.make_mesh(0), "mesh.data 0: 8 cpu device.* use 1 to 8, or -1 for all"),
        (lambda: sharding.make_mesh(3, 4), "mesh.data 3: .* use 1 to 2 of 4 each"),
        (lambda: sharding.make_mesh(-1, 3), "mesh.fsdp 3 does not divide the devices: 8 cpu"),
        (lambda: sharding.make_mesh(1, 9), "mesh.fsdp 9: 8 cpu .* use 1 to 8"),
        (
            lambda: sharding.check_parallel("pmap", sharding.make_mesh(4, 2)),
            "'pmap' replicates the state, mesh.fsdp is 2: use",
        ),
        (
            lambda: sharding.check_batch("batch_size", 12, sharding.make_mesh(4), 2),
            "12 is not divisible by 4 data-parallel devices, 2 microbatches each: use 16",
        ),
    ],
)
def test_what_cannot_be_is_said_with_the_remedy(call, message):
    with pytest.raises(UserError, match=message):
        call()
