"""Prepared records in the pipeline: which are chosen, and that they are read lazily."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import imagecodecs
import numpy as np
import pytest

from tests.data.factory import fails, noise, truncate, write
from tests.data.trees import btad_tree, mvtec_tree
from tests.factory import tiny_config, with_fields
from vtadl_jax.data import sources
from vtadl_jax.data.builders.build import Job, prepare
from vtadl_jax.data.builders.image_folders import ImageFolders
from vtadl_jax.data.pipeline import eval_batches, load_example
from vtadl_jax.data.records import check_images
from vtadl_jax.data.sources import prepared as prepared_module
from vtadl_jax.data.sources.layouts import mvtec_layout
from vtadl_jax.data.sources.prepared import list_categories, prepared
from vtadl_jax.data.transforms import Geometry


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two categories of 24×32 images: originals and 16×16 of both, 8×12 of one."""
    folder = tmp_path_factory.mktemp("data")
    mvtec_tree(folder / "raw", "nut")
    mvtec_tree(folder / "raw", "screw", channels=3, train=9)
    for size in (None, (16, 16)):
        prepare(Job(ImageFolders, folder / "out", size), folder / "raw")
    prepare(Job(ImageFolders, folder / "out", (8, 12)), folder / "raw", ["nut"])
    return folder


def sizes(splits):
    return {record.image.size for record in splits.train + splits.test}


def test_records_are_those_of_the_source(made):
    raw, ours = mvtec_layout(made / "raw", "screw"), prepared(made / "out", "screw", (9, 9))
    check_images(ours)
    for split in ("train", "test"):
        a, b = getattr(raw, split), getattr(ours, split)
        assert [(r.name, r.label, r.defect) for r in a] == [(r.name, r.label, r.defect) for r in b]
        for one, two in zip(a, b, strict=True):
            for geometry in (Geometry((24, 32)), Geometry((10, 10), (14, 15), "pad")):
                first, second = (load_example(r, geometry, 3) for r in (one, two))
                for key in first:
                    np.testing.assert_array_equal(first[key], second[key])


def test_resized_records_give_what_resizing_gives(made):
    raw, ours = mvtec_layout(made / "raw", "screw"), prepared(made / "out", "screw", (16, 16))
    geometry = Geometry((12, 10), (16, 16))
    for one, two in zip(raw.train + raw.test, ours.train + ours.test, strict=True):
        first, second = (load_example(r, geometry, 3) for r in (one, two))
        for key in first:
            np.testing.assert_array_equal(first[key], second[key])


@pytest.mark.parametrize(
    ("canvas", "fit", "size"),
    [
        ((16, 16), "stretch", (16, 16)),
        ((8, 12), "stretch", (8, 12)),
        ((12, 8), "stretch", (24, 32)),
        ((), "stretch", (24, 32)),
        ((16, 16), "pad", (24, 32)),
    ],
)
def test_which_size_is_chosen(made, canvas, fit, size):
    assert sizes(prepared(made / "out" / "image_folders", "nut", canvas, fit)) == {size}


def test_the_only_size_and_several_that_do_not_fit(made, tmp_path):
    for name in ("nut-16x16", "nut-8x12"):
        shutil.copytree(made / "out/image_folders" / name, tmp_path / name)
    with fails("16×16", "none of 9×9", "image_size"):
        prepared(tmp_path, "nut", (9, 9))
    with fails("data.fit 'crop'", "8×12", "--image_size"):
        prepared(tmp_path, "nut", (16, 16), "crop")
    shutil.rmtree(tmp_path / "nut-8x12")
    assert sizes(prepared(tmp_path, "nut", (9, 9))) == {(16, 16)}


def test_where_root_may_point(made, tmp_path):
    sets = made / "out" / "image_folders"
    for root in (made / "out", sets, sets / "nut" / "1.0.0"):
        for name in ("nut", "" if root.name == "1.0.0" else "nut"):
            assert prepared(root, name).category == "nut"
    with fails(sets, "nut, screw", "--config.data.category"):
        prepared(sets, "")
    btad_tree(tmp_path / "raw", "nut")
    prepare(Job(ImageFolders, tmp_path / "other"), tmp_path / "raw")
    shutil.copytree(sets, tmp_path / "both" / "image_folders")
    other = tmp_path / "both" / "btad" / "nut" / "1.0.0"
    shutil.copytree(tmp_path / "other/image_folders/nut/1.0.0", other)
    found = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps(found | {"dataset": "btad"}))
    with fails(tmp_path / "both", "btad, image_folders", "--config.data.root"):
        prepared(tmp_path / "both", "nut")


def test_nothing_there(made, tmp_path):
    with fails("data.root is empty"):
        prepared("", "nut")
    with fails(tmp_path / "none", "does not exist", "vtadl_jax.prepare"):
        prepared(tmp_path / "none", "nut")
    with fails("nothing is prepared", made / "raw", "vtadl_jax.prepare"):
        prepared(made / "raw", "nut")
    with fails("'scrw'", "nut, screw", "did you mean 'screw'", "vtadl_jax.prepare"):
        prepared(made / "out", "scrw")


