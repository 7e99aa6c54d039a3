"""Folds of the test images: every image once, kinds spread, groups together, all of it told."""

from collections import Counter
from pathlib import Path

import pytest

from tests.data.factory import fails, tree
from tests.factory import tiny_config
from vtadl_jax.data.folds import fold_splits, groups_of, number_of
from vtadl_jax.data.records import Record, Splits
from vtadl_jax.data.sources import load_splits

SHARED = Path(__file__).resolve().parents[2].parent / "shared/data"


def record(name, masked=True):
    kind = name.split("/")[-2]
    mask = "a mask" if masked and kind != "good" else None
    return Record(None, mask, int(kind != "good"), kind, name)


def splits_of(good=20, test_good=10, masked=True, **kinds):
    train = tuple(record(f"train/good/part_{1000 + i}.png") for i in range(good))
    test = [record(f"test/good/part_{2000 + i}.png") for i in range(test_good)]
    for start, (kind, count) in enumerate(kinds.items(), 3):
        test += [record(f"test/{kind}/part_{1000 * start + i}.png", masked) for i in range(count)]
    return Splits(train, tuple(test), "screw")


def every_fold(splits, folds=5, seed=0, **options):
    return [fold_splits(splits, folds, k, seed, **options) for k in range(folds)]


def names(records):
    return {r.name for r in records}


def test_every_image_is_tested_on_once_and_never_trained_on_in_that_fold():
    before = splits_of(scratch=23, dent=7)
    folds = every_fold(before)
    tested = Counter(r.name for fold in folds for r in fold.test)
    assert tested == Counter(names(before.test))
    for fold in folds:
        assert not names(fold.train) & names(fold.test)
        assert names(before.train) <= names(fold.train)
        learned = [r for r in fold.train if r.name not in names(before.train)]
        assert all(r.label for r in learned)  # good test images are never trained on
        assert len(learned) == 30 - sum(r.label for r in fold.test)


@pytest.mark.parametrize("seed", range(4))
def test_kinds_are_spread_evenly(seed):
    for fold in every_fold(splits_of(scratch=23, dent=7, crack=3), seed=seed):
        counts = Counter(r.defect for r in fold.test)
        assert counts["scratch"] in (4, 5)
        assert counts["dent"] in (1, 2)
        assert counts["crack"] in (0, 1)
        assert counts["good"] == 2
        assert counts.total() in (8, 9)


def test_folds_depend_on_the_seed_and_names_alone():
    before = splits_of(scratch=23, dent=7)
    turned = Splits(before.train[::-1], before.test[::-1], "screw")
    for one, other in zip(every_fold(before), every_fold(turned), strict=True):
        assert names(one.test) == names(other.test)
    assert len({frozenset(names(every_fold(before, seed=s)[0].test)) for s in range(5)}) == 5


def test_images_with_near_numbers_are_of_one_part():
    every = [record(f"test/dent/exp{i % 6}_num_{n}.png") for i, n in enumerate((5, 30, 99, 40, 7))]
    every += [record("test/crack/exp1_num_101.png"), record("test/dent/without.png")]
    found = groups_of(every, 26)
    numbers = [[number_of(r) for r in group] for group in found]
    assert numbers == [[None], [5, 7, 30, 40], [99, 101]]
    assert all(len(group) == 1 for group in groups_of(every, 0))


