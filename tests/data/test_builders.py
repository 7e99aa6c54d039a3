"""The builders as tensorflow-datasets sees them: features, order, pixels, counts, no TensorFlow."""

import hashlib
import json
import sys
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from tests.data.factory import fails, grey, noise, truncate, write
from tests.data.trees import btad_tree, mvtec_tree, snapshot
from vtadl_jax.data.builders import base, encode
from vtadl_jax.data.builders.base import LayoutBuilder
from vtadl_jax.data.builders.btad import Btad
from vtadl_jax.data.builders.build import Job, prepare
from vtadl_jax.data.builders.config import category_config, config_name
from vtadl_jax.data.builders.image_folders import ImageFolders
from vtadl_jax.data.builders.mvtec_ad import MvtecAd
from vtadl_jax.data.builders.survey import find_root, survey
from vtadl_jax.data.decode import load_image, load_mask
from vtadl_jax.data.pipeline import load_example
from vtadl_jax.data.sources.layouts import BTAD, MVTEC, mvtec_layout
from vtadl_jax.data.sources.prepared import prepared
from vtadl_jax.data.transforms import Geometry

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


@pytest.fixture
def small_counts(monkeypatch):
    monkeypatch.setattr(MvtecAd, "COUNTS", {"screw": (5, 2, 3), "tile": (5, 2, 3)})
    monkeypatch.setattr(Btad, "COUNTS", {"01": (4, 2, 2), "02": (4, 2, 2)})


def source_of(folder: Path, split: str = "train"):
    return tfds.builder_from_directory(str(folder)).as_data_source(split)


# What was published


def test_published_counts():
    assert len(MvtecAd.COUNTS) == len(MvtecAd.BUILDER_CONFIGS) == 15
    assert sum(train for train, _, _ in MvtecAd.COUNTS.values()) == 3629
    assert sum(good + bad for _, good, bad in MvtecAd.COUNTS.values()) == 1725
    assert Btad.COUNTS == {"01": (400, 21, 49), "02": (399, 30, 200), "03": (1000, 400, 41)}
    assert [config.name for config in Btad.BUILDER_CONFIGS] == ["01", "02", "03"]


def test_other_counts_are_named(tmp_path, small_counts):
    mvtec_tree(tmp_path / "raw", "tile", train=4)
    found = ("tile of MVTec AD", "train 4, test good 2, test defective 3", "train 5")
    with fails(*found, "--dataset folder"):
        prepare(Job(MvtecAd, tmp_path / "out"), tmp_path / "raw")
    assert not (tmp_path / "out").exists()
    prepare(Job(ImageFolders, tmp_path / "out"), tmp_path / "raw")


def test_an_unpublished_category(tmp_path, small_counts):
    mvtec_tree(tmp_path / "raw", "my_part")
    with fails("'my_part'", "MVTec AD", "screw, tile", "--dataset folder"):
        prepare(Job(MvtecAd, tmp_path / "out"), tmp_path / "raw")


# Where the data set is


def test_root_is_found_a_few_folders_deep(tmp_path):
    deep = mvtec_tree(tmp_path / "a" / "b" / "mvtec_anomaly_detection", "tile")
    mvtec_tree(deep, "screw")
    (tmp_path / "__MACOSX" / "a").mkdir(parents=True)
    root = find_root(tmp_path, [MVTEC])
    assert (root.path, root.names) == (deep, ("screw", "tile"))
    one = find_root(deep / "tile", [MVTEC])
    assert (one.path, one.names, one.folder("tile")) == (deep / "tile", ("tile",), deep / "tile")


def test_no_root_and_two_roots(tmp_path):
    with fails("no folder train/good", tmp_path, "--source"):
        find_root(tmp_path, [MVTEC])
    btad_tree(tmp_path / "x")
    with fails("no folder train/good", tmp_path):
        find_root(tmp_path, [MVTEC])
    assert find_root(tmp_path, [MVTEC, BTAD]).layout == BTAD
    btad_tree(tmp_path / "y")
    with fails("several data sets", "--source"):
        find_root(tmp_path, [BTAD])


# Records


