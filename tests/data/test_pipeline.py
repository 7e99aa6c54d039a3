"""Batches: order of images over epochs and processes, resuming, padding, faults in threads."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import grain
import numpy as np
import pytest

from tests.data.factory import fails, grey, noise, records, truncate, write
from vtadl_jax.data.pipeline import (
    array_loader,
    decode_all,
    decoding_loader,
    eval_batches,
    index_loader,
    needed_example,
    train_iterator,
)
from vtadl_jax.data.records import Record
from vtadl_jax.data.transforms import Geometry

GEOMETRY = Geometry((4, 5))


def train(every, batch_size, seed=0, num_threads=2, prefetch=2, **process):
    load = decoding_loader(every, GEOMETRY, 1, num_threads)
    return train_iterator(load, len(every), batch_size, seed, prefetch, **process)


def take(iterator, count):
    """The ids (image i is grey with value i) of the next batches: [count][B]."""
    return [next(iterator)["image"][:, 0, 0, 0].tolist() for _ in range(count)]


@pytest.mark.parametrize(
    ("needs", "more"),
    [
        ((), {}),
        (("label",), {"label": ((4,), "int32")}),
        (("mask",), {"mask": ((4, 4, 5), "uint8"), "has_mask": ((4,), "bool")}),
    ],
)
def test_train_batch(tmp_path, needs, more):
    every = records(tmp_path, 5)
    load = decoding_loader(every, GEOMETRY, 3, 2, needs)
    batch = next(train_iterator(load, 5, 4, seed=0, prefetch=2))
    found = {name: (value.shape, value.dtype.name) for name, value in batch.items()}
    assert found == {"image": ((4, 4, 5, 3), "uint8"), **more}


def test_every_loader_gives_the_same_images(tmp_path):
    every = records(tmp_path, 9)
    examples = decode_all(every, GEOMETRY, 3, num_threads=2, needs=("label",))
    images = examples["image"]
    assert images[:, 0, 0, 0].tolist() == list(range(9))
    loaders = (
        decoding_loader(every, GEOMETRY, 3, 2, ("label",)),
        array_loader(examples),
        index_loader,
    )
    decoded, cached, named = (train_iterator(f, 9, 4, seed=5, prefetch=2) for f in loaders)
    for _ in range(5):
        batch, again, rows = next(decoded), next(cached), next(named)["index"]
        assert batch.keys() == again.keys() == examples.keys()
        for name, values in batch.items():
            np.testing.assert_array_equal(values, again[name])
            np.testing.assert_array_equal(values, examples[name][rows])


def test_labels_stay_with_their_images(tmp_path):
    every = [Record(r.image, None, i % 2, "x", r.name) for i, r in enumerate(records(tmp_path, 9))]
    load = decoding_loader(every, GEOMETRY, 1, 2, ("label",))
    batch = next(train_iterator(load, 9, 8, seed=0, prefetch=0))
    np.testing.assert_array_equal(batch["label"], batch["image"][:, 0, 0, 0] % 2)


def test_masks_move_as_their_images(tmp_path):
    """A picture that is its own mask, at another size and cut."""
    pixels = np.zeros((16, 20), np.uint8)
    pixels[2:9, 7:15] = 255
    path = write(tmp_path / "a.png", pixels)
    record = Record(path, path, 1, "scratch", "a.png")
    found = needed_example(record, Geometry((32, 24), (48, 40)), 1, ("label", "mask"))
    white = found["image"][..., 0] / 255
    assert found["mask"].shape == white.shape == (32, 24)
    assert (found["label"], found["has_mask"]) == (1, True)
    assert 0.1 < found["mask"].mean() < 0.5
    assert np.abs(white - found["mask"]).mean() < 0.05  # but for edges between pixels


@pytest.mark.parametrize(("count", "batch_size"), [(7, 3), (8, 4), (5, 5), (1, 1)])
def test_every_image_once_an_epoch(tmp_path, count, batch_size):
    stream = list(itertools.chain(*take(train(records(tmp_path, count), batch_size), 4 * count)))
    epochs = [stream[start : start + count] for start in range(0, len(stream), count)]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    if count > 4:
        assert len({tuple(epoch) for epoch in epochs[:4]}) > 1


def test_the_seed_decides(tmp_path):
    every = records(tmp_path, 9)
    first = take(train(every, 3, seed=1), 9)
    assert first == take(train(every, 3, seed=1), 9)
    assert first != take(train(every, 3, seed=2), 9)
    # grain's own seeding would make epoch 2 of one seed epoch 1 of the next.
    assert first[3:6] != take(train(every, 3, seed=2), 3)
    assert take(train(every, 3, seed=-1), 1)


@pytest.mark.parametrize(("num_threads", "prefetch"), [(0, 0), (0, 3), (1, 1), (4, 0), (4, 5)])
def test_threads_do_not_change_the_order(tmp_path, num_threads, prefetch):
    every = records(tmp_path, 9)
    assert take(train(every, 4, num_threads=num_threads, prefetch=prefetch), 7) == take(
        train(every, 4), 7
    )


def test_processes_share_the_global_batch(tmp_path):
    every = records(tmp_path, 10)
    whole = take(train(every, 4), 10)
    parts = [take(train(every, 4, process_index=i, process_count=2), 10) for i in range(2)]
    assert [first + second for first, second in zip(*parts, strict=True)] == whole
    assert all(len(rows) == 2 for part in parts for rows in part)


@pytest.mark.parametrize("stop", [0, 1, 3, 8])
def test_resume_repeats_none_and_skips_none(tmp_path, stop):
    every = records(tmp_path, 10)
    whole = take(train(every, 4), 12)
    first = train(every, 4)
    assert take(first, stop) == whole[:stop]
    state = json.loads(json.dumps(first.get_state()))
    second = train(every, 4)
    take(second, 2)  # what is already prefetched has to be thrown away
    second.set_state(state)
    assert take(second, 12 - stop) == whole[stop:]


def test_resume_with_another_number_of_processes(tmp_path):
    every = records(tmp_path, 10)
    whole = take(train(every, 4), 8)
    first = train(every, 4, process_index=1, process_count=2)
    take(first, 3)
    second = train(every, 4)
    second.set_state(first.get_state())
    assert take(second, 5) == whole[3:]


def test_grain_checkpoint(tmp_path):
    every = records(tmp_path / "images", 6)
    whole = take(train(every, 4), 6)
    first = train(every, 4)
    assert isinstance(first, grain.DatasetIterator)
    take(first, 2)
    handler = grain.checkpoint.CheckpointHandler()
    handler.save(tmp_path, item=first)
    assert take(handler.restore(tmp_path, item=train(every, 4)), 4) == whole[2:]


def test_batch_size_larger_than_the_data(tmp_path):
    with fails("batch_size 16", "9 training images", "use 9 or less"):
        train(records(tmp_path, 9), 16)


def test_batch_size_that_processes_cannot_share(tmp_path):
    with fails("batch_size 7", "3 processes", "use 6"):
        train(records(tmp_path, 9), 7, process_count=3)
    with fails("batch_size 2", "3 processes", "use 3"):
        train(records(tmp_path, 9), 2, process_count=3)


@pytest.mark.parametrize("batch_size", [0, -4])
def test_batch_size_must_be_positive(tmp_path, batch_size):
    every = records(tmp_path, 3)
    with fails(f"batch_size {batch_size}"):
        train(every, batch_size)
    with fails(f"batch_size {batch_size}"):
        next(eval_batches(every, GEOMETRY, 1, batch_size, 1))


def test_no_training_images():
    with fails("no training images"):
        train((), 1)


@pytest.mark.parametrize("num_threads", [0, 1, 3])
@pytest.mark.parametrize("prefetch", [0, 2])
def test_truncated_image_surfaces_from_training(tmp_path, num_threads, prefetch):
    every = records(tmp_path, 6)
    broken = truncate(write(every[4].image, noise((32, 32))))
    iterator = train(every, 2, num_threads=num_threads, prefetch=prefetch)
    with fails("cannot read image", broken):
        take(iterator, 3)


@pytest.mark.parametrize("num_threads", [0, 3])
def test_truncated_image_surfaces_from_evaluation(tmp_path, num_threads):
    every = records(tmp_path, 6)
    broken = truncate(write(every[4].image, noise((32, 32))))
    with fails("cannot read image", broken):
        list(eval_batches(every, GEOMETRY, 1, 4, num_threads))


def test_eval_batches_in_order_and_of_one_shape(tmp_path):
    normal = records(tmp_path / "good", 3)
    mask = write(tmp_path / "mask.png", grey(255))
    every = (
        *normal,
        Record(write(tmp_path / "3.png", grey(3)), mask, 1, "dent", "test/dent/3.png"),
        Record(write(tmp_path / "4.png", grey(4)), None, 1, "dent", "test/dent/4.png"),
    )
    batches = list(eval_batches(every, GEOMETRY, 3, batch_size=2, num_threads=2))
    assert len(batches) == 3
    for batch in batches:
        assert {name: (value.shape, value.dtype.name) for name, value in batch.items()} == {
            "image": ((2, 4, 5, 3), "uint8"),
            "mask": ((2, 4, 5), "uint8"),
            "label": ((2,), "int32"),
            "has_mask": ((2,), "bool"),
            "num_thin": ((2,), "int32"),
            "index": ((2,), "int32"),
            "valid": ((2,), "bool"),
        }
    rows = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    assert rows["valid"].tolist() == [True] * 5 + [False]
    assert rows["index"].tolist() == [0, 1, 2, 3, 4, -1]
    assert rows["image"][:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 0]
    assert rows["label"].tolist() == [0, 0, 0, 1, 1, 0]
    assert rows["has_mask"].tolist() == [True, True, True, True, False, False]
    assert rows["mask"].max(axis=(1, 2)).tolist() == [0, 0, 0, 1, 0, 0]


@pytest.mark.parametrize(("count", "batches"), [(0, 0), (1, 1), (4, 1), (8, 2)])
def test_eval_batch_counts(tmp_path, count, batches):
    found = list(eval_batches(records(tmp_path, count), GEOMETRY, 1, 4, 2))
    assert len(found) == batches
    assert sum(batch["valid"].sum() for batch in found) == count


@pytest.mark.parametrize("count", [1, 5, 8, 11])
def test_eval_batches_of_processes_make_the_whole(tmp_path, count):
    every = records(tmp_path, count)
    whole = list(eval_batches(every, GEOMETRY, 1, 4, 2))
    parts = [list(eval_batches(every, GEOMETRY, 1, 4, 2, i, 2)) for i in range(2)]
    assert len(whole) == len(parts[0]) == len(parts[1])
    for batch, *halves in zip(whole, *parts, strict=True):
        for name, rows in batch.items():
            np.testing.assert_array_equal(rows, np.concatenate([half[name] for half in halves]))


def test_eval_batches_read_ahead_only_a_little(tmp_path):
    every = records(tmp_path, 8)
    truncate(write(every[7].image, noise((32, 32))))
    batches = eval_batches(every, GEOMETRY, 1, 1, 1)
    next(batches)
    for record in every[4:7]:  # not read yet: one batch taken, two held ready
        write(record.image, grey(200))
    assert [next(batches)["image"].max() for _ in range(3, 6)] == [1, 2, 3]
    assert next(batches)["image"].max() == 200
    batches.close()


@pytest.mark.slow
def test_no_flags_need_parsing(tmp_path):
    records(tmp_path, 3)
    program = f"""
