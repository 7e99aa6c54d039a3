"""Batches of images of many callers: size, order, waiting, faults, the end."""

import threading
import time
from concurrent.futures import CancelledError

import pytest

from tests.serving.fakes import FakeModel, make_batcher, png
from vtadl_jax.errors import UserError
from vtadl_jax.serving import batching
from vtadl_jax.serving.batching import Batcher, Stopping


def loader(model, value=40):
    return lambda: model.take_in(png(value=value))[0]


def gated(batch_size=4, **options):
    """Returns (model, batcher) whose device is busy with one image, and that image's job."""
    model = FakeModel(batch_size)
    batcher = make_batcher(model, **options)
    model.gate.clear()
    first = batcher.submit("plate", loader(model))
    until(lambda: model.batches == [1])
    return model, batcher, first


def until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.002)


def test_images_that_wait_share_batches_and_keep_their_scores():
    model, batcher, first = gated()
    jobs = [batcher.submit("plate", loader(model, value)) for value in range(10)]
    until(lambda: all(not count for count in batcher._decoding.values()))
    model.gate.set()
    scores = [job.result(10).prediction.score for job in jobs]
    assert [round(255 * score) for score in scores] == list(range(10))
    assert model.batches == [1, 4, 4, 2]
    assert jobs[0].result().batch == 4
    assert first.result().batch == 1
    assert batcher.close(5)
    assert len(model.threads) == 1  # warmed up and scored by one thread
    assert threading.get_ident() not in model.threads


def test_models_take_turns_by_the_image_that_waits_longest():
    model, other = FakeModel(), FakeModel()
    batcher = make_batcher(model, other)
    model.gate.clear()
    jobs = [batcher.submit("plate", loader(model))]
    until(lambda: model.batches == [1])
    for name in ("gear", "plate", "gear"):
        jobs.append(batcher.submit(name, loader(model)))
        until(lambda: sum(map(len, batcher._waiting.values())) == len(jobs) - 1)
    model.gate.set()
    for job in jobs:
        job.result(10)
    assert (model.batches, other.batches) == ([1, 1], [2])
    batcher.close(5)


def test_an_image_waits_for_one_that_is_being_decoded_but_not_for_long():
    model = FakeModel()
    batcher = make_batcher(model, max_wait_ms=60_000)
    decoded = threading.Event()

    def slow():
        decoded.wait(20)
        return loader(model)()

    late = batcher.submit("plate", slow)
    soon = batcher.submit("plate", loader(model))
    until(lambda: batcher._waiting["plate"])
    decoded.set()
    assert soon.result(10).batch == late.result(10).batch == 2
    assert batcher.submit("plate", loader(model)).result(10).batch == 1  # alone: at once
    batcher.close(5)

    batcher = make_batcher(model, max_wait_ms=1)
    decoded.clear()
    late = batcher.submit("plate", slow)
    assert batcher.submit("plate", loader(model)).result(10).batch == 1
    decoded.set()
    assert late.result(10).batch == 1
    batcher.close(5)


def test_an_image_that_cannot_be_read_holds_up_none():
    model = FakeModel()
    batcher = make_batcher(model, max_wait_ms=60_000)
    bad = batcher.submit("plate", lambda: model.take_in(b"no image"))
    with pytest.raises(UserError, match="cannot read"):
        bad.result(10)
    assert batcher.submit("plate", loader(model)).result(10).batch == 1
    batcher.close(5)


def test_a_fault_of_a_batch_reaches_its_images_and_no_others():
    model = FakeModel()
    batcher = make_batcher(model)
    model.fault = MemoryError("device")
    with pytest.raises(MemoryError):
        batcher.submit("plate", loader(model)).result(10)
    model.fault = None
    assert batcher.submit("plate", loader(model)).result(10).batch == 1
    batcher.close(5)


def test_what_was_given_up_is_not_scored():
    model, batcher, _ = gated()
    jobs = [batcher.submit("plate", loader(model)) for _ in range(3)]
    assert jobs[1].cancel()
    until(lambda: not batcher._decoding["plate"])
    model.gate.set()
    assert jobs[0].result(10).batch == jobs[2].result(10).batch == 2
    with pytest.raises(CancelledError):
        jobs[1].result(0)
    batcher.close(5)
    assert batcher.unfinished == 0


def test_closing_finishes_what_was_accepted_and_takes_no_more():
    model, batcher, first = gated()
    jobs = [first, *(batcher.submit("plate", loader(model)) for _ in range(9))]
    threading.Timer(0.05, model.gate.set).start()
    assert batcher.close(10)
    assert all(job.done() for job in jobs)
    with pytest.raises(Stopping):
        batcher.submit("plate", loader(model))
    assert not batcher._thread.is_alive()


def test_closing_has_an_end():
    model, batcher, first = gated()
    assert not batcher.close(0.05)
    assert not first.done()
    model.gate.set()
    first.result(10)


def test_maps_in_work_are_limited(monkeypatch):
    monkeypatch.setattr(batching, "MAP_PIXELS", 2 * 6 * 8)
    model, done = FakeModel(batch_size=1), threading.Event()
    batcher = make_batcher(model)
    jobs = [
        batcher.submit("plate", loader(model), lambda scored: done.wait(20) and scored.batch)
        for _ in range(6)
    ]
    until(lambda: len(model.batches) == 2)
    time.sleep(0.05)
    assert len(model.batches) == 2
    done.set()
    assert [job.result(10) for job in jobs] == [1] * 6
    assert batcher.close(5)
    assert batcher._held == 0


def test_decoded_images_that_wait_are_limited(monkeypatch):
    monkeypatch.setattr(batching, "WAITING_BYTES", 3 * 6 * 8)
    model, batcher, first = gated(batch_size=1, threads=1)
    jobs = [batcher.submit("plate", loader(model)) for _ in range(8)]
    until(lambda: len(batcher._waiting["plate"]) == 3)
    time.sleep(0.05)
    assert len(batcher._waiting["plate"]) == 3
    model.gate.set()
    assert [job.result(10).batch for job in [first, *jobs]] == [1] * 9
    assert batcher.close(5)
    assert batcher._bytes == 0


def test_what_finishing_raises_reaches_the_caller():
    model = FakeModel()
    batcher = make_batcher(model)
    job = batcher.submit("plate", loader(model), lambda scored: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        job.result(10)
    assert batcher.close(5)


@pytest.mark.parametrize("error", [UserError("no such device"), MemoryError("no such device\nx")])
def test_a_model_that_does_not_compile_is_told_at_the_start(error):
    class Broken(FakeModel):
        def warm_up(self):
            raise error

    with pytest.raises(UserError, match="no such device") as told:
        Batcher({"plate": Broken()}).start()
    assert "\n" not in str(told.value)