def test_features_order_and_names(tmp_path, small_counts):
    mvtec_tree(tmp_path / "raw")
    (folder,) = prepare(Job(MvtecAd, tmp_path / "out"), tmp_path / "raw")
    assert folder == tmp_path / "out" / "mvtec_ad" / "screw" / "1.0.0"
    splits = mvtec_layout(tmp_path / "raw", "screw")
    for split, records in (("train", splits.train), ("test", splits.test)):
        source = source_of(folder, split)
        assert [e["name"].decode() for e in source] == [r.name for r in records]
        assert [e["defect"].decode() for e in source] == [r.defect for r in records]
        assert [e["label"] for e in source] == [r.label for r in records]
        assert all(e["has_mask"] for e in source)
        for example, record in zip(source, records, strict=True):
            image, mask = example["image"], example["mask"]
            assert (image.shape, image.dtype) == ((24, 32, 1), np.uint8)
            np.testing.assert_array_equal(image[..., 0], load_image(record.image, 1))
            assert set(np.unique(mask)) <= {0, 255}
            want = load_mask(record.mask) if record.mask else np.zeros((24, 32), bool)
            np.testing.assert_array_equal(mask[..., 0] > 0, want)
    info = tfds.builder_from_directory(str(folder)).info
    assert "Bergmann" in info.citation
    assert info.redistribution_info.license == "CC BY-NC-SA 4.0"


def test_an_image_without_a_mask_is_not_one_with_an_empty_mask(tmp_path):
    mvtec_tree(tmp_path / "raw")
    (tmp_path / "raw/screw/ground_truth/scratch_head/001_mask.png").unlink()
    write(tmp_path / "raw/screw/ground_truth/scratch_head/002_mask.png", grey(0, (24, 32)))
    (folder,) = prepare(Job(ImageFolders, tmp_path / "out"), tmp_path / "raw")
    assert [e["has_mask"] for e in source_of(folder, "test")] == [True, True, True, False, True]
    records = prepared(folder, "screw").test
    assert [r.mask is not None for r in records] == [False, False, True, False, True]
    assert not records[-1].mask.read().any()


def test_btad(tmp_path, small_counts):
    root = btad_tree(tmp_path / "BTech_Dataset_transformed", "01")
    btad_tree(root, "02", ".png")
    write(root / "02/ground_truth/ko/0000.bmp", load_mask(root / "02/ground_truth/ko/0000.png"))
    (root / "02/ground_truth/ko/0000.png").unlink()
    folders = prepare(Job(Btad, tmp_path / "out"), tmp_path)
    assert [f.parent.name for f in folders] == ["01", "02"]
    assert [e["defect"] for e in source_of(folders[0], "test")] == [b"ko"] * 2 + [b"good"] * 2
    assert [e["has_mask"] for e in source_of(folders[1], "test")] == [True] * 4
    assert source_of(folders[1], "test")[0]["mask"].any()
    bmp = root / "01/train/ok/0001.bmp"
    np.testing.assert_array_equal(source_of(folders[0])[1]["image"], np.asarray(Image.open(bmp)))


@pytest.mark.parametrize("size", [(16, 16), (20, 36)])
@pytest.mark.parametrize("channels", [1, 3])
def test_resized_records_are_the_geometry_s_pixels(tmp_path, size, channels):
    mvtec_tree(tmp_path / "raw", channels=channels)
    (folder,) = prepare(Job(ImageFolders, tmp_path / "out", size), tmp_path / "raw")
    assert folder.parent.name == f"screw-{size[0]}x{size[1]}"
    raw = mvtec_layout(tmp_path / "raw", "screw").test[-1]
    example = source_of(folder, "test")[4]
    assert example["image"].shape == (*size, channels)
    direct = load_example(raw, Geometry(size), channels)
    np.testing.assert_array_equal(example["image"], direct["image"])
    np.testing.assert_array_equal(example["mask"][..., 0], direct["mask"] * 255)


def test_grey_and_colour_together(tmp_path):
    """One shape for all: grey images are stored as RGB, and read as grey they are the same."""
    mvtec_tree(tmp_path / "raw")
    write(tmp_path / "raw/screw/train/good/001.png", noise((24, 32, 3), 9))
    (folder,) = prepare(Job(ImageFolders, tmp_path / "out"), tmp_path / "raw")
    assert {e["image"].shape for e in source_of(folder)} == {(24, 32, 3)}
    raw, ours = mvtec_layout(tmp_path / "raw", "screw"), prepared(folder, "screw")
    for channels in (1, 3):
        for a, b in zip(raw.train, ours.train, strict=True):
            one, two = (load_example(r, Geometry((12, 12)), channels) for r in (a, b))
            np.testing.assert_array_equal(one["image"], two["image"])


