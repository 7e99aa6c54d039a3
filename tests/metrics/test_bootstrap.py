"""Intervals: percentiles of the metric of each resample; fast implementations are equal."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.metrics import reference
from tests.metrics.test_ranking import ranked
from tests.metrics.test_regions import labelled_maps
from vtadl_jax import metrics
from vtadl_jax.metrics.bootstrap import resamples

FEW = {"num_resamples": 40, "seed": 3}


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 9), st.integers(1, 30), st.floats(0.05, 0.99))
def test_interval_is_the_percentiles_of_the_values(num_images, num_resamples, level):
    seen = []

    def metric(indices):
        assert indices.shape == (num_images,)
        assert set(indices.tolist()) <= set(range(num_images))
        seen.append(float(np.sin(indices @ np.arange(1, num_images + 1))))
        return seen[-1]

    got = metrics.bootstrap(metric, num_images, num_resamples=num_resamples, level=level)
    drawn = seen[1:]  # the first are the original images
    assert len(drawn) == num_resamples
    assert got.low == pytest.approx(reference.percentile(drawn, (1 - level) / 2), abs=1e-12)
    assert got.high == pytest.approx(reference.percentile(drawn, (1 + level) / 2), abs=1e-12)
    assert got.num_undefined == 0


def test_interval_of_a_mean_is_the_normal_one():
    values = np.random.default_rng(0).standard_normal(400)
    got = metrics.bootstrap(lambda i: values[i].mean(), 400, num_resamples=4000)
    half = 1.96 * values.std() / 20
    assert got.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert got.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_draws_are_stratified_and_depend_on_the_seed_only():
    labels = np.array([0, 1, 0, 0, 1, 0, 0])
    runs = []
    for seed in (1, 1, 2):
        seen = []
        metrics.bootstrap(lambda i, s=seen: s.append(i) or 0.0, 7, labels=labels, seed=seed)
        assert all(labels[i].sum() == 2 for i in seen)
        runs.append(np.array(seen))
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])
    assert np.unique(runs[0]).size == 7


@settings(deadline=None, max_examples=30)
@given(ranked())
def test_image_intervals_equal_the_slow_way(case):
    scores, labels = case
    got = metrics.image_intervals(scores, labels, level=0.8, **FEW)
    for name, slow in (
        ("auroc", reference.auroc),
        ("average_precision", reference.average_precision),
    ):
        want = metrics.bootstrap(
            lambda i, slow=slow: slow(scores[i], labels[i]),
            len(scores),
            labels=labels,
            level=0.8,
            **FEW,
        )
        assert got[f"image_{name}"] == pytest.approx(want, abs=1e-12), name


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(labelled_maps(), st.sampled_from([0.02, 0.3, 1.0]), st.sampled_from([2, 5, 4096]))
def test_pixel_intervals_contain_the_exact_ones(case, limit, num_cuts):
    maps, masks = case
    labels = masks.any(axis=(1, 2))
    assume((masks == 0).any(axis=(1, 2)).any())
    got = metrics.pixel_intervals(maps, masks, limit, num_cuts=num_cuts, **FEW)
    for name, slow in (
        ("pixel_auroc", lambda i: metrics.auroc(maps[i], masks[i])),
        ("aupro", lambda i: metrics.aupro(maps[i], masks[i], limit)),
    ):
        want = metrics.bootstrap(slow, len(maps), labels=labels, **FEW)
        assert got[name].num_undefined == want.num_undefined
        assert got[name].low <= want.low + 1e-12
        assert got[name].high >= want.high - 1e-12
        if num_cuts == 4096:  # more cuts than scores: exact
            assert got[name] == pytest.approx(want, abs=1e-9)


@pytest.mark.parametrize("limit", [0.05, 0.3])
def test_pixel_intervals_are_hardly_wider(limit):
    rng = np.random.default_rng(0)
    masks = np.zeros((12, 40, 40), np.uint8)
    for i in range(8):
        masks[i, i : 2 * i + 6, 10:20] = 1
    maps = rng.standard_normal(masks.shape).astype(np.float32) + masks * rng.random((12, 1, 1))
    num_cuts = 512
    got = metrics.pixel_intervals(maps, masks, limit, num_cuts=num_cuts, num_resamples=60)
    for name, slow in (
        ("pixel_auroc", lambda i: metrics.auroc(maps[i], masks[i])),
        ("aupro", lambda i: metrics.aupro(maps[i], masks[i], limit)),
    ):
        want = metrics.bootstrap(slow, 12, labels=masks.any((1, 2)), num_resamples=60)
        assert want.low - 2 / num_cuts < got[name].low <= want.low
        assert want.high <= got[name].high < want.high + 2 / num_cuts
        assert 10 / num_cuts < want.high - want.low


def test_few_distinct_scores_are_exact_even_if_rare():
    rng = np.random.default_rng(0)
    maps = np.round(rng.standard_normal((5, 20, 20)) ** 3)
    masks = rng.random(maps.shape) < np.array([0.1, 0.2, 0, 0.1, 0])[:, None, None]
    num_cuts = np.unique(maps[~masks]).size
    assert num_cuts < 50
    got = metrics.pixel_intervals(maps, masks, num_cuts=num_cuts, **FEW)["aupro"]
    want = metrics.bootstrap(
        lambda i: metrics.aupro(maps[i], masks[i]), 5, labels=masks.any((1, 2)), **FEW
    )
    assert got == pytest.approx(want, abs=1e-12)


def test_images_of_several_sizes():
    rng = np.random.default_rng(2)
    maps = [rng.random(size, np.float32) for size in ((5, 9), (12, 3), (7, 7))]
    masks = [rng.random(m.shape) < 0.2 for m in maps]
    got = metrics.pixel_intervals(maps, masks, **FEW)["aupro"]
    pick = lambda i: metrics.aupro([maps[k] for k in i], [masks[k] for k in i])  # noqa: E731
    assert got == pytest.approx(metrics.bootstrap(pick, 3, **FEW), abs=1e-9)


def test_undefined_resamples_are_counted():
    scores, labels = np.arange(4.0), np.array([0, 0, 0, 1])
    seen = []

    def metric(indices):
        seen.append(labels[indices].any() and not labels[indices].all())
        return metrics.auroc(scores[indices], labels[indices])

    got = metrics.bootstrap(metric, 4, num_resamples=200)
    assert got == (1.0, 1.0, 200 - sum(seen[1:]))
    assert 0 < got.num_undefined < 200
    full = np.zeros((2, 2, 2)), np.array([np.ones((2, 2)), [[1, 0], [0, 0]]])
    want = metrics.bootstrap(lambda i: metrics.aupro(full[0][i], full[1][i]), 2, **FEW)
    assert metrics.pixel_intervals(*full, **FEW)["aupro"] == pytest.approx(want)
    assert want.num_undefined > 0


def test_refused_arguments():
    def run(metric=lambda i: 0.0, num_images=3, **rest):
        return metrics.bootstrap(metric, num_images, **rest)

    def broken(indices):
        raise ValueError("a reason")

    def once(indices):
        return 0.0 if np.array_equal(indices, np.arange(3)) else np.nan

    for call, reason in (
        (lambda: run(num_images=0), "num_images 0 and num_resamples 1000 must be at least 1"),
        (lambda: run(num_resamples=0), "num_resamples 0 must be at least 1"),
        (lambda: run(level=1.0), r"level must be in \(0, 1\), got 1.0"),
        (lambda: run(labels=[0, 1]), r"labels \(2,\) must be one for each of 3 images"),
        (lambda: run(labels=[0, 1, 2]), "labels must be 0 or 1"),
        (lambda: run(broken), "a reason"),
        (lambda: run(lambda i: np.nan), "the metric of all 3 images is NaN"),
        (lambda: run(once, num_resamples=2), "undefined on all 2 resamples"),
        (lambda: metrics.image_intervals([0.0, 1.0], [0, 0]), r"no positive \(1\)"),
        (lambda: metrics.image_intervals([0.0, np.nan], [0, 1]), "1 of 2 scores are NaN"),
        (lambda: metrics.image_intervals([[0.0, 1.0]], [[0, 1]]), r"must be \[N\]"),
        (lambda: metrics.image_intervals([0.0, 1.0], [0, 1], level=0), "level must be"),
    ):
        with pytest.raises(ValueError, match=reason) as error:
            call()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"maps": np.full((2, 3, 3), np.nan)}, "18 of 18 scores are NaN"),
        ({"masks": np.zeros((2, 3, 3))}, "no region"),
        ({"masks": np.ones((2, 3, 3))}, "no background"),
        ({"masks": np.zeros((1, 3, 3))}, "2 maps but 1 masks"),
        ({"fpr_limit": 0.0}, r"fpr_limit must be in \(0, 1\]"),
        ({"num_cuts": 1}, "num_cuts must be at least 2"),
        ({"level": 2.0}, "level must be"),
        ({"num_resamples": 0}, "num_resamples 0 must be at least 1"),
    ],
)
def test_pixel_intervals_reject(changes, reason):
    arguments = {"maps": np.zeros((2, 3, 3)), "masks": np.eye(3)[None].repeat(2, 0)} | changes
    with pytest.raises(ValueError, match=reason) as error:
        metrics.pixel_intervals(**arguments)
    assert "\n" not in str(error.value)


def test_values_of_resamples_are_those_of_the_intervals():
    rng = np.random.default_rng(1)
    labels = np.array([0, 1, 1, 0, 1, 0])
    scores, other = rng.random(6), rng.random(6)
    found = metrics.image_values(scores, labels, **FEW)["image_auroc"]
    drawn = list(resamples(6, labels, FEW["num_resamples"], FEW["seed"]))
    np.testing.assert_allclose(found, [metrics.auroc(scores[i], labels[i]) for i in drawn])
    second = metrics.image_values(other, labels, **FEW)["image_auroc"]  # the same images
    np.testing.assert_allclose(second, [metrics.auroc(other[i], labels[i]) for i in drawn])
    maps = rng.random((6, 5, 4)).astype(np.float32)
    masks = np.zeros(maps.shape, np.uint8)
    masks[labels == 1, 1:3] = 1
    low, high = metrics.pixel_values(maps, masks, **FEW)["aupro"]
    want = [metrics.aupro(maps[i], masks[i], 0.3) for i in drawn]
    np.testing.assert_allclose(low, want)
    np.testing.assert_allclose(high, want)
