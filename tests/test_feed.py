"""Where training images live: the same batches from files, host memory and the devices."""

import jax
import numpy as np
import pytest

from tests.data.factory import records
from tests.factory import tiny_config, tiny_dataset
from vtadl_jax import feed, main, sharding
from vtadl_jax.checkpoint import Checkpoints
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.errors import UserError
from vtadl_jax.models import make_detector
from vtadl_jax.optimizer import make_optimizer
from vtadl_jax.train import create_state

GEOMETRY = Geometry((4, 5))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return tiny_dataset(tmp_path_factory.mktemp("data") / "parts")


def small_feed(every, cache, devices, batch_size=8):
    config = tiny_config(data__cache=cache, data__channels=1, batch_size=batch_size)
    return feed.make_feed(config, every, GEOMETRY, sharding.make_mesh(devices))


def images_of(batch, mesh):
    if "image" in batch:
        return np.asarray(batch["image"])
    look_up = jax.jit(lambda b: sharding.take_rows(mesh, b["images"], b["index"]))
    taken = look_up(batch)
    assert taken.sharding.is_equivalent_to(sharding.batch_sharding(mesh), taken.ndim)
    return np.asarray(taken)


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_every_cache_gives_the_same_batches(tmp_path, devices):
    every = records(tmp_path, 11)  # 11 rows: the devices do not divide them
    mesh = sharding.make_mesh(devices)
    feeds = [small_feed(every, cache, devices) for cache in feed.CACHES]
    seen = []
    for _ in range(6):
        first, *others = (images_of(next(f), mesh) for f in feeds)
        for other in others:
            np.testing.assert_array_equal(first, other)
        seen += first[:, 0, 0, 0].tolist()
    assert sorted(seen[:11]) == sorted(seen[11:22]) == list(range(11))


@pytest.mark.parametrize("cache", feed.CACHES)
def test_shapes_are_those_of_the_batches(tmp_path, cache):
    a_feed = small_feed(records(tmp_path, 9), cache, 8)
    batch = next(a_feed)
    assert batch.keys() == a_feed.shapes.keys()
    for name, value in batch.items():
        shape = a_feed.shapes[name]
        assert (value.shape, value.dtype, value.sharding) == (
            shape.shape, shape.dtype, shape.sharding
        )  # fmt: skip


@pytest.mark.parametrize("count", [1, 7, 8, 20])
def test_resident_rows_are_shared_out(count):
    mesh = sharding.make_mesh(8)
    rows = np.random.default_rng(0).integers(0, 256, (count, 3, 2), np.uint8)
    resident = sharding.put_rows(mesh, rows)
    assert resident.shape[0] == -(-count // 8) * 8
    assert {s.data.shape[0] for s in resident.addressable_shards} == {resident.shape[0] // 8}
    np.testing.assert_array_equal(resident[:count], rows)


def test_a_resident_run_survives_interruption_and_ends_where_a_streaming_one_does(
    dataset, tmp_path
):
    def final(name, cache, *lengths):
        for steps in lengths:
            config = tiny_config(dataset, num_train_steps=steps, mesh__data=1, data__cache=cache)
            main.run(config, tmp_path / name)
        tx = make_optimizer(config.optimizer, 6)
        state = (
            Checkpoints(tmp_path / name).restore(create_state(make_detector(config), tx, 0)).state
        )
        return jax.tree.leaves(state)

    streamed = final("none", "none", 6)
    for cache, lengths in (("host", (6,)), ("device", (3, 6))):
        for a, b in zip(streamed, final(cache, cache, *lengths), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("cache", ["host", "device"])
def test_a_cache_that_does_not_fit_is_refused_with_the_numbers(
    dataset, tmp_path, monkeypatch, cache
):
    # 16 training images of 32×32×3 are 48 KiB.
    monkeypatch.setattr(feed, "free_host_bytes", lambda: 2**10)
    config = tiny_config(dataset, data__cache=cache)
    with pytest.raises(UserError, match=r"needs 0 MiB of host memory for 16 .* 0 MiB are free"):
        main.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_device_that_is_too_small_is_refused(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(feed, "free_device_bytes", lambda mesh: 2**10)
    with pytest.raises(UserError, match=r"on each device .*--config\.data\.cache=host"):
        main.run(tiny_config(dataset, data__cache="device"), tmp_path / "run")


def test_memory_that_is_free():
    mesh = sharding.make_mesh(8)
    assert 2**20 < feed.free_device_bytes(mesh) < feed.free_host_bytes() < 2**50


def test_an_unknown_cache(dataset, tmp_path):
    with pytest.raises(UserError, match=r"data\.cache 'disk': use none, host, device"):
        main.run(tiny_config(dataset, data__cache="disk"), tmp_path / "run")
