"""Records: the held-out split, and the check of files at each start."""

import pytest
from PIL import Image

from tests.data.factory import fails, grey, noise, records, tree, truncate, write
from vtadl_jax.data.layouts import mvtec_layout
from vtadl_jax.data.records import Record, Splits, check_images, split_holdout


@pytest.mark.parametrize(
    ("count", "fraction", "held"),
    [
        *((2, 0.01, 1), (3, 0.9, 2), (4, 0.01, 2), (20, 0.25, 5), (20, 0.99, 19), (5, 0.0, 0)),
        *((14, 0.01, 2), (20, 0.1, 4), (40, 0.1, 8), (60, 0.1, 8), (90, 0.1, 9)),
    ],
)
def test_holdout_counts(tmp_path, count, fraction, held):
    every = records(tmp_path, count)
    train, holdout = split_holdout(every, fraction, seed=0)
    assert len(holdout) == held
    assert set(train) | set(holdout) == set(every)
    assert len(train) + len(holdout) == count


def test_a_test_split_is_as_small_as_asked(tmp_path):
    every = records(tmp_path, 40)
    assert len(split_holdout(every, 0.05, 0, "data.test_fraction", 2)[1]) == 2


def test_holdout_depends_on_the_seed_and_not_on_the_order(tmp_path):
    every = records(tmp_path, 20)
    first = split_holdout(every, 0.3, seed=1)
    assert first == split_holdout(every[::-1], 0.3, seed=1)
    assert first != split_holdout(every, 0.3, seed=2)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 2.0, float("nan")])
def test_holdout_fraction_out_of_range(tmp_path, fraction):
    with fails(f"fraction {fraction}"):
        split_holdout(records(tmp_path, 3), fraction, seed=0)


def test_holdout_of_a_single_image(tmp_path):
    with fails("0.5", "1 images"):
        split_holdout(records(tmp_path, 1), 0.5, seed=0)


def test_check_images_accepts_a_sound_tree(tmp_path):
    check_images(mvtec_layout(tree(tmp_path)))
    check_images(Splits((), (), ""))


def test_check_images_names_the_unreadable_file_and_counts_the_others(tmp_path):
    splits = mvtec_layout(tree(tmp_path))
    splits.train[1].image.write_bytes(b"")
    with fails(splits.train[1].image, "empty") as caught:
        check_images(splits)
    assert "more" not in str(caught.value)
    splits.train[2].image.write_bytes(b"no image")
    splits.test[3].mask.write_bytes(b"no image")
    with fails(splits.train[1].image, "and 2 more"):
        check_images(splits, workers=1)


def test_check_images_compares_the_sizes_of_masks(tmp_path):
    splits = mvtec_layout(tree(tmp_path))
    write(splits.test[2].mask, grey(255, (6, 8)))
    with fails(splits.test[2].mask, "8×6", splits.test[2].image, "6×8"):
        check_images(splits)


def test_check_images_looks_at_upright_sizes(tmp_path):
    tree(tmp_path, good=0, scratch=0)
    exif = Image.Exif()
    exif[0x0112] = 6
    write(tmp_path / "test" / "dent" / "a.jpg", grey(9, (6, 8)), exif=exif)
    write(tmp_path / "ground_truth" / "dent" / "a.png", grey(255, (8, 6)))
    check_images(mvtec_layout(tmp_path))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp"])
def test_check_images_finds_files_that_were_cut_short(tmp_path, suffix):
    splits = mvtec_layout(tree(tmp_path))
    path = write(splits.train[0].image.with_name(f"zz{suffix}"), noise((64, 64)))
    splits = mvtec_layout(tmp_path)
    check_images(splits)
    truncate(path)
    with fails(str(path)):
        check_images(splits)


def test_only_normal_images_are_held_out(tmp_path):
    every = [
        Record(r.image, None, int(i % 2), "x", r.name) for i, r in enumerate(records(tmp_path, 8))
    ]
    train, held = split_holdout(every, 0.5, 0)
    assert [r.label for r in held] == [0, 0]
    assert sum(r.label for r in train) == 4
