"""sPRO against its definition, AU-PRO and what it was made for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.metrics import reference
from vtadl_jax import metrics
from vtadl_jax.metrics import SaturatedRegion
from vtadl_jax.metrics.saturated import saturated_weights


@st.composite
def cases(draw):
    """Maps with ties, and regions that may overlap, with whole and broken saturations."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    maps = list(rng.integers(0, draw(st.integers(2, 40)), (3, 5, 6)).astype(np.float32))
    regions = [[] for _ in maps]
    for i in range(draw(st.integers(1, 4))):
        mask = np.zeros((5, 6), np.uint8)
        top, left = rng.integers(0, 4, 2)
        mask[top : top + rng.integers(1, 4), left : left + rng.integers(1, 4)] = 1
        regions[i % 2].append((mask, float(rng.choice([0.5, 1, 2.25, 3, 99]))))
    return maps, regions


def spro(maps, regions, limit):
    return metrics.au_spro(maps, [[SaturatedRegion(*r) for r in here] for here in regions], limit)


@settings(deadline=None, max_examples=80)
@given(cases(), st.sampled_from([1.0, 0.3, 0.05, 0.013]))
def test_it_equals_its_definition(case, limit):
    want = reference.au_spro(*case, limit)
    assert spro(*case, limit) == pytest.approx(want, abs=1e-9)


def test_saturations_of_the_whole_area_give_aupro():
    rng = np.random.default_rng(0)
    maps = list(rng.random((2, 12, 12)).astype(np.float32))
    masks = np.zeros((2, 12, 12), np.uint8)
    masks[0, 2:5, 3:9] = masks[1, 7:, 7:] = 1
    regions = [[(mask, float(mask.sum()))] for mask in masks]
    for limit in (0.05, 0.3, 1.0):
        want = metrics.aupro(maps, masks, limit)
        assert spro(maps, regions, limit) == pytest.approx(want, abs=1e-12)


def test_one_of_two_equal_places_is_enough():
    mask = np.zeros((10, 10), np.uint8)
    mask[1:3, 1:3] = mask[7:9, 7:9] = 1  # a part may lie in either place, and lies in none
    heat = np.zeros((10, 10), np.float32)
    heat[1:3, 1:3] = 1
    assert spro([heat], [[(mask, 4)]], 0.05) == 1
    assert spro([heat], [[(mask, 8)]], 0.05) == pytest.approx(0.5, abs=0.02)


def test_weights_add_up_to_one_and_stop_at_the_saturation():
    scores = np.array([3.0, 1.0, 2.0, 2.0])
    weights = saturated_weights(scores, 1.5)
    assert weights[:2].tolist() == [1 / 1.5, 0]
    assert sorted(weights[2:]) == [0, pytest.approx(0.5 / 1.5)]
    assert saturated_weights(scores, 9).tolist() == [0.25] * 4


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"maps": [np.full((3, 4), np.nan)]}, "12 of 12 scores of map 0 are NaN"),
        ({"regions": [[]]}, "no region in 1 images"),
        ({"regions": [[(np.ones((3, 4)), 1)]]}, "no background"),
        ({"regions": [[(np.zeros((3, 4)), 1)]]}, "has 0 pixels"),
        ({"regions": [[(np.ones((4, 3)), 1)]]}, r"12 pixels of \(4, 3\)"),
        ({"regions": [[(np.eye(3, 4), 0)]]}, "saturation 0 must be above 0"),
        ({"regions": []}, "1 maps but regions of 0 images"),
        ({"limit": 0}, r"fpr_limit must be in \(0, 1\]"),
    ],
)
def test_errors_say_why_in_one_line(changes, reason):
    given_ = {"maps": [np.zeros((3, 4))], "regions": [[(np.eye(3, 4), 1)]], "limit": 0.05}
    with pytest.raises(ValueError, match=reason) as error:
        spro(**given_ | changes)
    assert "\n" not in str(error.value)
