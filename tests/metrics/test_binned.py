"""Areas of binned counts: every order within the bins is inside the bounds; bounds are tight."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.metrics import reference
from vtadl_jax.metrics import binned

COUNTS = st.tuples(st.integers(0, 3), st.integers(0, 3), st.booleans())


@st.composite
def bins(draw):
    """background, found [K] (highest first) and single, with both classes."""
    rows = [*draw(st.lists(COUNTS, min_size=1, max_size=4)), (1, 1, draw(st.booleans()))]
    background, found, single = map(np.array, zip(*rows, strict=True))
    return background, found, single.astype(bool)


def scores_of(case, within):
    """Scores and labels with those counts; `within(label)` places a score in its bin, [0, 1)."""
    scores, labels = [], []
    for k, (negatives, positives, single) in enumerate(zip(*case, strict=True)):
        for label in [0] * negatives + [1] * positives:
            scores.append(-k + (0.0 if single else within(label)))
            labels.append(label)
    return np.array(scores), np.array(labels)


@pytest.mark.slow
@settings(deadline=None, max_examples=200)
@given(bins(), st.data())
def test_any_order_within_the_bins_is_inside_the_bounds(case, data):
    places = st.sampled_from([0.0, 0.25, 0.5, 0.75])
    scores, labels = scores_of(case, lambda _: data.draw(places))
    for estimate, slow in (
        (binned.area(*case), reference.auroc),
        (binned.average_precision(*case), reference.average_precision),
    ):
        assert estimate.low - 1e-12 <= slow(scores, labels) <= estimate.high + 1e-12
        tied, _ = scores_of(case, lambda _: 0.5)
        tied = np.where(tied > np.floor(tied), np.floor(tied), tied)
        assert estimate.value == pytest.approx(slow(tied, labels), abs=1e-12)
        assert estimate.low - 1e-12 <= estimate.value <= estimate.high + 1e-12


@pytest.mark.slow
@settings(deadline=None, max_examples=100)
@given(bins(), st.floats(0.01, 1))
def test_best_and_worst_order_reach_the_bounds(case, limit):
    best, labels = scores_of(case, lambda label: 0.5 * label)
    worst, _ = scores_of(case, lambda label: 0.5 - 0.5 * label)
    area = binned.area(*case)
    assert area.high == pytest.approx(reference.auroc(best, labels), abs=1e-12)
    assert area.low == pytest.approx(reference.auroc(worst, labels), abs=1e-12)
    precision = binned.average_precision(*case)
    assert precision.high == pytest.approx(reference.average_precision(best, labels), abs=1e-12)
    # One region, a separate column of pixels: its PRO curve is the ROC curve.
    part = binned.area(*case, limit)
    for scores, bound in ((best, part.high), (worst, part.low)):
        column = scores[labels == 1][:, None], scores[labels == 0][:, None]
        masks = np.ones_like(column[0]), np.zeros_like(column[1])
        assert bound == pytest.approx(reference.aupro(column, masks, limit), abs=1e-9)


def test_leading_axes_are_independent():
    rng = np.random.default_rng(0)
    background, found = rng.integers(1, 9, (2, 3, 7))
    single = rng.random(7) < 0.5
    for function in (binned.area, binned.average_precision):
        together = function(background, found, single)
        for i in range(3):
            alone = function(background[i], found[i], single)
            assert [each[i] for each in together] == pytest.approx(list(alone), abs=1e-15)
