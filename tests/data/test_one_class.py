"""The protocol: which images train, which test, and what is drawn."""

import dataclasses
from collections import Counter

import numpy as np
import pytest

from tests.data.factory import fails, noise
from vtadl_jax.data.pipeline import load_example
from vtadl_jax.data.records import split_holdout
from vtadl_jax.data.sources.one_class import ClassSet, array_part, class_index, one_class_splits
from vtadl_jax.data.transforms import Geometry

CLASSES = ("cat", "dog", "ship")


def labelled(num_train=60, num_test=30, classes=CLASSES):
    """Image i is of class i modulo their number; its pixels are noise of its own."""

    def part(split, count, seed):
        labels = np.arange(count, dtype=np.uint8) % len(classes)
        return array_part(split, noise((count, 4, 5), seed), labels)

    return ClassSet("Pets", classes, part("train", num_train, 0), part("test", num_test, 1))


def names(records):
    return [record.name for record in records]


def test_one_class_trains_and_all_test():
    images = labelled()
    splits = one_class_splits(images, "dog")
    assert splits.category == "dog"
    assert names(splits.train) == [f"train/{i:05d}" for i in range(1, 60, 3)]
    assert {(r.label, r.defect, r.mask) for r in splits.train} == {(0, "good", None)}
    assert names(splits.test) == [f"test/{i:05d}" for i in range(30)]
    assert [(r.label, r.defect) for r in splits.test[:3]] == [(1, "cat"), (0, "good"), (1, "ship")]
    for record, i in ((splits.train[1], 4), (splits.test[7], 7)):
        part = images.train if record.name.startswith("train") else images.test
        np.testing.assert_array_equal(record.image, part.images[i])


def test_images_are_views_of_the_one_array():
    images = labelled()
    splits = one_class_splits(images, "cat", anomaly_fraction=0.5)
    assert all(np.shares_memory(r.image, images.train.images) for r in splits.train)
    assert all(np.shares_memory(r.image, images.test.images) for r in splits.test)


def test_records_load():
    record = one_class_splits(labelled(), "cat").test[1]
    example = load_example(record, Geometry((4, 5)), 3)
    np.testing.assert_array_equal(example["image"], np.repeat(record.image[..., None], 3, 2))
    assert (example["label"], example["has_mask"]) == (1, False)


def test_every_class_is_normal_once():
    images = labelled()
    train = [name for c in CLASSES for name in names(one_class_splits(images, c).train)]
    assert sorted(train) == sorted(images.train.names)


@pytest.mark.parametrize(("category", "index"), [("ship", 2), ("Ship ", 2), ("2", 2), ("0", 0)])
def test_class_by_name_or_number(category, index):
    assert class_index(labelled(), category) == index


def test_numbers_start_where_people_start_them():
    images = dataclasses.replace(labelled(), first_number=1)
    assert class_index(images, "3") == 2
    with fails("data.category '0'", "cat, dog, ship"):
        class_index(images, "0")


def test_a_class_named_by_a_number_is_found_by_name():
    assert class_index(dataclasses.replace(labelled(), classes=("2", "1", "0")), "2") == 0


@pytest.mark.parametrize(
    ("category", "parts"),
    [
        ("", ("data.category is empty", "Pets", "cat, dog, ship")),
        ("shep", ("'shep'", "did you mean 'ship'", "cat, dog, ship")),
        ("3", ("'3'", "cat, dog, ship")),
        ("-1", ("'-1'", "cat, dog, ship")),
    ],
)
def test_unknown_class(category, parts):
    with fails(*parts):
        one_class_splits(labelled(), category)


def test_many_classes_are_not_listed():
    images = dataclasses.replace(labelled(), classes=tuple(f"obj{i}" for i in range(100)))
    with fails("obj0 to obj99") as caught:
        class_index(images, "cup")
    assert "obj50" not in str(caught.value)


def test_empty_class():
    images = labelled(num_train=2)
    with fails("Pets", "no training images of class 'ship'"):
        one_class_splits(images, "ship")


def test_balanced_test_keeps_the_normal_images_and_as_many_others():
    full = one_class_splits(labelled(), "dog")
    splits = one_class_splits(labelled(), "dog", balanced_test=True)
    assert Counter(r.label for r in splits.test) == {0: 10, 1: 10}
    assert splits.train == full.train or names(splits.train) == names(full.train)
    kept = set(names(splits.test))
    assert names(splits.test) == [name for name in names(full.test) if name in kept]
    assert {r.name for r in full.test if not r.label} <= kept


