"""Every file that is named for prediction is read, left out with its reason, or passed over."""

import os

import numpy as np
import pytest

from tests.data.factory import fails, grey, write
from vtadl_jax.data.finding import find_images
from vtadl_jax.data.formats import EXTENSIONS, OTHER_EXTENSIONS


def names(found):
    return [found.name(path) for path in found.images]


def count(found):
    return len(found.images) + len(found.left_out) + len(found.passed_over)


def test_every_file_of_a_folder_is_in_one_list(tmp_path):
    read = ["a.png", "b.JPG", "c.jfif", "d.webp", "e.TIFF", "sub/f10.bmp", "sub/f9.bmp"]
    left = ["a.gif", "b.AVIF", "c.jp2", "d.heic", "e.cr2", "no_ending", "part.png.bak"]
    passed = [".hidden.png", ".git/x.png", "Thumbs.db", "notes.txt", "table.csv", "empty"]
    for name in (*read, *left, *passed):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"" if name in passed else b"\xff\xd8\xff\xe0")
    found = find_images(str(tmp_path))
    assert names(found) == ["a.png", "b.JPG", "c.jfif", "d.webp", "e.TIFF", *sorted(read[5:])[::-1]]
    assert [name for name, _ in found.left_out] == left
    assert all("a kind that is not read" in reason for _, reason in found.left_out)
    assert sorted(found.passed_over) == sorted(passed)
    assert count(found) == len(read) + len(left) + len(passed)


def test_what_is_no_plain_file(tmp_path):
    write(tmp_path / "good.png", grey(1))
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "gone.png").symlink_to("nowhere")
    (tmp_path / "folder.png").mkdir()
    write(tmp_path / "full.png" / "a.png", grey(1))
    (tmp_path / "linked").symlink_to(tmp_path / "full.png")
    found = find_images(str(tmp_path))
    assert names(found) == ["full.png/a.png", "gone.png", "good.png", "pipe.png"]
    assert found.passed_over == ["pipe"]
    assert dict(found.left_out) == {
        "folder.png": "is a folder without images",
        "linked": "is a link to a folder, which is not entered: give it as --input",
    }


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list everything")
def test_a_folder_that_may_not_be_listed(tmp_path):
    write(tmp_path / "a.png", grey(1))
    (tmp_path / "b").mkdir(0)
    assert find_images(str(tmp_path)).left_out == [("b", "can't be listed: Permission denied")]


def test_a_file_and_a_pattern(tmp_path):
    write(tmp_path / "a [1].png", grey(1))
    write(tmp_path / "sub" / "b.png", grey(1))
    (tmp_path / "c.dat").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe.png")
    assert names(find_images(str(tmp_path / "a [1].png"))) == ["a [1].png"]
    assert names(find_images(str(tmp_path / "pipe.png"))) == ["pipe.png"]
    assert names(find_images(str(tmp_path / "*.png"))) == ["a [1].png", "pipe.png"]
    found = find_images(str(tmp_path / "*"))
    assert names(found) == ["a [1].png", "c.dat", "pipe.png"]
    assert [name for name, _ in found.left_out] == ["sub"]
    found = find_images(str(tmp_path / "**"))
    assert names(found) == ["a [1].png", "c.dat", "pipe.png", "sub/b.png"]
    assert found.left_out == []


def test_names_that_are_not_utf8(tmp_path):
    write(tmp_path / "te\udcefl.png", grey(1))
    assert names(find_images(str(tmp_path))) == ["te\udcefl.png"]
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.gif").write_bytes(b"")
    with fails("no images there", "x.gif is of a kind that is not read", ".png"):
        find_images(str(tmp_path / "b"))


def test_an_ending_is_read_or_not():
    assert not EXTENSIONS & OTHER_EXTENSIONS
    assert all(name == name.lower() for name in EXTENSIONS | OTHER_EXTENSIONS)
    assert np.all([name.startswith(".") for name in EXTENSIONS | OTHER_EXTENSIONS])
