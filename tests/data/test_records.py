"""Records: the holdout split, anomalies moved to training, the check of files at each start."""

from collections import Counter

import pytest
from PIL import Image

from tests.data.factory import fails, grey, noise, records, tree, truncate, write
from vtadl_jax.data.records import Record, Splits, check_images, move_anomalies, split_holdout
from vtadl_jax.data.sources.layouts import mvtec_layout


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


# Anomalies to train on


def splits_of(good=20, masked=True, **kinds):
    """Splits without files: `good` training images, and test images of each kind of defect."""
    train = tuple(Record(None, None, 0, "good", f"train/good/{i:03}.png") for i in range(good))
    defects = [
        Record(None, "a mask" if masked else None, 1, kind, f"test/{kind}/{i:03}.png")
        for kind, count in kinds.items()
        for i in range(count)
    ]
    fine = [Record(None, None, 0, "good", f"test/good/{i:03}.png") for i in range(5)]
    return Splits(train, (*fine, *defects), "screw")


def test_moved_anomalies_are_trained_on_and_never_tested_on():
    before = splits_of(scratch=6, dent=4)
    after = move_anomalies(before, 0.25, seed=0)
    moved = [record for record in after.train if record.label]
    assert len(moved) == 5  # a quarter of 20
    assert after.train[:20] == before.train
    assert not {r.name for r in after.train} & {r.name for r in after.test}
    assert {*after.train, *after.test} == {*before.train, *before.test}
    assert sum(r.label == 0 for r in after.test) == 5
    assert after.category == "screw"


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [3, 10, 17])
def test_every_kind_of_defect_gives_its_share(seed, count):
    kinds = {"scratch": 12, "dent": 6, "crack": 2}
    after = move_anomalies(splits_of(good=100, **kinds), count / 100, seed)
    moved = Counter(record.defect for record in after.train if record.label)
    assert moved.total() == count
    for kind, number in kinds.items():
        assert abs(moved[kind] - count * number / 20) < 1


def test_what_is_moved_depends_on_the_seed_and_names_alone():
    def moved(seed, order=1):
        splits = splits_of(scratch=20, dent=20)
        splits = Splits(splits.train, splits.test[::order], "screw")
        return {r.name for r in move_anomalies(splits, 0.5, seed).train if r.label}

    assert moved(1) == moved(1, order=-1)
    assert len({frozenset(moved(seed)) for seed in range(5)}) == 5


def test_at_least_one_is_moved():
    after = move_anomalies(splits_of(good=4, scratch=3), 0.01, seed=0)
    assert sum(record.label for record in after.train) == 1


def test_only_those_with_a_mask_are_moved_where_masks_are_needed():
    masked, bare = splits_of(scratch=4), splits_of(masked=False, dent=4)
    both = Splits(masked.train, (*masked.test, *bare.test[5:]), "screw")
    after = move_anomalies(both, 0.15, seed=0, masked=True)
    assert [r.defect for r in after.train if r.label] == ["scratch"] * 3
    with fails("data.anomaly_fraction 0.2", "is 4", "4 defective test images with a mask"):
        move_anomalies(both, 0.2, seed=0, masked=True)
    assert sum(r.label for r in move_anomalies(both, 0.35, seed=0).train) == 7


@pytest.mark.parametrize(
    ("fraction", "number", "remedy"),
    [
        (0.5, 10, "use less than 0.5, or add defective images"),
        (2.0, 10, "use less than 0.5, or add defective images"),
        (0.1, 1, "in the test set: add defective images"),
    ],
)
def test_a_fraction_that_leaves_nothing_to_test_on_is_refused(fraction, number, remedy):
    with fails(f"data.anomaly_fraction {fraction}", remedy):
        move_anomalies(splits_of(scratch=number), fraction, seed=0)


def test_without_defective_images_or_masks_the_error_says_what_to_give():
    with fails("data.anomaly_fraction 0.1", "with masks, and there are none", "--config.data.bad"):
        move_anomalies(splits_of(), 0.1, seed=0, masked=True)
    with fails("on defective images, and there are none", "configs/best.py"):
        move_anomalies(splits_of(), 0.1, seed=0)
    with fails("none of the 3 defective images has one", "--config.data.masks=DIR"):
        move_anomalies(splits_of(masked=False, dent=3), 0.1, seed=0, masked=True)