def test_balanced_test_takes_all_anomalies_where_they_are_few():
    images = labelled(classes=("cat",))
    rare = dataclasses.replace(images.test, labels=np.array([0] * 28 + [1] * 2))
    images = dataclasses.replace(images, classes=("cat", "dog"), test=rare)
    splits = one_class_splits(images, "cat", balanced_test=True)
    assert Counter(r.label for r in splits.test) == {0: 28, 1: 2}


@pytest.mark.parametrize(
    ("limit", "normal", "anomalous"), [(4, 4, 4), (15, 10, 15), (20, 10, 20), (99, 10, 20)]
)
@pytest.mark.parametrize("fields", [{}, {"anomaly_fraction": 0.1}, {"balanced_test": True}])
def test_a_limit_keeps_at_most_that_many_of_each_label(limit, normal, anomalous, fields):
    full = one_class_splits(labelled(), "dog")
    splits = one_class_splits(labelled(), "dog", test_limit=limit, **fields)
    assert Counter(r.label for r in splits.test) == {0: normal, 1: anomalous}
    kept = set(names(splits.test))
    assert names(splits.test) == [name for name in names(full.test) if name in kept]
    other = one_class_splits(labelled(), "dog", test_limit=limit, seed=1)
    assert (set(names(other.test)) != kept) == (limit < 20)


def test_what_was_drawn_is_told_with_counts():
    def notes(**fields):
        return one_class_splits(labelled(), "dog", **fields).notes

    assert notes() == notes(test_limit=99) == ()
    assert notes(anomaly_fraction=0.1, test_limit=15, seed=3) == (
        "note: trained on 20 normal and 2 anomalous images, tested on 10 of 10 normal and 15 of 20 "
        "anomalous ones, drawn by seed 3",
    )
    assert notes(balanced_test=True) == (
        "note: tested on 10 of 10 normal and 10 of 20 anomalous ones, drawn by seed 0",
    )
    assert notes(anomaly_fraction=0.1, test_limit=99) == (
        "note: trained on 20 normal and 2 anomalous images, drawn by seed 0",
    )


@pytest.mark.parametrize("fraction", [0.05, 0.5, 2.0])
def test_nothing_is_trained_and_tested_on(fraction):
    splits = one_class_splits(labelled(), "dog", fraction, test_limit=1000)
    assert not set(names(splits.train)) & set(names(splits.test))
    trained = {record.image.tobytes() for record in splits.train}
    assert not trained & {record.image.tobytes() for record in splits.test}


@pytest.mark.parametrize(("fraction", "count"), [(0.001, 1), (0.1, 2), (0.5, 10), (2.0, 40)])
def test_anomalies_in_training(fraction, count):
    plain = one_class_splits(labelled(), "dog")
    splits = one_class_splits(labelled(), "dog", fraction)
    assert names(splits.train[:20]) == names(plain.train)
    drawn = splits.train[20:]
    assert len(drawn) == count
    assert names(drawn) == sorted(set(names(drawn)))
    assert all(r.label == 1 and r.defect in ("cat", "ship") for r in drawn)
    assert all(r.name.startswith("train/") for r in drawn)
    assert Counter(r.label for r in splits.test) == {0: 10, 1: 10}


def test_draws_depend_on_the_seed_and_the_names_alone():
    def drawn(seed, images):
        splits = one_class_splits(images, "dog", 0.5, seed)
        return set(names(splits.train[20:])), set(names(splits.test))

    images = labelled()
    assert drawn(0, images) == drawn(0, labelled())
    assert all(a != b for a, b in zip(drawn(0, images), drawn(1, images), strict=True))
    # The hash of a name is the same everywhere: these were drawn once and must stay.
    assert sorted(names(one_class_splits(images, "dog", 0.1, 0).train[20:])) == [
        "train/00011",
        "train/00021",
    ]


@pytest.mark.parametrize("fraction", [-0.1, 2.1, float("nan"), float("inf")])
def test_anomaly_fraction_out_of_range(fraction):
    with fails("data.anomaly_fraction", fraction, "20 normal images", "40 images"):
        one_class_splits(labelled(), "dog", fraction)


def test_the_holdout_of_views_is_a_partition():
    train = one_class_splits(labelled(), "dog").train
    kept, held = split_holdout(train, 0.1, 0)
    assert len(held) == 4
    assert sorted(names(kept + held)) == names(train)
