"""The file of `data.regions` of each image."""

import numpy as np
import pytest
from PIL import Image

from vtadl_jax.data.records import Record, Splits
from vtadl_jax.data.regions.per_image import Folder, add_regions
from vtadl_jax.errors import UserError


def save(path, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros(size, np.uint8)
    pixels[2:6, 2:6] = 255
    Image.fromarray(pixels).save(path)
    return path


def record(name, size=(8, 8)):
    return Record(np.zeros(size, np.uint8), None, 0, "good", name)


def test_the_longest_path_that_matches_wins(tmp_path):
    for name in ("train/good/001.png", "test/good/001.png", "002.png"):
        save(tmp_path / name)
    folder = Folder.of(tmp_path)
    assert folder.file_of("train/good/001.jpg") == tmp_path / "train/good/001.png"
    assert folder.file_of("screw/test/good/001.png") == tmp_path / "test/good/001.png"
    assert folder.file_of("anywhere/002.bmp") == tmp_path / "002.png"
    assert folder.file_of("val/001.png") is None  # two files have that name
    assert folder.file_of("003.png") is None


def test_every_image_gets_its_file_and_the_rest_is_told(tmp_path):
    for name in ("a.png", "b.png", "spare.png"):
        save(tmp_path / name)
    splits = add_regions(
        Splits((record("train/a.png"),), (record("b.png", (16, 16)),), "x"), str(tmp_path)
    )
    assert splits.train[0].region == tmp_path / "a.png"
    assert splits.test[0].region == tmp_path / "b.png"
    notes = " ".join(splits.notes)
    assert "a file for each of 2 images" in notes
    assert "1 files of data.regions are of no image" in notes
    assert "1 files of data.regions are scaled" in notes


def test_faults_name_the_images(tmp_path):
    save(tmp_path / "a.png")
    pair = Splits((record("a.png"), record("b.png")), (record("c.png"),), "x")
    with pytest.raises(UserError, match=r"2 of 3 images have no file there \(b.png, c.png\)"):
        add_regions(pair, str(tmp_path))
    wide = Splits((record("a.png", (8, 12)),), (), "x")
    with pytest.raises(UserError, match="not of the same aspect"):
        add_regions(wide, str(tmp_path))
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(UserError, match="are of one image"):
        Folder.of(tmp_path)
    with pytest.raises(UserError, match="no mask or JSON file"):
        Folder.of(tmp_path / "none")