def test_only_plain_png_passes_as_it_is(tmp_path):
    plain = write(tmp_path / "plain.png", noise((8, 6)))
    assert encode.original_image(plain, 1) == plain.read_bytes()
    colour = write(tmp_path / "colour.png", noise((8, 6, 3)))
    assert encode.original_image(colour, 3) == colour.read_bytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    others = [
        write(tmp_path / "turned.png", noise((8, 6)), exif=exif),
        write(tmp_path / "deep.png", noise((8, 6)).astype(np.uint16) * 257),
        write(tmp_path / "clear.png", noise((8, 6, 4))),
        write(tmp_path / "keyed.png", noise((8, 6, 3)), transparency=(0, 0, 0)),
        write(tmp_path / "palette.png", Image.fromarray(noise((8, 6))).convert("P")),
        write(tmp_path / "bits.png", Image.fromarray(noise((8, 6)) > 99)),
        write(tmp_path / "a.jpg", noise((8, 6, 3))),
        write(tmp_path / "a.bmp", noise((8, 6))),
        write(tmp_path / "a.tif", noise((8, 6))),
        plain,  # as RGB
    ]
    for path in others:
        content = encode.original_image(path, 3)
        assert content != path.read_bytes()
        want = load_image(path, 3)
        want = np.stack([want] * 3, 2) if want.ndim == 2 else want
        np.testing.assert_array_equal(imagecodecs.png_decode(content), want, err_msg=path.name)


def test_damage_in_the_middle_of_a_file_leaves_nothing(tmp_path):
    mvtec_tree(tmp_path / "raw")
    path = tmp_path / "raw/screw/train/good/002.png"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with fails(path):
        prepare(Job(ImageFolders, tmp_path / "out"), tmp_path / "raw")
    assert not (tmp_path / "out").exists()


def test_faults_of_every_category_come_before_anything_is_written(tmp_path):
    mvtec_tree(tmp_path / "raw", "nut")
    mvtec_tree(tmp_path / "raw", "screw")
    truncate(tmp_path / "raw/screw/test/good/001.png")
    with fails("screw/test/good/001.png"):
        prepare(Job(ImageFolders, tmp_path / "out"), tmp_path / "raw")
    assert not (tmp_path / "out").exists()


# Shards, manifest, determinism


def test_shards_are_cut_by_size_and_the_same_again(tmp_path, monkeypatch):
    mvtec_tree(tmp_path / "raw", train=7)
    monkeypatch.setattr(base, "SHARD_BYTES", 2 * 16 * 16)
    job = Job(ImageFolders, tmp_path / "out", (16, 16))
    (folder,) = prepare(job, tmp_path / "raw")
    names = sorted(path.name for path in folder.glob("*-train.array_record-*"))
    assert names == [f"image_folders-train.array_record-{i:05}-of-00004" for i in range(4)]
    raw = mvtec_layout(tmp_path / "raw", "screw").train
    assert [e["name"].decode() for e in source_of(folder)] == [r.name for r in raw]
    ours = prepared(folder, "screw").train
    for a, b in zip(raw, ours, strict=True):
        resized = Geometry((16, 16)).image(load_image(a.image, 1))
        np.testing.assert_array_equal(resized, b.image.read())
    prepare(Job(ImageFolders, tmp_path / "again", (16, 16)), tmp_path / "raw")
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "again")


def test_manifest(tmp_path, small_counts):
    mvtec_tree(tmp_path / "raw")
    (folder,) = prepare(Job(MvtecAd, tmp_path / "out", (16, 24)), tmp_path / "raw")
    text = (folder / "manifest.json").read_text()
    assert str(tmp_path) not in text
    found = json.loads(text)
    assert (found["dataset"], found["category"]) == ("mvtec_ad", "screw")
    assert found["image_size"] == [16, 24]
    assert found["counts"] == {"train": {"good": 5}, "test": {"good": 2, "scratch_head": 3}}
    for name, shard in found["shards"].items():
        content = (folder / name).read_bytes()
        assert shard["bytes"] == len(content)
        assert shard["sha256"] == hashlib.sha256(content).hexdigest()
    assert set(found["shards"]) == {p.name for p in folder.glob("*.array_record-*")}
    assert len(found["source"]["files"]) == 10 + 3
    raw = (tmp_path / "raw/screw/train/good/003.png").read_bytes()
    assert found["source"]["files"]["train/good/003.png"] == hashlib.sha256(raw).hexdigest()
    for file in folder.iterdir():
        assert str(tmp_path).encode() not in file.read_bytes(), file.name


