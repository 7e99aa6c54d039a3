"""Regions of an anomaly map: against a search by hand, ties, limits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from vtadl_jax.evaluation.regions import Region, find_regions


def slow_regions(values, threshold, min_area=1):
    """The same by a flood fill from each pixel, in reading order."""
    left = {tuple(place) for place in np.argwhere(values >= threshold).tolist()}
    found = []
    for start in sorted(left):
        if start not in left:
            continue
        left.remove(start)
        members, open_ = [start], [start]
        while open_:
            row, column = open_.pop()
            for near in [(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]:
                if near in left:
                    left.remove(near)
                    members.append(near)
                    open_.append(near)
        rows, columns = zip(*members, strict=True)
        peak = max(values[place] for place in members)
        found.append(
            Region(
                (min(rows), min(columns), max(rows) + 1, max(columns) + 1),
                len(members),
                float(peak),
                min(place for place in members if values[place] == peak),
                float(np.mean([values[place] for place in members], dtype=np.float64)),
            )
        )
    found = [region for region in found if region.area >= min_area]
    return sorted(found, key=lambda region: (-region.peak, region.peak_at))


@settings(max_examples=80, deadline=None)
@given(
    arrays(
        np.float32,
        array_shapes(min_dims=2, max_dims=2, max_side=9),
        elements=st.sampled_from([0.0, 0.5, 1.0, 1.5, np.inf, np.nan]),
    ),
    st.sampled_from([0.5, 1.0, 1.2]),
    st.integers(1, 3),
)
def test_regions_are_those_of_a_flood_fill(values, threshold, min_area):
    found = find_regions(values, threshold, min_area)
    assert found == slow_regions(values, threshold, min_area)


def test_two_parts_that_touch_at_a_corner_are_one_region():
    values = np.zeros((6, 8), np.float32)
    values[1, 2], values[2, 3], values[5, 7] = 2.0, 3.0, 9.0
    assert find_regions(values, 1.0) == [
        Region((5, 7, 6, 8), 1, 9.0, (5, 7), 9.0),
        Region((1, 2, 3, 4), 2, 3.0, (2, 3), 2.5),
    ]
    assert [region.area for region in find_regions(values, 1.0, min_area=2)] == [2]
    assert find_regions(values, 10.0) == []


def test_a_value_at_the_threshold_counts_in_float32_and_float64():
    threshold = float(np.float32(0.1))
    values = np.full((1, 1), 0.1, np.float32)
    assert len(find_regions(values, threshold)) == 1
    assert find_regions(values, float(np.nextafter(threshold, 1))) == []


@pytest.mark.parametrize(
    ("values", "threshold", "min_area", "message"),
    [
        (np.zeros(3), 0.5, 1, r"\[h, w\], got \[3\]"),
        (np.zeros((2, 2)), np.nan, 1, "threshold nan"),
        (np.zeros((2, 2)), 0.5, 0, "min_area 0"),
    ],
)
def test_what_is_no_question_is_refused(values, threshold, min_area, message):
    with pytest.raises(ValueError, match=message):
        find_regions(values, threshold, min_area)