def test_damage(made, tmp_path):
    folder = tmp_path / "nut" / "1.0.0"
    shutil.copytree(made / "out/image_folders/nut/1.0.0", folder)
    shard = folder / "image_folders-train.array_record-00000-of-00001"
    content = bytearray(shard.read_bytes())
    middle = content.index(b"IDAT") + 20
    content[middle : middle + 64] = bytes(64)
    shard.write_bytes(content)
    records = prepared(tmp_path, "nut").train  # sizes are right
    with fails("image of train/good/", folder, "--check"):
        [record.image.read() for record in records]
    truncate(shard)
    with fails(shard, "bytes instead of", "prepare it again"):
        prepared(tmp_path, "nut")
    shard.unlink()
    with fails(shard, "is missing"):
        prepared(tmp_path, "nut")
    (folder / "manifest.json").write_text('{"format": 99}')
    with fails(folder, "another version"):
        prepared(tmp_path, "nut")
    (folder / "manifest.json").write_text("{")
    with fails("manifest.json is damaged", "prepare it again"):
        prepared(tmp_path, "nut")


def test_reading_one_decodes_only_that(made, monkeypatch):
    decoded = []

    def decode(content):
        decoded.append(len(content))
        return imagecodecs.png_decode(content)

    record = prepared(made / "out", "screw").test[-1]
    assert decoded == []
    monkeypatch.setattr(prepared_module, "png_pixels", decode)
    assert record.mask.read().shape == (24, 32)
    assert len(decoded) == 1
    assert record.image.read().shape == (24, 32, 3)
    assert len(decoded) == 2
    assert decoded[0] < 500 < decoded[1]
    resized = prepared(made / "out", "screw", (16, 16)).test[-1]
    assert resized.image.read().shape == (16, 16, 3)
    assert len(decoded) == 2


def test_pixels_belong_to_the_caller(made):
    for canvas in ((), (16, 16)):
        image = prepared(made / "out", "screw", canvas).train[0].image
        first = image.read()
        first[:] = 0
        assert image.read().any()


def test_many_threads_read_the_same_shard(made):
    records = prepared(made / "out", "screw", (16, 16)).train
    alone = [record.image.read() for record in records]
    again = prepared(made / "out", "screw", (16, 16)).train  # unopened
    order = np.random.default_rng(0).integers(0, len(records), 400)
    with ThreadPoolExecutor(16) as pool:
        for i, pixels in zip(order, pool.map(lambda i: again[i].image.read(), order), strict=True):
            np.testing.assert_array_equal(pixels, alone[i])


def test_as_a_source_of_a_config(made):
    config = tiny_config(
        made / "out", data__source="prepared", data__category="screw", image_size=(12, 12),
        data__resize=(16, 16),
    )  # fmt: skip
    splits = sources.load_splits(config)
    assert sizes(splits) == {(16, 16)}
    assert sizes(sources.load_splits(with_fields(config, data__fit="crop"))) == {(24, 32)}
    batches = list(eval_batches(splits.test, Geometry((12, 12), (16, 16)), 3, 4, 2))
    assert [int(batch["valid"].sum()) for batch in batches] == [4, 1]
    assert str(splits.test[0].image) in (
        f"image of test/good/000.png in {made / 'out/image_folders/screw-16x16/1.0.0'}"
    )


def test_a_set_without_test_images(tmp_path):
    for i in range(3):
        write(tmp_path / "raw/train/good" / f"{i}.png", noise((8, 8), i))
    (folder,) = prepare(Job(ImageFolders, tmp_path / "out"), tmp_path / "raw")
    splits = prepared(folder, "")
    assert (len(splits.train), splits.test, splits.category) == (3, (), "raw")


def test_names_that_lead_out_of_a_folder(made, tmp_path):
    shutil.copytree(made / "out/image_folders/nut/1.0.0", tmp_path / "nut")
    path = tmp_path / "nut" / "manifest.json"
    sound = json.loads(path.read_text())
    names = ("..", "", "/etc", "a/b", "../../x", "c:\\x", "a\\..\\b", "a\n", "a\0b")
    for name in names:
        for changed in ({"category": name}, {"dataset": name}):
            path.write_text(json.dumps(sound | changed))
            with fails(path, "refused"):
                list_categories(tmp_path)
        shard = next(iter(sound["shards"].values()))
        path.write_text(json.dumps(sound | {"shards": {name: shard}}))
        with fails(path, "shard", "refused"):
            prepared(tmp_path, "nut")
    for name in ("../a.png", "/a.png", "", "train/../../a.png", "d:/a.png"):
        rows = [[name, *sound["records"]["train"][0][1:]]]
        path.write_text(json.dumps(sound | {"records": {"train": rows}}))
        with fails(path, "image", "refused"):
            prepared(tmp_path, "nut")


@pytest.mark.parametrize(
    "changed",
    [
        {"category": 3},
        {"image_size": 5},
        {"image_size": [1, "2"]},
        {"channels": 2},
        {"counts": []},
        {"shards": {"a": {"split": "train", "records": -1, "bytes": 1, "sha256": ""}}},
        {"shards": [1]},
        {"source": None},
        {"source": {"archive": None, "files": {"a": 1}}},
        {"source": {"files": {}}},
        {"source": {"archive": {"sha256": ""}, "files": {}}},
        {"records": {"train": [["a", "good", 0, 4, 4]]}},
        {"records": {"train": [["a", "good", 7, 4, 4, True]]}},
        {"records": {"train": [["a", "good", 0, 0, 4, True]]}},
        {"records": {"train": 5}},
    ],
)
def test_a_manifest_of_other_types_is_damaged(made, tmp_path, changed):
    shutil.copytree(made / "out/image_folders/nut/1.0.0", tmp_path / "nut")
    path = tmp_path / "nut" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with fails(path, "is damaged"):
        prepared(tmp_path, "nut")
