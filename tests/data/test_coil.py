"""COIL-100: names, and a split that every object shares."""

from collections import Counter
from pathlib import Path

import pytest

from tests.data.factory import fails, grey, write
from vtadl_jax.configs import coil100
from vtadl_jax.data.sources import load_splits
from vtadl_jax.data.sources.coil import read_coil100
from vtadl_jax.data.sources.one_class import one_class_splits

SITE = "https://www.cs.columbia.edu/CAVE/software/softlib/coil-100.php"


def objects(root: Path, numbers=(1, 2, 17), count: int = 20) -> Path:
    for number in numbers:
        for i in range(count):
            write(root / f"obj{number}__{5 * i}.png", grey(number))
    return root


def labels(part):
    return Counter(part.labels.tolist())


def test_a_fifth_of_every_object_is_tested_on(tmp_path):
    images = read_coil100(objects(tmp_path))
    assert labels(images.train) == {0: 16, 1: 16, 16: 16}
    assert labels(images.test) == {0: 4, 1: 4, 16: 4}
    assert not set(images.train.names) & set(images.test.names)
    assert len(images.classes) == 100


def test_the_split_depends_on_the_seed_and_on_the_objects_own_images(tmp_path):
    def held(root, seed):
        return {n for n in read_coil100(root, 0.2, seed).test.names if n.startswith("obj2__")}

    some = objects(tmp_path / "some", (1, 2))
    every = objects(tmp_path / "every", (2, 3, 100))
    assert held(some, 0) == held(every, 0) != held(some, 1)


def test_splits(tmp_path):
    images = read_coil100(objects(tmp_path))
    for category in ("17", "obj17"):
        splits = one_class_splits(images, category, balanced_test=True)
        assert splits.category == "obj17"
        assert len(splits.train) == 16
        assert Counter(r.label for r in splits.test) == {0: 4, 1: 4}
        assert {r.defect for r in splits.test} <= {"good", "obj1", "obj2"}
        assert all(r.image.name == r.name for r in splits.test)
        names = [r.name for r in splits.train]
        assert names == sorted(names, key=lambda name: int(name[7:-4]))


def test_test_fraction(tmp_path):
    root = objects(tmp_path)
    assert len(read_coil100(root, 0.5).test.names) == 30
    assert read_coil100(root, 0).test.names == []
    with fails("data.test_fraction 1.0"):
        read_coil100(root, 1.0)


def test_object_without_images(tmp_path):
    with fails("COIL-100", "no training images of class 'obj3'"):
        one_class_splits(read_coil100(objects(tmp_path)), "3")


def test_archive_as_it_unpacks(tmp_path):
    folder = objects(tmp_path / "coil-100")
    for name in ("convertGroupppm2png.pl", "convertGrouppng2ppm.pl", ".DS_Store"):
        (folder / name).touch()
    assert len(read_coil100(tmp_path).train.names) == 48


@pytest.mark.parametrize(
    "name", ["obj1_0.png", "obj__5.png", "obj1__x.png", "obj1__0.jpg", "cup.png", "a.txt"]
)
def test_other_names(tmp_path, name):
    stray = objects(tmp_path) / name
    stray.touch()
    with fails(stray, "obj<number>__<angle>.png", "move or remove"):
        read_coil100(tmp_path)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("obj0__5.png", "object 0 is not between 1 and 100"),
        ("obj101__5.png", "object 101 is not between 1 and 100"),
        ("obj1__360.png", "angle 360"),
    ],
)
def test_numbers_out_of_range(tmp_path, name, why):
    stray = write(objects(tmp_path) / name, grey(0))
    with fails(stray, why):
        read_coil100(tmp_path)


def test_folder_among_images(tmp_path):
    (objects(tmp_path) / "obj3__0.png").mkdir()
    with fails("obj3__0.png"):
        read_coil100(tmp_path)


def test_nothing_there(tmp_path):
    with fails(tmp_path, "no obj1__0.png", SITE):
        read_coil100(tmp_path)
    with fails("data.root is empty", SITE):
        read_coil100("")


def test_config(tmp_path):
    config = coil100.get_config("2")
    config.data.root = str(objects(tmp_path))
    splits = load_splits(config)
    assert (splits.category, len(splits.train), len(splits.test)) == ("obj2", 16, 4 + 4)
    (tmp_path / "obj2__0.png").write_bytes(b"no image")
    with fails(tmp_path / "obj2__0.png"):
        load_splits(config)
