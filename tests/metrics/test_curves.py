"""Curves against their definitions and areas; thinning against brute-force distances."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.metrics import reference
from tests.metrics.test_ranking import ranked
from vtadl_jax import metrics

COORDINATES = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(0, 1, width=32))


@settings(deadline=None, max_examples=150)
@given(ranked())
def test_curves_equal_their_definitions(case):
    for name in ("roc_curve", "pr_curve"):
        want = np.array(getattr(reference, name)(*case))
        for got, column in zip(getattr(metrics, name)(*case), want.T, strict=True):
            np.testing.assert_allclose(got, column, rtol=1e-15, err_msg=name)


@settings(deadline=None, max_examples=100)
@given(ranked())
def test_areas_of_the_curves_are_the_metrics(case):
    fpr, tpr, _ = metrics.roc_curve(*case)
    assert np.trapezoid(tpr, fpr) == pytest.approx(metrics.auroc(*case), abs=1e-12)
    recall, precision, _ = metrics.pr_curve(*case)
    assert np.trapezoid(precision, recall) == pytest.approx(metrics.pr_auc(*case), abs=1e-12)
    steps = np.diff(recall) @ precision[1:]
    assert steps == pytest.approx(metrics.average_precision(*case), abs=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, bool])
def test_thresholds_keep_the_floating_dtype(dtype):
    scores = np.array([0, 1, 1, 0]).astype(dtype)
    for curve in (metrics.roc_curve, metrics.pr_curve):
        thresholds = curve(scores, [0, 1, 0, 1])[2]
        assert thresholds.tolist() == [np.inf, 1, 0]
        assert thresholds.dtype == (np.float32 if dtype == np.float32 else np.float64)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.tuples(COORDINATES, COORDINATES), min_size=1, max_size=25),
    st.integers(2, 12),
    st.sampled_from([0.0, 0.01, 0.2]),
)
def test_thinned_line_stays_within_the_stated_tolerance(points, max_points, tolerance):
    x, y = np.array(points).T
    thinned = metrics.thin(x, y, max_points, tolerance)
    kept = thinned.kept
    assert len(kept) <= max_points
    assert np.all(np.diff(kept) > 0)
    assert {0, len(x) - 1} <= set(kept.tolist())
    np.testing.assert_array_equal(x[kept], thinned.x)
    np.testing.assert_array_equal(y[kept], thinned.y)
    line = list(zip(thinned.x, thinned.y, strict=True))
    apart = [reference.distance_to_polyline(point, line) for point in points]
    assert max(apart) <= thinned.tolerance + 1e-12
    # And in the other direction: points of the thinned line are near the original.
    shares = np.linspace(0, 1, 5)
    for (x0, y0), (x1, y1) in itertools.pairwise(line):
        for a in shares:
            place = x0 + a * (x1 - x0), y0 + a * (y1 - y0)
            assert reference.distance_to_polyline(place, points) <= thinned.tolerance + 1e-7
    assert thinned.tolerance <= tolerance or len(kept) == max_points


def test_straight_runs_cost_two_points():
    x = np.concatenate([np.zeros(1000), np.linspace(0, 1, 1001)])
    y = np.concatenate([np.linspace(0, 1, 1000), np.ones(1001)])
    thinned = metrics.thin(x, y)
    assert thinned.tolerance == 0
    assert list(zip(thinned.x, thinned.y, strict=True))[1:-1] == [(0, 1)] * (len(thinned.x) - 2)
    assert len(thinned.x) <= 4  # the corner is there twice


def test_thinning_a_long_curve():
    rng = np.random.default_rng(0)
    labels = rng.random(50_000) < 0.1
    fpr, tpr, thresholds = metrics.roc_curve(rng.standard_normal(50_000) + labels, labels)
    thinned = metrics.thin(fpr, tpr, 300)
    assert len(thinned.x) == 300
    assert thinned.tolerance < 2e-3
    area = np.trapezoid(thinned.y, thinned.x)
    assert area == pytest.approx(np.trapezoid(tpr, fpr), abs=2 * thinned.tolerance)
    assert thresholds[thinned.kept][0] == np.inf


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (([0.0, 1.0], [0.0]), r"x \(2,\) and y \(1,\) must be \[K\] both"),
        (([], []), r"K at least 1"),
        (([[0.0]], [[0.0]]), r"must be \[K\] both"),
        (([0.0, np.inf], [0.0, 1.0]), r"must be finite"),
        (([0.0, 1.0], [0.0, np.nan]), r"must be finite"),
        (([0.0, 1.0], [0.0, 1.0], 1), r"max_points 1 must be at least 2"),
        (([0.0, 1.0], [0.0, 1.0], 2, -0.5), r"tolerance -0.5 at least 0"),
        (([0.0, 1.0], [0.0, 1.0], 2, np.nan), r"tolerance nan at least 0"),
    ],
)
def test_thin_refuses(arguments, reason):
    with pytest.raises(ValueError, match=reason) as error:
        metrics.thin(*arguments)
    assert "\n" not in str(error.value)


def test_points_of_the_pro_curve_are_on_it():
    rng = np.random.default_rng(0)
    shapes = [(20, 30), (25, 25), (10, 40)]
    masks = [np.zeros(shape, np.uint8) for shape in shapes]
    masks[0][2:6, 3:9], masks[0][12:15, 20:25], masks[1][5:9, 5:9] = 1, 1, 1
    maps = [(rng.normal(size=m.shape) + m).astype(np.float32) for m in masks]
    fpr, pro = metrics.pro_points(maps, masks, 0.3)
    exact_fpr, exact_pro, _ = metrics.pro_curve(maps, masks)
    for x, y in zip(fpr, pro, strict=True):
        at = np.abs(exact_fpr - x) < 1e-12
        assert at.any()
        assert np.abs(exact_pro[at] - y).min() < 1e-12
    assert (np.diff(fpr) >= 0).all()
    assert fpr[-1] == pytest.approx(0.3, abs=0.01)