from pathlib import Path
from vtadl_jax.data.pipeline import decoding_loader, eval_batches, train_iterator
from vtadl_jax.data.records import Record
from vtadl_jax.data.transforms import Geometry
rows = [Record(Path(p), None, 0, "good", "") for p in sorted(Path({str(tmp_path)!r}).iterdir())]
next(train_iterator(decoding_loader(rows, Geometry((4, 4)), 1, 2), len(rows), 2, 0, 2))
assert len(list(eval_batches(rows, Geometry((4, 4)), 1, 2, 2))) == 2
"""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("processes", [1, 2])
def test_half_of_a_balanced_batch_is_anomalous(processes):
    anomalous = [i % 5 == 0 for i in range(20)]  # 4 of 20
    iterators = [
        train_iterator(index_loader, 20, 8, 3, 0, i, processes, anomalous) for i in range(processes)
    ]
    seen = []
    for _ in range(8):
        parts = [next(iterator)["index"].tolist() for iterator in iterators]
        assert all(sum(i % 5 == 0 for i in part) == len(part) / 2 for part in parts)
        seen += itertools.chain(*parts)
    good = [i for i in seen if i % 5]
    assert sorted(good[:16]) == [i for i in range(20) if i % 5]  # each once, then again
    assert sorted(good[16:32]) == sorted(good[:16]) != good[16:32]
    bad = [i for i in seen if not i % 5]
    assert all(sorted(bad[i : i + 4]) == [0, 5, 10, 15] for i in range(0, 32, 4))


def test_balanced_batches_continue_where_they_were_and_need_both_kinds():
    def make():
        return train_iterator(index_loader, 10, 4, 0, 2, anomalous=[True] * 3 + [False] * 7)

    whole = make()
    first = [next(whole)["index"].tolist() for _ in range(5)]
    state = whole.get_state()
    rest = [next(whole)["index"].tolist() for _ in range(5)]
    resumed = make()
    resumed.set_state(state)
    assert [next(resumed)["index"].tolist() for _ in range(5)] == rest != first
    for every, missing in ((True, "good"), (False, "anomalous")):
        with fails("data.balanced_batches", f"no {missing} training images"):
            train_iterator(index_loader, 4, 2, 0, 0, anomalous=[every] * 4)