def test_no_group_is_on_both_sides():
    """Parts of three exposures; every fourth has a good exposure among the training images."""
    test = [record(f"test/dent/{100 * i + j}.png") for i in range(12) for j in range(3)]
    test += [record(f"test/good/{5000 + 100 * i}.png") for i in range(5)]
    near = [record(f"train/good/{100 * i + 9}.png") for i in range(0, 12, 4)]
    far = [record(f"train/good/{9000 + i}.png") for i in range(6)]
    before = Splits((*near, *far), tuple(test), "tile")
    left_out = 0
    for fold in every_fold(before, group_gap=20):
        parts = [{number_of(r) // 100 for r in side} for side in (fold.train, fold.test)]
        assert not parts[0] & parts[1]
        missing = len(before.train) - sum(not r.label for r in fold.train)
        assert f"{missing} good training images of a group" in fold.notes[-1] or not missing
        assert "22 images" not in fold.notes[-1]
        left_out += missing
    assert left_out == len(near)


def test_what_is_used_and_what_is_not_is_told():
    masked, bare = splits_of(scratch=10), splits_of(masked=False, dent=5)
    both = Splits(masked.train, (*masked.test, *bare.test[10:]), "screw")
    fold = fold_splits(both, 5, 1, seed=0, masked=True)
    assert all(r.mask for r in fold.train if r.label)
    assert fold.notes == (
        "fold 1 of 5: 20 good and 8 defective images to train on, 2 good and 3 defective ones to "
        "test on; not used: 8 good test images of other folds; 4 defective images without a mask",
    )
    turned = Splits(both.train, (*both.test, record("test/dent/bare.png")), "screw")
    note = fold_splits(turned, 2, 0, seed=0, group_gap=1, masked=True).notes[-1]
    assert "; 46 images in 41 groups of numbers closer than 1, 11 of them with defects" in note
    assert note.endswith("none on both sides; 1 without a number in the name are each their own")


@pytest.mark.parametrize(
    ("folds", "fold", "gap", "message"),
    [
        (1, 0, 0, "data.folds 1: use 2 or more"),
        (5, 5, 0, "data.fold 5: data.folds 5 has the folds 0 to 4"),
        (20, 0, 0, "there are 10 defective test images: use fewer"),
        (5, 0, 50, "1 group, and fold 0 tests on none of them: use fewer folds, or a smaller gap"),
        (5, 1, 50, "1 group, and fold 1 tests on all of them"),
    ],
)
def test_folds_that_cannot_be(folds, fold, gap, message):
    with fails(message):
        fold_splits(splits_of(scratch=10), folds, fold, seed=0, group_gap=gap)


def test_without_masks_the_error_says_where_to_put_them():
    with fails("no defective images with a mask", "--config.data.masks=DIR"):
        fold_splits(splits_of(masked=False, dent=10), 5, 0, seed=0, masked=True)
    with fails("data.folds 5: there are no defective test images", "--config.data.bad=DIR"):
        fold_splits(splits_of(), 5, 0, seed=0)


def test_a_config_chooses_a_fold(tmp_path, capsys):
    tree(tmp_path / "nut", train=10, good=4, scratch=6)
    fields = {"data__category": "nut", "data__folds": 2}

    def split(**more):
        config = tiny_config(tmp_path, detector="position_gaussian", **fields | more)
        return load_splits(config, ("mask",))

    first, second = split(), split(data__fold=1)
    assert len(first.test) == len(second.test) == 5
    assert not names(first.test) & names(second.test)
    assert "fold 1 of 2: 10 good and 3 defective images to train on" in capsys.readouterr().err
    with fails("data.fold 2: data.folds 2 has the folds 0 to 1"):
        split(data__fold=2)
    with fails("data.folds 2 and data.anomaly_fraction 0.1 both choose"):
        split(data__anomaly_fraction=0.1)
    with fails("data.folds 2: data.source 'mnist' draws its anomalies"):
        split(data__source="mnist")
    for field in ("fold", "group_gap"):
        with fails(f"data.{field} 1 is not read without data.folds"):
            split(data__folds=0, **{f"data__{field}": 1})


def test_exposures_of_magnetic_tiles_stay_together():
    if not (SHARED / "mtd" / "magnetic_tile").is_dir():
        pytest.skip("no magnetic tiles beside the repository")
    from vtadl_jax.data.sources.layouts import mvtec_layout

    splits = mvtec_layout(SHARED / "mtd", "magnetic_tile")
    of_kind = {}
    for r in splits.test:
        of_kind.setdefault(r.defect, []).append(r)
    counts = {kind: len(groups_of(found, 60)) for kind, found in of_kind.items() if kind != "good"}
    assert counts == {"blowhole": 23, "break": 23, "crack": 16, "fray": 12, "uneven": 23}
    folds = every_fold(splits, group_gap=60, masked=True)
    assert sum(len(fold.test) for fold in folds) == len(splits.test)
    for fold in folds:
        tested, trained = ([number_of(r) for r in side] for side in (fold.test, fold.train))
        assert min(abs(a - b) for a in tested for b in trained) >= 60
