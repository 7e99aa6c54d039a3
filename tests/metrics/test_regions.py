"""AU-PRO against its definition, its area identities and the golden cases."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.metrics import reference
from vtadl_jax import metrics

GOLDEN = Path(__file__).resolve().parents[2].parent / "shared" / "metrics"
LEVELS = [-np.inf, -2.5, -0.0, 0.0, 1e-30, 1.0, 1.0000001, 3.0, np.inf]
LIMITS = (1.0, 0.5, 0.3, 0.05, 0.001)


@st.composite
def labelled_maps(draw, levels=LEVELS):
    """A few small maps with many ties; at least one region and one background pixel."""
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(2, 6)))
    maps = draw(hnp.arrays(np.float32, shape, elements=st.sampled_from(levels)))
    masks = draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, 1)))
    masks[0, 0, :2] = 0, 1
    return maps, masks


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(labelled_maps(), st.floats(1e-3, 1.0))
def test_aupro_equals_definition(case, limit):
    maps, masks = case
    got = metrics.aupro(maps, masks, (*LIMITS, limit))
    want = [reference.aupro(maps, masks, each) for each in (*LIMITS, limit)]
    assert got == pytest.approx(want, abs=1e-9)


@settings(deadline=None, max_examples=100)
@given(labelled_maps())
def test_limit_on_a_point_of_the_curve(case):
    maps, masks = case
    for limit in sorted({fpr for fpr, _, _ in reference.pro_curve(maps, masks)} - {0.0}):
        want = reference.aupro(maps, masks, limit)
        assert metrics.aupro(maps, masks, limit) == pytest.approx(want, abs=1e-9)


@settings(deadline=None, max_examples=100)
@given(labelled_maps())
def test_curve_equals_definition(case):
    want = np.array(reference.pro_curve(*case))
    fpr, pro, thresholds = metrics.pro_curve(*case)
    np.testing.assert_allclose(fpr, want[:, 0], atol=1e-12)
    np.testing.assert_allclose(pro, want[:, 1], atol=1e-12)
    np.testing.assert_array_equal(thresholds, want[:, 2])
    assert (fpr[0], pro[0], fpr[-1], pro[-1]) == (0, 0, 1, 1)


@settings(deadline=None, max_examples=50)
@given(labelled_maps(levels=[0.0, 0.125, 0.25, 0.5, 0.75]))
def test_strictly_monotone_transform_changes_nothing(case):
    maps, masks = case
    moved = np.exp(8 * maps.astype(np.float64)) - 100
    assert metrics.aupro(maps, masks, LIMITS) == metrics.aupro(moved, masks, LIMITS)


@settings(deadline=None, max_examples=50)
@given(labelled_maps())
def test_regions_equal_flood_fill(case):
    _, masks = case
    labels, count = metrics.label_regions(masks)
    want = [(i, region) for i, mask in enumerate(masks) for region in reference.regions(mask)]
    assert count == len(want)
    ids = [{int(labels[i][pixel]) for pixel in region} for i, region in want]
    assert sorted(ids, key=min) == [{n} for n in range(1, count + 1)]
    np.testing.assert_array_equal(np.stack(labels) > 0, masks == 1)


def test_one_region_without_ties_is_the_auroc():
    rng = np.random.default_rng(0)
    maps = rng.permutation(64 * 64).reshape(1, 64, 64).astype(np.float32)
    masks = np.zeros_like(maps, np.uint8)
    masks[0, 5:20, 30:50] = 1
    assert metrics.aupro(maps, masks, 1.0) == pytest.approx(metrics.auroc(maps, masks), abs=1e-12)


def test_perfect_constant_and_inverted_maps():
    masks = np.zeros((2, 9, 7), np.uint8)
    masks[0, 2:4, 3:5] = 1
    assert metrics.aupro(masks.astype(np.float32), masks) == 1.0
    assert metrics.aupro(np.zeros(masks.shape, np.float32), masks) == pytest.approx(0.15)
    assert metrics.aupro(-masks.astype(np.float32), masks) == 0.0


def test_normal_images_count_in_the_false_positive_rate():
    rng = np.random.default_rng(1)
    maps = rng.random((3, 16, 16), np.float32)
    masks = np.zeros(maps.shape, np.uint8)
    masks[0, 4:9, 4:9] = 1
    assert metrics.aupro(maps, masks) == pytest.approx(reference.aupro(maps, masks, 0.3), abs=1e-9)
    assert abs(metrics.aupro(maps, masks) - metrics.aupro(maps[:1], masks[:1])) > 1e-3


def test_images_of_several_sizes():
    rng = np.random.default_rng(2)
    maps = [rng.random(size, np.float32) for size in ((5, 9), (12, 3), (7, 7))]
    masks = [rng.random(m.shape) < 0.2 for m in maps]
    want = reference.aupro(maps, masks, 0.3)
    assert metrics.aupro(maps, masks) == pytest.approx(want, abs=1e-9)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32, np.uint8, "bfloat16"])
def test_dtypes_rank_as_given(dtype):
    pytest.importorskip("ml_dtypes")  # registers the name "bfloat16"
    rng = np.random.default_rng(3)
    maps = rng.integers(0, 9, (2, 12, 12)).astype(np.dtype(dtype))
    masks = rng.random(maps.shape) < 0.1
    want = metrics.aupro(maps.astype(np.float32), masks, LIMITS)
    assert metrics.aupro(maps, masks, LIMITS) == want
    assert metrics.pro_curve(maps, masks)[2][0] == np.inf


def test_float_and_list_of_limits_and_untouched_arguments():
    rng = np.random.default_rng(4)
    maps = rng.random((2, 8, 8), np.float32)
    masks = (rng.random(maps.shape) < 0.2).astype(np.uint8)
    before = maps.copy(), masks.copy()
    value = metrics.aupro(maps, masks, 0.3)
    assert isinstance(value, float)
    assert metrics.aupro(maps, masks, (0.3, 0.05)) == [value, metrics.aupro(maps, masks, 0.05)]
    np.testing.assert_array_equal(maps, before[0])
    np.testing.assert_array_equal(masks, before[1])


def _arguments(**changes):
    maps = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    masks = np.zeros((2, 3, 4), np.uint8)
    masks[0, 1, 1] = 1
    return {"maps": maps, "masks": masks} | changes


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"maps": np.full((2, 3, 4), np.nan)}, r"24 of 24 scores are NaN"),
        ({"masks": np.zeros((2, 3, 4))}, r"no region: none of 2 masks"),
        ({"masks": np.ones((2, 3, 4))}, r"no background: all 24 pixels"),
        ({"masks": np.zeros((2, 4, 3))}, r"map 0 has shape \(3, 4\) and its mask \(4, 3\)"),
        ({"masks": np.zeros((1, 3, 4))}, r"2 maps but 1 masks"),
        ({"masks": np.full((2, 3, 4), 255)}, r"mask 0 must be 0 or 1: 12 are not.* 255"),
        ({"maps": np.zeros((3, 4))}, r"maps must be \[N, H, W\] or a list"),
        ({"maps": 3.0}, r"maps must be \[N, H, W\]"),
        ({"maps": [np.zeros(4), np.zeros(4)]}, r"expected both \[H, W\]"),
        ({"maps": [], "masks": []}, r"no region: none of 0 masks"),
        ({"maps": np.zeros((2, 3, 4), complex)}, r"not real numbers"),
    ],
)
def test_errors_say_why_in_one_line(changes, reason):
    for function in (metrics.aupro, metrics.pro_curve):
        with pytest.raises(ValueError, match=reason) as error:
            function(**_arguments(**changes))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("limit", [0.0, -0.1, 1.01, np.nan, [], [0.3, 2.0]])
def test_limit_outside_the_unit_interval(limit):
    with pytest.raises(ValueError, match=r"fpr_limit must be in \(0, 1\]"):
        metrics.aupro(**_arguments(), fpr_limit=limit)


def test_label_regions_errors():
    with pytest.raises(ValueError, match="mask 0 must be 0 or 1"):
        metrics.label_regions(np.full((1, 2, 2), 7))
    with pytest.raises(ValueError, match=r"mask 1 has shape \(2,\)"):
        metrics.label_regions([np.zeros((2, 2)), np.zeros(2)])


def test_golden_cases():
    if not GOLDEN.is_dir():
        pytest.skip(f"golden metric cases are not beside the checkout: {GOLDEN}")
    expected = json.loads((GOLDEN / "expected.json").read_text(encoding="utf-8"))
    for name, case in expected["cases"].items():
        with np.load(GOLDEN / "cases" / f"{name}.npz") as data:
            maps, masks = data["maps"], data["masks"]
        want = [case["aupro_fpr0p3"], case["aupro_fpr0p05"]]
        got = metrics.aupro(maps, masks, (0.3, 0.05))
        assert got == pytest.approx(want, abs=expected["tolerance"]["aupro"]), name
        assert metrics.label_regions(masks)[1] == case["n_regions"], name
