"""Names of overlays and cells of tables, whatever the images are called."""

import csv
import io
import unicodedata

import numpy as np
import pytest
from PIL import Image

from tests.data.factory import fails
from vtadl_jax.errors import printable
from vtadl_jax.report.names import cell, file_names, flat_name, png_name
from vtadl_jax.report.picture_files import save_map, save_picture


def test_plain_names_stay():
    names = ["good/000.png", "dent/1.jpg", "a b-c_(2).tif", "größe.png"]
    expected = ["good/000.png", "dent/1.jpg.png", "a b-c_(2).tif.png", "größe.png"]
    assert file_names(names, png_name) == expected
    flat = ["good_000.png", "dent_1.png", "a b-c_(2).png", "größe.png"]
    assert file_names(names, flat_name) == flat


ODD = [
    "a.png", "a.jpg", "a.jpg.png", "A.PNG", "a.PNG", "scratch/deep_1.png", "scratch_deep/1.png",
    "scratch_deep_1.bmp", "x" * 251 + ".png", "x" * 250 + "y.png", "te\udcefl.png", "te\udceel.png",
    "new\nline.png", "tab\t.png", "back\\slash.png", "=1+1.png", "-1.png", "a;=1.png", "a;-1.png",
    "b.jpg",
    "b.jpg.png/c.png", "..png", " .png", "é.png", unicodedata.normalize("NFD", "é.png"), "ß.png",
    "SS.png", "ss.png",
]  # fmt: skip


@pytest.mark.parametrize("rule", [png_name, flat_name])
def test_every_image_has_a_file_of_its_own(tmp_path, rule):
    files = file_names(ODD, rule)
    assert files == [
        dict(zip(reversed(ODD), file_names(ODD[::-1], rule), strict=True))[n] for n in ODD
    ]
    seen = {unicodedata.normalize("NFC", file).casefold() for file in files}
    assert len(seen) == len(ODD)
    folders = {file.rpartition("/")[0] for file in seen} - {""}
    assert not folders & seen
    for file in files:
        assert file == cell(file)
        assert max(len(part.encode()) for part in file.split("/")) < 200
        save_picture(Image.new("L", (1, 1)), tmp_path, file)
    assert sum(path.is_file() for path in tmp_path.rglob("*")) == len(ODD)


@pytest.mark.parametrize("start", list("=+-@\t\r＝"))
def test_no_cell_is_a_formula(start):
    text = f"{start}SUM(A1).png"
    shown = cell(text)
    assert shown[0] not in "=+-@\t\r＝"
    assert shown.endswith("SUM(A1).png")
    stream = io.StringIO()
    csv.writer(stream).writerow([shown, cell('a",\n=1')])
    assert next(csv.reader(io.StringIO(stream.getvalue()))) == [shown, 'a",\\n=1']


def test_no_part_of_a_cell_is_a_formula_where_semicolons_separate():
    assert cell("a;=1+1;b.png") == "a;'=1+1;b.png"
    assert cell("a; @x.png") == "a;' @x.png"


def test_text_for_a_terminal():
    assert printable("größe ×.png") == "größe ×.png"
    assert printable("te\udcefl\n\x1b[31m.png") == "te\\xefl\\n\\x1b[31m.png"
    assert printable("\ud800") == "\\ud800"


def test_pictures_are_not_written_through_links(tmp_path):
    outside, folder = tmp_path / "outside", tmp_path / "overlays"
    outside.mkdir()
    folder.symlink_to(outside)
    picture = Image.new("L", (4, 4))
    with fails(folder, "is a link"):
        save_picture(picture, folder, "a.png")
    folder.unlink()
    folder.mkdir()
    (folder / "sub").symlink_to(outside)
    (folder / "a.png").symlink_to(outside / "a.png")
    for name in ("sub/a.png", "a.png"):
        with fails(folder):
            save_picture(picture, folder, name)
    assert list(outside.iterdir()) == []


def test_a_map_is_as_numpy_and_pil_read_it(tmp_path):
    values = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    save_map(values, tmp_path, "a.npy")
    save_map(values.T, tmp_path, "b.npy")
    save_map(values, tmp_path, "a.tiff")
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), values)
    np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), values.T)
    with Image.open(tmp_path / "a.tiff") as image:
        np.testing.assert_array_equal(np.asarray(image), values)


def test_a_picture_is_whole_or_not_there(tmp_path):
    class Broken(Image.Image):
        def save(self, file, kind):
            file.write(b"half")
            raise OSError(28, "No space left on device")

    with fails(tmp_path / "a.png", "No space left", "make room"):
        save_picture(Broken(), tmp_path, "a.png")
    assert list(tmp_path.iterdir()) == []
