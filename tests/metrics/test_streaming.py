"""Binned pixel metrics: equal to the exact ones of rounded scores, always inside their bounds."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.metrics import reference
from vtadl_jax import metrics
from vtadl_jax.metrics.streaming import order_preserving

GOLDEN = Path(__file__).resolve().parents[2].parent / "shared" / "metrics"
TINY = np.finfo(np.float32).smallest_subnormal
NEAR = [1.0, 1.0 + 2**-23, 1.0 + 2**-22, 1.0 + 2**-12, 1.0 + 2**-11, 1.25, 1.5]
LEVELS = [-np.inf, -3e38, -2.5, -1.0, -TINY, -0.0, 0.0, TINY, 1e-30, *NEAR, 3e38, np.inf]
SCORES = st.one_of(
    st.sampled_from(LEVELS), st.floats(allow_nan=False, width=32), st.sampled_from(NEAR)
)
BINS = [2, 16, 2**12, 2**20]


@st.composite
def several_maps(draw, elements=SCORES, dtype=np.float32):
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(2, 5)))
    maps = draw(hnp.arrays(dtype, shape, elements=elements))
    masks = draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, 1)))
    masks[0, 0, :2] = 0, 1
    return maps, masks


def check(maps, masks, limit, num_bins, exact=metrics):
    """Checks that the exact values are within the bounds; returns the bounds."""
    binned = metrics.PixelMetrics(num_bins)
    binned.update(maps, masks)
    bounds = binned.error_bounds(limit)
    got = {
        "auroc": binned.auroc(),
        "average_precision": binned.average_precision(),
        "aupro": binned.aupro(limit),
    }
    want = {
        "auroc": exact.auroc(maps, masks),
        "average_precision": exact.average_precision(maps, masks),
        "aupro": exact.aupro(maps, masks, limit),
    }
    for name, value in got.items():
        assert abs(value - want[name]) <= bounds[name] + 1e-12, name
    return bounds


@pytest.mark.slow
@settings(deadline=None, max_examples=200)
@given(several_maps(), st.floats(1e-3, 1), st.sampled_from(BINS))
def test_exact_value_is_within_the_bound(case, limit, num_bins):
    check(*case, limit, num_bins, exact=reference)


@pytest.mark.slow
@settings(deadline=None, max_examples=100)
@given(several_maps(st.floats(allow_nan=False, width=64), np.float64), st.sampled_from(BINS))
def test_bound_holds_for_scores_that_float32_rounds(case, num_bins):
    check(*case, 0.3, num_bins, exact=reference)


@pytest.mark.slow
@settings(deadline=None, max_examples=100)
@given(several_maps(), st.floats(1e-3, 1), st.sampled_from(BINS))
def test_is_the_exact_metric_of_scores_rounded_to_bins(case, limit, num_bins):
    maps, masks = case
    binned = metrics.PixelMetrics(num_bins)
    binned.update(maps, masks)
    keys, _ = order_preserving(maps)
    rounded = keys.astype(np.int64) * num_bins // 2**32
    assert binned.auroc() == pytest.approx(metrics.auroc(rounded, masks), abs=1e-12)
    assert binned.average_precision() == pytest.approx(
        metrics.average_precision(rounded, masks), abs=1e-12
    )
    assert binned.aupro(limit) == pytest.approx(metrics.aupro(rounded, masks, limit), abs=1e-12)


@pytest.mark.slow
@settings(deadline=None, max_examples=100)
@given(several_maps(st.sampled_from([*range(-9, 9), 4095, -4095]), np.float32))
def test_whole_numbers_are_exact(case):
    bounds = check(*case, 0.3, 2**20, exact=reference)
    assert max(bounds.values()) <= 1e-15


@pytest.mark.slow
@settings(deadline=None, max_examples=50)
@given(several_maps(), several_maps(), st.sampled_from(BINS))
def test_batches_and_merging_change_nothing(first, second, num_bins):
    whole, left, right = (metrics.PixelMetrics(num_bins) for _ in range(3))
    whole.update([*first[0], *second[0]], [*first[1], *second[1]])
    for scores, mask in zip(*first, strict=True):
        left.update(scores, mask)
    right.update(*second)
    left.merge(right)
    assert left.num_images == whole.num_images == len(first[0]) + len(second[0])
    assert left.auroc() == whole.auroc()
    assert left.average_precision() == whole.average_precision()
    assert left.aupro(0.3) == pytest.approx(whole.aupro(0.3), abs=1e-12)
    assert left.error_bounds() == pytest.approx(whole.error_bounds(), abs=1e-12)


def test_merging_keeps_what_is_exact_exact():
    left, right = metrics.PixelMetrics(16), metrics.PixelMetrics(16)
    left.update(np.array([[7.0, -7.0, 7.0]]), np.array([[1, 0, 0]]))
    right.update(np.array([[-7.0, 0.25]]), np.array([[0, 1]]))
    left.merge(right)
    left.update(np.array([[7.0, 0.25]]), np.array([[1, 0]]))
    assert max(left.error_bounds().values()) == 0
    left.update(np.array([[7.5, 0.25]]), np.array([[0, 0]]))
    assert left.error_bounds()["auroc"] > 0


def _images(kind, num=6, side=48):
    """Returns maps of several kinds, with blobs as defects."""
    rng = np.random.default_rng(0)
    masks = np.zeros((num, side, side), np.uint8)
    for i in range(num - 1):
        masks[i, 5 + i : 12 + 2 * i, 8:20] = 1
        masks[i, 30:33, 40:41] = 1
    base = rng.standard_normal(masks.shape) + masks
    maps = {
        "normal": base,
        "one bin": 1 + 2.0**-22 * np.round(base),
        "one value": np.full(masks.shape, 7.5),
        "heavy tails": np.sign(base) * np.exp(30 * np.abs(base)),
        "negative": base - 1000,
        "tied": np.round(3 * base),
        "infinite": np.where(base > 2, np.inf, np.where(base < -2, -np.inf, base)),
        "narrow": 80 + 0.1 * base,
    }[kind]
    with np.errstate(over="ignore"):
        return maps.astype(np.float32), masks


@pytest.mark.parametrize(
    ("kind", "largest"),
    [
        ("normal", 2e-3),
        ("one bin", 1.0),
        ("one value", 0.0),
        ("heavy tails", 2e-3),
        ("negative", 0.2),
        ("tied", 0.0),
        ("infinite", 2e-3),
        ("narrow", 0.2),
    ],
)
def test_adversarial_maps(kind, largest):
    maps, masks = _images(kind)
    for limit in (1.0, 0.3, 0.02):
        bounds = check(maps, masks, limit, 2**20)
        assert bounds["auroc"] <= largest
        assert max(check(maps, masks, limit, 2**12).values()) <= 1
    if kind == "one bin":
        assert min(bounds.values()) > 0.1  # nothing is known: the bounds are wide


def test_worst_order_within_one_bin_is_reached():
    """The bounds of a single bin are those of the best and worst orders, written by hand."""
    for found_first in (True, False):
        masks = np.zeros((1, 5, 20), np.uint8)
        masks[0, :, :4] = 1
        maps = np.where(masks == found_first, 1 + 2.0**-22, 1.0).astype(np.float32)
        binned = metrics.PixelMetrics(2**12)
        binned.update(maps, masks)
        assert binned.auroc() == 0.5
        assert binned.error_bounds()["auroc"] == 0.5
        assert abs(binned.aupro(0.3) - metrics.aupro(maps, masks, 0.3)) <= 0.85
        assert binned.error_bounds(0.3)["aupro"] == pytest.approx(0.85)
        assert binned.error_bounds()["average_precision"] == pytest.approx(0.8)


def test_images_of_several_sizes_and_dtypes():
    rng = np.random.default_rng(1)
    maps = [rng.integers(0, 9, size).astype(d) for size, d in (((5, 9), int), ((12, 3), np.uint8))]
    masks = [rng.random(m.shape) < 0.3 for m in maps]
    binned = metrics.PixelMetrics()
    binned.update(maps, masks)
    assert binned.aupro(0.3) == pytest.approx(reference.aupro(maps, masks, 0.3), abs=1e-12)
    assert binned.error_bounds()["aupro"] <= 1e-15


def test_perfect_maps_give_one():
    maps, masks = _images("normal")
    binned = metrics.PixelMetrics()
    binned.update(maps + 100 * masks, masks)
    assert (binned.auroc(), binned.average_precision()) == (1, 1)
    assert 1 - 1e-12 < binned.aupro() <= 1


@settings(deadline=None, max_examples=100)
@given(st.lists(st.floats(allow_nan=False, width=32), min_size=2, max_size=20))
def test_keys_order_as_the_scores(values):
    scores = np.array([*values, *LEVELS], np.float32)
    keys, rounded = order_preserving(scores)
    assert not rounded.any()
    np.testing.assert_array_equal(
        np.less.outer(keys, keys), np.less.outer(scores, scores), err_msg=str(scores)
    )


@pytest.mark.parametrize(
    ("maps", "masks", "reason"),
    [
        (np.full((2, 3), np.nan), np.zeros((2, 3)), r"6 of 6 scores are NaN"),
        (np.zeros((2, 3)), np.zeros((3, 2)), r"map 0 has shape \(2, 3\) and its mask \(3, 2\)"),
        (np.zeros((2, 3)), np.full((2, 3), 255), r"mask 0 must be 0 or 1"),
        (np.zeros((2, 2, 3)), np.zeros((1, 2, 3)), r"2 maps but 1 masks"),
        (np.zeros(3), np.zeros(3), r"maps must be \[N, H, W\]"),
        (np.zeros((2, 3), complex), np.zeros((2, 3)), r"not real numbers"),
    ],
)
def test_rejected_images_do_not_change_it(maps, masks, reason):
    binned = metrics.PixelMetrics()
    binned.update(np.arange(4.0).reshape(2, 2), np.array([[0, 1], [0, 1]]))
    with pytest.raises(ValueError, match=reason) as error:
        binned.update(maps, masks)
    assert "\n" not in str(error.value)
    assert binned.num_images == 1
    assert binned.auroc() == 0.75


def test_nan_in_a_later_image_adds_none_of_them():
    binned = metrics.PixelMetrics()
    maps = np.zeros((2, 2, 2))
    maps[1, 0, 0] = np.nan
    with pytest.raises(ValueError, match="1 of 8 scores are NaN"):
        binned.update(maps, np.eye(2)[None].repeat(2, 0))
    with pytest.raises(ValueError, match="no region: no anomalous pixel in 0 images"):
        binned.auroc()


def test_undefined_metrics_say_why():
    normal, full = metrics.PixelMetrics(), metrics.PixelMetrics()
    normal.update(np.zeros((2, 2)), np.zeros((2, 2)))
    full.update(np.zeros((2, 2)), np.ones((2, 2)))
    for name in ("auroc", "average_precision", "aupro", "error_bounds"):
        with pytest.raises(ValueError, match="no region: no anomalous pixel in 1 images"):
            getattr(normal, name)()
        with pytest.raises(ValueError, match="no background: all pixels of 1 images"):
            getattr(full, name)()
    for limit in (0.0, 1.5, np.nan):
        with pytest.raises(ValueError, match=r"fpr_limit must be in \(0, 1\]"):
            full.aupro(limit)
    for bins in (0, 1, 3, 2**29, 2.5):
        with pytest.raises(ValueError, match="num_bins must be a power of two"):
            metrics.PixelMetrics(bins)
    with pytest.raises(ValueError, match="cannot merge 16 bins into 1048576"):
        full.merge(metrics.PixelMetrics(16))


def test_golden_cases():
    if not GOLDEN.is_dir():
        pytest.skip(f"golden metric cases are not beside the checkout: {GOLDEN}")
    expected = json.loads((GOLDEN / "expected.json").read_text(encoding="utf-8"))
    for name, case in expected["cases"].items():
        binned = metrics.PixelMetrics()
        with np.load(GOLDEN / "cases" / f"{name}.npz") as data:
            binned.update(data["maps"], data["masks"])
        bounds = binned.error_bounds(0.3)
        for key, got, want in (
            ("aupro", binned.aupro(0.3), case["aupro_fpr0p3"]),
            ("auroc", binned.auroc(), case["pixel"]["auroc"]),
            ("average_precision", binned.average_precision(), case["pixel"]["ap"]),
        ):
            assert abs(got - want) <= bounds[key] + expected["tolerance"]["auroc"], (name, key)