def test_as_an_ordinary_builder(tmp_path, small_counts, capsys):
    """download_and_prepare with a manual_dir, without our program around it."""
    mvtec_tree(tmp_path / "raw" / "mvtec_anomaly_detection")
    builder = MvtecAd(data_dir=str(tmp_path / "out"), config="screw")
    builder.download_and_prepare(
        file_format="array_record",
        download_config=tfds.download.DownloadConfig(manual_dir=str(tmp_path / "raw")),
    )
    assert len(builder.as_data_source("train")) == 5
    assert builder.as_data_source("test")[4]["image"].shape == (24, 32, 1)
    assert prepared(tmp_path / "out", "screw").category == "screw"
    assert capsys.readouterr().out == ""
    again = tfds.builder("mvtec_ad/screw", data_dir=str(tmp_path / "out"))
    assert len(again.as_data_source("test[:40%]")) == 2
    with pytest.raises(Exception, match=r"mvtec_anomaly_detection\.tar\.xz"):
        MvtecAd(data_dir=str(tmp_path / "none"), config="tile").download_and_prepare(
            file_format="array_record"
        )


def test_builders_leave_no_folders_in_tmp(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    MvtecAd(data_dir=str(tmp_path / "out"), config="screw")
    assert not any((tmp_path / "tmp").iterdir())


def test_no_tensorflow():
    assert issubclass(MvtecAd, LayoutBuilder)
    assert "tensorflow" not in sys.modules


def test_names_of_folders():
    assert config_name("screw") == "screw"
    assert config_name("screw", (512, 640)) == "screw-512x640"
    others = ["a b", "a_b", "a.b", "a/b", "screw-512x640", "été", "Ü 1"]
    names = [config_name(name, size) for name in [*others, "screw"] for size in (None, (512, 640))]
    assert len(set(names)) == len(names)
    config = category_config("a b", (8, 8), 1)
    assert (config.category, config.image_size, config.channels) == ("a b", (8, 8), 1)


@pytest.mark.parametrize("category", ["a b", "été", "[x]", "n{0}", "screw-8x8"])
def test_odd_names(tmp_path, category):
    mvtec_tree(tmp_path / "raw [1]", category, train=2)
    (folder,) = prepare(Job(ImageFolders, tmp_path / "out [0:1]"), tmp_path / "raw [1]")
    assert len(source_of(folder)) == 2
    found = prepared(tmp_path / "out [0:1]", category)
    assert found.category == category
    assert found.train[1].image.read().shape == (24, 32)


# Real images


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "mvtec_ad" / "screw").is_dir(), reason="MVTec AD is not there")
def test_real_screws(tmp_path):
    (folder,) = prepare(Job(MvtecAd, tmp_path / "out"), SHARED / "mvtec_ad", ["screw"])
    raw, ours = mvtec_layout(SHARED / "mvtec_ad", "screw"), prepared(folder, "screw")
    assert (len(ours.train), len(ours.test)) == (320, 160)
    assert sum(r.mask is not None for r in ours.test) == 119
    assert sum(r.label == 0 for r in ours.test) == 41
    some = [splits.test[::9] + splits.train[::40] for splits in (raw, ours)]
    for a, b in zip(*some, strict=True):
        assert (a.name, a.label, a.defect) == (b.name, b.label, b.defect)
        one, two = (load_example(r, Geometry((512, 512), (550, 550)), 3) for r in (a, b))
        for key in one:
            np.testing.assert_array_equal(one[key], two[key])
        assert one["mask"].any() == (a.label == 1)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mvtec_ad"]


def test_survey_counts_bytes_and_channels(tmp_path):
    mvtec_tree(tmp_path, channels=3)
    found = survey(find_root(tmp_path, [MVTEC]), "screw")
    files = list((tmp_path / "screw").rglob("*.png"))
    assert found.num_bytes == sum(p.stat().st_size for p in files)
    assert found.channels == 3
    assert found.sizes["train/good/000.png"] == (24, 32)
