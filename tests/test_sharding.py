"""Every way of spreading a step over devices, parts and processes gives one device's numbers."""

import functools
import math
import re

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from configs import default
from tests.factory import tiny_config
from tests.test_train import setup
from vtadl_jax import sharding, train
from vtadl_jax.errors import UserError
from vtadl_jax.models import make_detector
from vtadl_jax.optimizer import make_optimizer

FIELDS = {"model__mdn__noise_std": 0.2, "model__width": 64, "model__mlp_dim": 128}
FORMS = {
    "two devices": {"devices": 2},
    "four": {"devices": 4},
    "eight": {"devices": 8},
    "four, each updating all": {"devices": 4, "train__share_update": False},
    "4 x 2, shared weights": {"devices": 4, "fsdp": 2},
    "1 x 8, shared weights": {"devices": 1, "fsdp": 8},
    "mapped over eight": {"devices": 8, "train__parallel": "pmap"},
    "in four parts": {"train__accumulate": 4},
    "two devices, in two parts, mapped": {
        "devices": 2,
        "train__accumulate": 2,
        "train__parallel": "pmap",
    },
}


def one_step(devices=1, fsdp=1, **fields):
    state, step, batch = setup(tiny_config(**FIELDS, **fields), devices, fsdp=fsdp)
    state, metrics = step(state, batch)
    return jax.device_get((state.params, state.batch_stats, metrics))


@pytest.fixture(scope="module")
def alone():
    return one_step()


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


def temporary_memory(fsdp=1, **fields):
    config = tiny_config(image_size=(64, 64), **fields)
    detector, mesh = make_detector(config), sharding.make_mesh(1, fsdp)
    tx = make_optimizer(config.optimizer, 1)
    state = jax.eval_shape(functools.partial(train.create_state, detector, tx, 0))
    state = sharding.state_shapes(mesh, state)
    split = sharding.batch_sharding(mesh)
    images = {"image": jax.ShapeDtypeStruct((8, 64, 64, 3), np.uint8, sharding=split)}
    step = train.make_train_step(detector, tx, mesh, state)
    return train.compile_train_step(step, state, images).memory_analysis().temp_size_in_bytes


def test_working_in_parts_takes_less_memory():
    assert temporary_memory(train__accumulate=4) < 0.6 * temporary_memory(train__accumulate=1)


@pytest.mark.parametrize("fsdp", [1, 8])
def test_recomputing_blocks_takes_less_memory(fsdp):
    fields = {**FIELDS, "model__depth": 16, "model__patch_size": 8}
    kept, made_again = (temporary_memory(fsdp, model__remat=r, **fields) for r in (False, True))
    assert made_again < 0.5 * kept


def test_each_device_holds_its_share_of_the_papers_state():
    config = default.get_config()
    make = functools.partial(
        train.create_state, make_detector(config), make_optimizer(config.optimizer, 1), 0
    )
    state, mesh = jax.eval_shape(make), sharding.make_mesh(1, 8)
    shares = jax.tree.map(
        lambda x, s: math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize,
        state,
        sharding.state_sharding(mesh, state),
    )
    whole = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(state))
    assert whole > 3 * 4 * 47e6  # parameters and Adam's two moments
    assert sum(jax.tree.leaves(shares)) <= whole / 8 * 1.05


def test_the_compiled_step_takes_shares_as_arguments():
    state, step, batch = setup(tiny_config(**FIELDS), 1, fsdp=8)
    shares = [x.addressable_shards[0].data.nbytes for x in jax.tree.leaves((state, batch))]
    padding = 64 * len(shares)
    assert step.memory_analysis().argument_size_in_bytes <= sum(shares) + padding
    assert sum(shares) < 0.3 * sum(x.nbytes for x in jax.tree.leaves(state))


def test_moments_are_shared_among_all_devices():
    state, step, batch = setup(tiny_config(**FIELDS, optimizer__ema_decay=0.9), 4, fsdp=2)
    held = {
        name: sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree))
        / sum(x.nbytes for x in jax.tree.leaves(tree))
        for name, tree in (("weights", state.params), ("moments", state.opt_state))
    }
    assert held["moments"] < 0.2 < 0.45 < held["weights"]  # an eighth and a half, but for the small
    after, _ = step(state, batch)
    for old, new in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
        assert old.sharding == new.sharding


def test_weights_are_gathered_one_by_one():
    state, step, _ = setup(tiny_config(**FIELDS, model__depth=4), 1, fsdp=8)
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
            "'pmap' keeps whole states, mesh.fsdp is 2: use",
        ),
        (
            lambda: sharding.check_parallel("pjit", sharding.make_mesh(1)),
            "train.parallel 'pjit': use 'jit' or 'pmap'",
        ),
        (
            lambda: sharding.check_batch("batch_size", 12, sharding.make_mesh(4), 2),
            "batch_size 12 is not divisible by 4 data-parallel devices, 2 parts each: use 16",
        ),
    ],
)
def test_what_cannot_be_is_said_with_the_remedy(call, message):
    with pytest.raises(UserError, match=message):
        call()
