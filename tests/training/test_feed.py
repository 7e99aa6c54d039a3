"""Caches of training images: the same batches from files, host memory and the devices."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.data.factory import records, write
from tests.factory import tiny_config
from tests.training.steps import QUICK
from tests.training.test_loop import final_state
from vtadl_jax import run
from vtadl_jax.data.records import Record
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.errors import UserError
from vtadl_jax.runtime import sharding
from vtadl_jax.training import feed

GEOMETRY = Geometry((4, 5))
CACHES = ("none", "host", "device")
NEEDS = [(), ("label",), ("mask",), ("label", "mask")]
NAMES = {"label": {"label"}, "mask": {"mask", "has_mask"}}


def small_feed(every, cache, devices, needs=()):
    config = tiny_config(data__cache=cache, data__channels=1)
    return feed.make_feed(config, every, GEOMETRY, sharding.make_mesh(devices), needs)


def with_defects(folder, count):
    """Records, every second one defective, and every second of these with a mask: its right
    columns, one more each."""
    found = []
    for number, record in enumerate(records(folder, count)):
        mask = None
        if number % 4 == 1:
            pixels = np.zeros((8, 6), np.uint8)
            pixels[:, 5 - number // 4 :] = 255
            mask = write(folder / "masks" / f"{number}.png", pixels)
        defect = "scratch" if number % 2 else "good"
        found.append(Record(record.image, mask, number % 2, defect, record.name))
    return found


def taken(batch, mesh):
    """A batch as the step sees it, in numpy; resident rows are looked up as the step does."""
    if "index" in batch:
        look_up = jax.jit(
            lambda b: {
                k: sharding.take_rows(mesh, rows, b["index"]) for k, rows in b["resident"].items()
            }
        )
        batch = look_up(batch)
    for value in batch.values():
        assert value.sharding.is_equivalent_to(sharding.batch_sharding(mesh), value.ndim)
    return {name: np.asarray(value) for name, value in batch.items()}


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2, 8])
def test_every_cache_gives_the_same_batches(tmp_path, devices):
    every = records(tmp_path, 11)  # 11 rows: the devices do not divide them
    mesh = sharding.make_mesh(devices)
    feeds = [small_feed(every, cache, devices) for cache in CACHES]
    seen = []
    for _ in range(6):
        first, *others = (taken(next(f), mesh)["image"] for f in feeds)
        for other in others:
            np.testing.assert_array_equal(first, other)
        seen += first[:, 0, 0, 0].tolist()
    assert sorted(seen[:11]) == sorted(seen[11:22]) == list(range(11))


@pytest.mark.parametrize("needs", NEEDS)
@pytest.mark.parametrize("cache", CACHES)
def test_labels_and_masks_come_with_their_images(tmp_path, cache, needs):
    every, mesh = with_defects(tmp_path, 11), sharding.make_mesh(8)
    a_feed = small_feed(every, cache, 8, needs)
    for _ in range(3):
        batch = taken(next(a_feed), mesh)
        assert batch.keys() == {"image"}.union(*(NAMES[need] for need in needs))
        numbers = batch["image"][:, 0, 0, 0].astype(int)
        if "label" in needs:
            assert batch["label"].dtype == np.int32
            np.testing.assert_array_equal(batch["label"], numbers % 2)
        if "mask" in needs:
            assert (batch["mask"].dtype, batch["has_mask"].dtype) == (np.uint8, bool)
            np.testing.assert_array_equal(batch["has_mask"], numbers % 4 != 3)
            for number, mask in zip(numbers, batch["mask"], strict=True):
                assert mask.any() == (number % 4 == 1)
                if mask.any():  # of columns at the right
                    assert (np.diff(mask.astype(int), axis=1) >= 0).all()


def test_masks_are_not_read_where_they_are_not_needed(tmp_path):
    every = [
        dataclasses.replace(record, mask=record.mask and tmp_path / "gone.png")
        for record in with_defects(tmp_path, 11)
    ]
    assert set(next(small_feed(every, "none", 1, ("label",)))) == {"image", "label"}
    feeds = (small_feed(every, "none", 1, ("mask",)) for _ in range(3))
    with pytest.raises(UserError, match=r"gone\.png"):
        list(map(next, feeds))


@pytest.mark.parametrize("needs", NEEDS)
@pytest.mark.parametrize("cache", CACHES)
def test_shapes_are_those_of_the_batches(tmp_path, cache, needs):
    a_feed = small_feed(with_defects(tmp_path, 9), cache, 8, needs)
    batch = next(a_feed)
    kinds = [
        jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), tree)
        for tree in (batch, a_feed.shapes)
    ]
    assert kinds[0] == kinds[1]


@pytest.mark.parametrize("count", [1, 7, 8, 20])
def test_resident_rows_are_shared_out(count):
    mesh = sharding.make_mesh(8)
    rows = np.random.default_rng(0).integers(0, 256, (count, 3, 2), np.uint8)
    resident = sharding.put_rows(mesh, rows)
    assert resident.shape[0] == -(-count // 8) * 8
    assert {s.data.shape[0] for s in resident.addressable_shards} == {resident.shape[0] // 8}
    np.testing.assert_array_equal(resident[:count], rows)


@pytest.mark.optimized  # two programs: at level 0 they need not round alike
@pytest.mark.parametrize("fields", [QUICK, {}])
def test_a_resident_run_survives_interruption_and_ends_where_a_streaming_one_does(
    dataset, tmp_path, fields
):
    def final(cache, *lengths):
        config = tiny_config(dataset, **fields, mesh__data=1, data__cache=cache)
        return final_state(config, tmp_path / cache, *lengths)

    streamed = final("none", 6)
    for cache, lengths in (("host", (6,)), ("device", (3, 6))):
        for a, b in zip(streamed, final(cache, *lengths), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("cache", ["host", "device"])
def test_a_cache_that_does_not_fit_is_refused_with_the_numbers(
    dataset, tmp_path, monkeypatch, cache
):
    # 16 training images of 32×32×3 are 48 KiB.
    monkeypatch.setattr(feed, "free_host_bytes", lambda: 2**10)
    config = tiny_config(dataset, **QUICK, data__cache=cache)
    with pytest.raises(UserError, match=r"needs 0 MiB of host memory for 16 .* 0 MiB are free"):
        run.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_device_that_is_too_small_is_refused(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(feed, "free_device_bytes", lambda mesh: 2**10)
    with pytest.raises(UserError, match=r"on each device .*--config\.data\.cache=host"):
        run.run(tiny_config(dataset, **QUICK, data__cache="device"), tmp_path / "run")


def test_memory_that_is_free():
    mesh = sharding.make_mesh(8)
    assert 2**20 < feed.free_device_bytes(mesh) < feed.free_host_bytes() < 2**50


def test_an_unknown_cache():
    with pytest.raises(UserError, match=r"data\.cache 'disk': use 'none' or 'host' or 'device'"):
        tiny_config(data__cache="disk")
