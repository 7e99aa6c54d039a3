"""Faults of users' folders in practice: each gives one line that names the file, before anything is
written."""

import os
import shutil
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.data.factory import fails, grey, noise, truncate, write
from tests.factory import tiny_config
from tests.training.steps import QUICK
from vtadl_jax import run


@pytest.fixture
def gear(dataset):
    return dataset / "gear"


def replace_by(name, content):
    def spoil(root):
        (root / name).write_bytes(content)
        return root / name

    return spoil


def cut(name, suffix, mode="RGB"):
    """The image saved as another kind of file, and cut in the middle."""

    def spoil(root):
        old = root / name
        new = old.with_suffix(suffix)
        with Image.open(old) as image:
            image.convert(mode).save(new)
        if new != old:
            old.unlink()
        return truncate(new)

    return spoil


def add(name, make):
    def spoil(root):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        make(path)
        return path

    return spoil


def flip_a_byte_in_the_middle(root):
    path = write(root / "train" / "good" / "003.png", noise((32, 32, 3)))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    return path


def numbers_of_no_known_range(root):
    (root / "train" / "good" / "003.png").unlink()
    values = np.full((32, 32), 100, np.float32)
    return write(root / "train" / "good" / "003.tif", values)


def faint_mask(root):
    return write(root / "ground_truth" / "dent" / "001_mask.png", grey(1, (32, 32)))


def small_mask(root):
    return write(root / "ground_truth" / "dent" / "001_mask.png", grey(255, (16, 16)))


def orphan_mask(root):
    (root / "test" / "dent" / "001.png").unlink()
    return root / "ground_truth" / "dent" / "001_mask.png"


def two_images_for_a_mask(root):
    return write(root / "test" / "dent" / "001.bmp", grey(3, (32, 32)))


def two_masks_for_an_image(root):
    return write(root / "ground_truth" / "dent" / "001.png", grey(255, (32, 32)))


def no_training_images(root):
    shutil.rmtree(root / "train" / "good")
    (root / "train" / "good").mkdir()
    return root / "train" / "good"


def loop(path):
    path.symlink_to(path)


def wide(path):
    """An image header with more pixels than fit into memory."""
    write(path, grey(0))
    content = bytearray(path.read_bytes())
    content[16:24] = (100_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)


FAULTS = {
    "cut PNG": cut("train/good/003.png", ".png"),
    "cut JPEG": cut("train/good/003.png", ".jpg"),
    "cut BMP": cut("test/good/001.png", ".bmp"),
    "cut TIFF": cut("test/dent/001.png", ".tif"),
    "cut mask": cut("ground_truth/dent/001_mask.png", ".png", "L"),
    "zero bytes": replace_by("train/good/003.png", b""),
    "zero bytes in a mask": replace_by("ground_truth/dent/001_mask.png", b""),
    "text named as an image": replace_by("test/good/001.png", b"see the other folder"),
    "a kind that is not read": add("train/good/a.webp", lambda p: p.write_bytes(b"RIFF")),
    "notes among images": add("train/good/notes.txt", lambda p: p.write_text("x")),
    "a folder among images": add("train/good/more", lambda p: p.mkdir()),
    "an image in no defect's folder": add("test/001.png", lambda p: write(p, grey(1))),
    "a mask of another size": small_mask,
    "a mask of 0 and 1": faint_mask,
    "a mask without its image": orphan_mask,
    "a mask for a folder that is not there": add(
        "ground_truth/rust/a_mask.png", lambda p: write(p, grey(255))
    ),
    "two images with one stem": two_images_for_a_mask,
    "two masks for one image": two_masks_for_an_image,
    "an empty class": no_training_images,
    "a link to itself": add("train/good/loop.png", loop),
    "a link to nothing": add("train/good/gone.png", lambda p: p.symlink_to("nowhere.png")),
    "a header with a wrong size": add("train/good/wide.png", wide),
}
# Seen when an image is decoded: at the start with a cache, else when training first draws it.
DECODING_FAULTS = {
    "damage in the middle": flip_a_byte_in_the_middle,
    "numbers of no known range": numbers_of_no_known_range,
}


@pytest.mark.parametrize("cache", ["none", "host"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_that_names_the_file(gear, tmp_path, fault, cache):
    check(gear, tmp_path, FAULTS[fault], cache)


@pytest.mark.parametrize("cache", ["host", "device"])
@pytest.mark.parametrize("fault", DECODING_FAULTS)
def test_a_cache_finds_faults_inside_images_at_the_start(gear, tmp_path, fault, cache):
    check(gear, tmp_path, DECODING_FAULTS[fault], cache)


def check(gear, tmp_path, spoil, cache):
    root, workdir = tmp_path / "data", tmp_path / "run"
    shutil.copytree(gear, root)
    named = spoil(root)
    with fails(named):
        run.run(tiny_config(root, **QUICK, data__category="", data__cache=cache), workdir)
    assert not workdir.exists()


def test_too_few_images_to_hold_one_out(gear, tmp_path):
    root = tmp_path / "data"
    write(root / "train" / "good" / "a.png", grey(1, (32, 32)))
    with fails("data.holdout_fraction 0.1", "1 images", "add images"):
        run.run(tiny_config(root, **QUICK, data__category=""), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_that_may_not_be_read(gear, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(gear, root)
    (root / "train" / "good" / "003.png").chmod(0)
    with fails(root / "train" / "good" / "003.png", "Permission denied"):
        run.run(tiny_config(root, **QUICK, data__category=""), tmp_path / "run")


def test_the_data_folder_itself(tmp_path):
    (tmp_path / "file").write_text("x")
    with fails("data.root", tmp_path / "file", "is not a folder"):
        run.run(tiny_config(tmp_path / "file", **QUICK), tmp_path / "run")
    with fails("data.root", tmp_path / "none", "does not exist"):
        run.run(tiny_config(tmp_path / "none", **QUICK), tmp_path / "run")
    assert not (tmp_path / "run").exists()
