"""What training reads of large images: crops, from which the step takes windows."""

import jax
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tests.factory import tiny_config, with_fields
from vtadl_jax.data.crops import windows_of
from vtadl_jax.data.records import Record
from vtadl_jax.runtime import sharding
from vtadl_jax.training.cross_fitting import Rows
from vtadl_jax.training.division import Division
from vtadl_jax.training.feed import make_feed
from vtadl_jax.training.large_images import (
    crops_to_train,
    describe_windows,
    make_feed_geometry,
    needs_of,
    say_crops,
)
from vtadl_jax.training.stored import make_geometry


def records_of(size=(70, 130), count=3):
    rng = np.random.default_rng(0)
    found = []
    for i in range(count):
        image = rng.integers(0, 256, (*size, 3), np.uint8)
        mask = np.zeros(size, np.uint8)
        mask[:, 100:] = 255
        found.append(Record(image, mask, int(i == 0), "bad" if i == 0 else "good", f"{i}.png"))
    return found


def config_of(detector="filter_mixture", **fields):
    sizes = {"image_size": (16, 16), "batch_size": 4, "data__windows__side": 32}
    return tiny_config("", detector, **{**sizes, **fields})


@pytest.mark.parametrize("cache", ["none", "host", "device"])
def test_the_feed_gives_crops_and_their_extents(cache):
    from vtadl_jax.experiment import make_detector

    config = config_of("unet", data__cache=cache)
    records, mesh = records_of(), sharding.make_mesh(1)
    crops = crops_to_train(config, records)
    assert len(crops) == 3 * 2  # each of 130 pixels in two crops of 96
    needs = needs_of(config, make_detector(config))
    feed = make_feed(config, crops, make_feed_geometry(config), mesh, needs)
    batch = next(feed)
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), batch)
    assert shapes == jax.tree.map(lambda x: (x.shape, x.dtype), feed.shapes)
    whole = batch.get("resident", batch)
    assert sorted(whole) == ["extent", "has_mask", "image", "mask"]
    assert whole["image"].shape[1:] == (48, 48, 3)
    assert {tuple(row) for row in np.asarray(whole["extent"]).tolist()} == {(35, 48)}
    (line,) = say_crops(config, crops)
    assert "6 crops of 96×96 pixels of 3 images" in line


def test_windows_are_told_and_too_many_refused():
    config, records = config_of(), records_of()
    (line,) = describe_windows(config, records)
    assert "32 in an image of 130×70" in line
    lines = describe_windows(config, records_of((20, 40)))
    assert "3 of 3 images looked at are smaller than a window (as 40×20)" in lines[1]
    assert describe_windows(with_fields(config, data__windows__side=0), records) == []


def test_rows_of_a_fit_are_of_all_windows_of_an_image():
    from vtadl_jax.experiment import make_detector

    config, records = config_of(), records_of()
    crops = windows_of(records, config.data.windows)
    detector = make_detector(config)

    def gather(variables, images, key):
        return images.astype(np.float32).mean((1, 2))

    import dataclasses

    fit = dataclasses.replace(detector.fit, gather=gather, reduce=None)
    rows = Rows(fit, {}, Division(tuple(records), ()).fitted, make_geometry(config), config)
    each = np.concatenate(list(rows.of(records[1:2])))
    assert len(each) == len(crops) // 3
    every = np.concatenate(list(rows.of(records)))
    assert_array_equal(every[len(each) : 2 * len(each)], each)
