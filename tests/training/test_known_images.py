"""A run knows its images again: moved data continue, other data do not."""

import shutil

import pytest

from tests.data.factory import fails, grey, noise, write
from tests.factory import tiny_config, with_fields
from vtadl_jax.data.records import Record, Splits
from vtadl_jax.data.sources.layouts import folder_layout
from vtadl_jax.evaluate import compare_images
from vtadl_jax.training.known_images import (
    IMAGES,
    SAMPLE,
    Difference,
    check_images_of_run,
    describe,
    differences,
    load_marks,
    marks_of,
    save_marks,
)
from vtadl_jax.training.stored import CONFIG, save_config


@pytest.fixture
def data(tmp_path):
    """Ten good images, two bad ones and their masks, below tmp_path/one."""
    for i in range(10):
        write(tmp_path / f"one/good/{i}.png", noise((8, 6), i))
    for i in range(2):
        write(tmp_path / f"one/bad/{i}.png", noise((8, 6), 20 + i))
        write(tmp_path / f"one/masks/{i}.png", grey(255))
    return tmp_path


def config_of(folder):
    fields = {"data__source": "folder", "data__category": ""}
    places = {f"data__{n}": str(folder / f) for n, f in (("bad", "bad"), ("masks", "masks"))}
    return tiny_config(folder / "good", "position_gaussian", **fields, **places)


def marks_in(folder):
    return marks_of(folder_layout(folder / "good", "", folder / "bad", folder / "masks"))


def started(folder, workdir):
    workdir.mkdir()
    save_marks(workdir, marks_in(folder))
    return config_of(folder)


def test_the_list_holds_names_and_marks_and_no_places(data):
    stored = started(data / "one", data / "run")
    found = load_marks(data / "run")
    assert found == marks_in(data / "one")
    assert {len(found["train"]), len(found["test"])} == {8, 4}
    assert str(data) not in (data / "run" / IMAGES).read_text()
    assert all(("+" in mark) == name.startswith("bad") for name, mark in found["test"].items())
    assert check_images_of_run(data / "run", stored, stored, found) == []


def test_data_that_moved_continue(data):
    stored = started(data / "one", data / "run")
    (data / "one").rename(data / "two")
    moved = config_of(data / "two")
    assert check_images_of_run(data / "run", moved, stored, marks_in(data / "two")) == []


def test_a_few_changes_are_told_with_counts(data):
    stored = started(data / "one", data / "run")
    write(data / "one/good/new.png", noise((8, 6), 50))
    write(data / "one/good/3.png", noise((8, 6), 51))
    (line,) = check_images_of_run(data / "run", stored, stored, marks_in(data / "one"))
    assert line.startswith("warning: since this run was started, images have changed")
    for part in ("added", "1 changed (for example good/3.png)"):
        assert part in line


@pytest.mark.parametrize(
    ("field", "file"), [("root", "good/3.png"), ("bad", "bad/0.png"), ("masks", "masks/1.png")]
)
def test_other_images_elsewhere_are_another_data_set(data, field, file):
    stored = started(data / "one", data / "run")
    shutil.copytree(data / "one", data / "two")
    write(data / "two" / file, grey(128))
    other = config_of(data / "two")
    with fails("workdir", data / "run", "of other images", f"data.{field}=", "1 changed"):
        check_images_of_run(data / "run", other, stored, marks_in(data / "two"))


def test_other_images_in_the_same_folder_are_another_data_set(data):
    stored = started(data / "one", data / "run")
    for i in range(10):
        write(data / f"one/good/{i}.png", noise((8, 6), 100 + i))
    with fails("of other images", "training images: 8 changed", "give another --workdir"):
        check_images_of_run(data / "run", stored, stored, marks_in(data / "one"))


def test_files_of_one_size_are_told_apart(tmp_path):
    pixels = noise((90, 100))
    pixels[0], pixels[-1] = 0, 0
    other = pixels.copy()
    other[44:47] ^= 1
    files = [write(tmp_path / f"{i}.bmp", p) for i, p in enumerate((pixels, other, pixels))]
    assert len({file.stat().st_size for file in files}) == 1
    assert files[0].stat().st_size > SAMPLE
    records = [Record(file, None, 0, "good", file.name) for file in files]
    marks = list(marks_of(Splits(tuple(records), (), "")).get("train").values())
    assert marks[0] == marks[2] != marks[1]


def test_arrays_are_marked_by_their_content():
    rows = noise((3, 4, 5))
    records = tuple(Record(row, None, 0, "good", f"train/{i}") for i, row in enumerate(rows))
    before = marks_of(Splits(records, records[:1], ""))
    rows[1, 0, 0] ^= 1
    found = differences(before, marks_of(Splits(records, records[:1], "")))
    assert found["train"] == Difference((), (), ("train/1",), 2)
    assert not found["test"]
    assert describe(found) == "training images: 1 changed (for example train/1)"


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"train": 3, "test": {}}'])
def test_a_run_without_a_list_is_told(data, content):
    stored = config_of(data / "one")
    (data / "run").mkdir()
    if content is not None:
        (data / "run" / IMAGES).write_text(content)
    (line,) = check_images_of_run(data / "run", stored, stored, marks_in(data / "one"))
    assert "has no readable images.json" in line


def test_masks_that_are_new_can_be_evaluated_with(data):
    bare = with_fields(config_of(data / "one"), data__masks="")
    bad = data / "one/bad"
    (data / "run").mkdir()
    save_config(bare, data / "run" / CONFIG)
    save_marks(data / "run", marks_of(folder_layout(data / "one/good", bad=bad)))
    with fails("data.masks=''", "2 changed", "vtadl_jax.evaluate", "--data_masks=", "one/masks"):
        check_images_of_run(data / "run", config_of(data / "one"), bare, marks_in(data / "one"))


def test_images_that_a_run_was_trained_on_do_not_test_it(data, capsys):
    fields = {"data__bad": "", "data__masks": ""}
    good_only, config = with_fields(config_of(data / "one"), **fields), config_of(data / "one")
    (data / "run").mkdir()
    save_config(good_only, data / "run" / CONFIG)
    save_marks(data / "run", marks_of(folder_layout(data / "one/good")))
    now = folder_layout(data / "one/good", bad=data / "one/bad")
    with fails("--data_bad", data / "one/bad", "2 of the 4 test images", "--config.data.bad="):
        compare_images(data / "run", now, config)
    save_config(config, data / "run" / CONFIG)  # trained with others, of which some are tested on
    compare_images(data / "run", now, config)
    said = capsys.readouterr().err
    assert "warning: 2 of the 4 test images (for example good/" in said
    assert "were training images of this run: its figures are too good" in said
