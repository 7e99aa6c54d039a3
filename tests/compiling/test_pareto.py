"""Memory against time: combinations, the front, what is not compiled, and the page's chart."""

import copy

import pytest

from tests.factory import tiny_config
from vtadl_jax.compiling import pareto
from vtadl_jax.compiling.pareto import Point
from vtadl_jax.errors import UserError


def test_combinations_follow_from_the_config_and_the_slice():
    config = tiny_config()
    assert pareto.settings(config, 1) == [{"model.vit.remat": False}, {"model.vit.remat": True}]
    found = pareto.settings(config, 4)
    assert len(found) == 6
    assert {"model.vit.remat": True, "mesh.fsdp": 4} in found
    mapped = pareto.settings(tiny_config(train__parallel="pmap"), 4)
    assert not any("mesh.fsdp" in fields for fields in mapped)


@pytest.mark.parametrize("text", ["", "a", "0", "4,-1", "4;8"])
def test_batches_are_numbers(text):
    with pytest.raises(UserError, match="give images a device"):
        pareto.parse_batches(text)


def test_batches_are_sorted():
    assert pareto.parse_batches("16,4,4") == [4, 16]


@pytest.fixture
def read(reading):
    """A function (fields, images) → reading: recomputing takes half the memory, twice the time."""
    calls = []

    def make(fields, images):
        calls.append((dict(fields), images))
        found, less = copy.deepcopy(reading), fields["remat"]
        found["collective_totals"]["wire_bytes"] = 0
        found["memory"]["needed"] = images * 2**30 // (2 if less else 1)
        found["cycles"]["total"] = 1000 * (8 + images) * (2 if less else 1)
        found["fits"] = found["memory"]["needed"] <= 16 * 2**30
        if images == 3:
            raise UserError("batch_size 3 is not divisible")
        return found

    make.calls = calls
    return make


COMBINATIONS = [{"remat": False}, {"remat": True}]


def test_the_front_is_what_no_other_beats(read):
    points = pareto.study(read, COMBINATIONS, [8, 16], lambda _: None)
    best = pareto.front(points)
    # Per image: 8 → 2000 and 4000 cycles, 16 → 1500 and 3000; memory 8, 4, 16 and 8 GiB.
    assert [(p.images, p.fields["remat"]) for p in best] == [(8, True), (8, False), (16, False)]
    command = pareto.command_of("configs/x.py", ["--config.dtype=bfloat16"], 4)
    table = pareto.section(points, command)
    assert [row[0] for row in table.rows] == ["*", "*", "*", ""]
    assert table.rows[0][-1] == (
        "python -m vtadl_jax.main --config configs/x.py --config.dtype=bfloat16 "
        "--config.batch_size=32 --config.remat=True"
    )
    html = pareto.chart(points)
    assert html.count("<circle") == 4
    assert "<polyline" in html
    assert "8 images a device, remat=True" in html
    assert [one["front"] for one in pareto.as_data(points, command)] == [True, True, True, False]


def test_batches_above_one_that_does_not_fit_are_not_compiled(read):
    points = pareto.study(read, COMBINATIONS, [64, 8, 32, 16], lambda _: None)
    compiled = [(fields["remat"], images) for fields, images in read.calls]
    assert (False, 64) not in compiled
    assert (True, 32) in compiled
    table = pareto.section(points, lambda _: "c")
    assert "Not compiled: a smaller batch does not fit." in table.note
    assert "8 combinations, 7 compiled, 2 of them do not fit" in table.note


def test_a_combination_that_does_not_suit_says_why(read):
    said = []
    points = pareto.study(read, COMBINATIONS, [3], said.append)
    assert pareto.front(points) == []
    assert pareto.chart(points) == ""
    assert said[1] == "  not compiled: batch_size 3 is not divisible"


def test_points_without_estimates_have_no_front(reading):
    reading["cycles"]["total"] = None
    assert pareto.front([Point({}, 8, reading)]) == []
