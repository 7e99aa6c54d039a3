"""Metrics per defect type, region and threshold against loops over single scores."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.metrics import reference
from tests.metrics.test_ranking import LEVELS, ranked
from tests.metrics.test_regions import labelled_maps
from vtadl_jax import metrics

KINDS = ["crack", "dent", "good"]
THRESHOLDS = st.one_of(st.sampled_from(LEVELS), st.floats(-3, 4))


@settings(deadline=None, max_examples=150)
@given(ranked(), THRESHOLDS)
def test_decisions_equal_definition(case, threshold):
    got = metrics.decisions(*case, threshold)
    tp, fp, fn, tn = reference.decisions(*case, threshold)
    assert (got["tp"], got["fp"], got["fn"], got["tn"]) == (tp, fp, fn, tn)
    assert got["threshold"] == threshold
    assert got["tpr"] == tp / (tp + fn)
    assert got["fpr"] == fp / (fp + tn)
    assert got["precision"] == (tp / (tp + fp) if tp + fp else None)
    assert got["f1"] == 2 * tp / (2 * tp + fp + fn)
    assert json.loads(json.dumps(got)) == got


def test_decisions_of_best_threshold_give_best_f1():
    rng = np.random.default_rng(0)
    labels = rng.random((3, 8, 8)) < 0.2
    scores = (rng.standard_normal(labels.shape) + labels).astype(np.float32)
    best, threshold = metrics.f1_max(scores, labels)
    assert metrics.decisions(scores, labels, threshold)["f1"] == best


def test_decisions_of_one_class_and_of_none():
    none = metrics.decisions(np.zeros((0, 4, 4)), np.zeros((0, 4, 4)), 1.0)
    assert [none[k] for k in ("tp", "fp", "fn", "tn")] == [0] * 4
    assert [none[k] for k in ("tpr", "fpr", "precision", "f1")] == [None] * 4
    normal = metrics.decisions([0.0, 2.0], [0, 0], 1.0)
    assert (normal["tpr"], normal["fpr"], normal["precision"], normal["f1"]) == (None, 0.5, 0, 0)
    anomalous = metrics.decisions([0.0, 2.0], [1, 1], 3.0)
    assert (anomalous["tpr"], anomalous["fpr"], anomalous["precision"]) == (0, None, None)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, "bfloat16"])
def test_threshold_is_not_rounded_to_the_scores(dtype):
    pytest.importorskip("ml_dtypes")  # registers the name "bfloat16"
    scores = np.array([0.7]).astype(np.dtype(dtype))  # each dtype is slightly off 0.7
    reached = float(scores[0]) >= 0.7
    assert metrics.decisions(scores, [1], 0.7)["tp"] == reached
    assert metrics.region_table([scores[None]], [[[1]]], 0.7)[0].overlap == reached


@settings(deadline=None, max_examples=100)
@given(ranked(), st.data(), THRESHOLDS)
def test_by_defect_equals_definition(case, data, threshold):
    scores, labels = case
    kinds = st.lists(st.sampled_from(KINDS), min_size=len(scores), max_size=len(scores))
    defects = data.draw(kinds)
    got = metrics.by_defect(scores, labels, defects, threshold)
    assert list(got) == sorted({d for d, bad in zip(defects, labels, strict=True) if bad})
    for kind, row in got.items():
        rows = zip(scores, labels, defects, strict=True)
        ours = [score for score, bad, defect in rows if bad and defect == kind]
        normal = scores[~labels]
        want = reference.auroc(
            [*ours, *normal], np.array([True] * len(ours) + [False] * len(normal))
        )
        assert row["num_images"] == len(ours)
        assert row["image_auroc"] == pytest.approx(want, abs=1e-12)
        assert row["detected"] == sum(s >= threshold for s in map(float, ours))
    mean = np.average(
        [row["image_auroc"] for row in got.values()],
        weights=[row["num_images"] for row in got.values()],
    )
    assert mean == pytest.approx(metrics.auroc(scores, labels), abs=1e-12)
    assert json.loads(json.dumps(got)) == got


def test_by_defect_where_something_is_missing():
    assert metrics.by_defect([1.0, 2.0], [0, 0], ["good", "good"], 1.5) == {}
    assert metrics.by_defect([], [], []) == {}
    only = metrics.by_defect([1.0, 2.0], [1, 1], ["a", "a"])
    assert only == {"a": {"num_images": 2, "image_auroc": None, "detected": None}}


@settings(deadline=None, max_examples=100)
@given(labelled_maps(), st.data(), st.floats(1e-3, 1.0))
def test_by_defect_pixels_equals_definition(case, data, limit):
    maps, masks = case
    defects = data.draw(st.lists(st.sampled_from(KINDS), min_size=len(maps), max_size=len(maps)))
    got = metrics.by_defect_pixels(maps, masks, defects, limit)
    assert list(got) == sorted({d for d, m in zip(defects, masks, strict=True) if m.any()})
    background = maps[masks == 0]
    for kind, row in got.items():
        ours = [i for i, d in enumerate(defects) if d == kind and masks[i].any()]
        pixels = np.concatenate([maps[i][masks[i] == 1] for i in ours])
        marks = np.array([True] * len(pixels) + [False] * len(background))
        assert row["pixel_auroc"] == pytest.approx(
            reference.auroc([*pixels, *background], marks), abs=1e-12
        )
        # The background of the other types stays, as images without a defect.
        others = [maps[i][masks[i] == 0][None] for i in range(len(maps)) if i not in ours]
        want = reference.aupro(
            [*(maps[i] for i in ours), *others],
            [*(masks[i] for i in ours), *(np.zeros(o.shape) for o in others)],
            limit,
        )
        assert row["aupro"] == pytest.approx(want, abs=1e-9)
        assert row["num_images"] == len(ours)
        assert row["num_pixels"] == len(pixels)
        assert row["num_regions"] == sum(len(reference.regions(masks[i])) for i in ours)
    assert json.loads(json.dumps(got)) == got
    for name, weight, whole in (
        ("pixel_auroc", "num_pixels", metrics.auroc(maps, masks)),
        ("aupro", "num_regions", metrics.aupro(maps, masks, limit)),
    ):
        mean = np.average(
            [r[name] for r in got.values()], weights=[r[weight] for r in got.values()]
        )
        assert mean == pytest.approx(whole, abs=1e-9)


@settings(deadline=None, max_examples=150)
@given(labelled_maps(), THRESHOLDS, st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_regions_equal_definition(case, threshold, min_overlap):
    maps, masks = case
    table = metrics.region_table(maps, masks, threshold)
    want = reference.region_table(maps, masks, threshold)
    got = [(row.image, row.area, row.max_score, row.overlap) for row in table]
    assert sorted(got) == sorted(want)
    assert [row.region for row in table if row.image == 0] == list(
        range(len(reference.regions(masks[0])))
    )
    found = metrics.detected_regions(maps, masks, threshold, min_overlap)
    detected = sum(overlap > 0 and overlap >= min_overlap for *_, overlap in want)
    assert found == {
        "threshold": threshold,
        "min_overlap": min_overlap,
        "num_regions": len(want),
        "detected": detected,
        "share": detected / len(want),
    }


def test_mean_overlap_is_the_pro_curve():
    rng = np.random.default_rng(0)
    maps = rng.random((3, 12, 12), np.float32)
    masks = rng.random(maps.shape) < 0.15
    _, pro, thresholds = metrics.pro_curve(maps, masks)
    for k in range(1, len(pro), 97):
        table = metrics.region_table(maps, masks, float(thresholds[k]))
        assert np.mean([row.overlap for row in table]) == pytest.approx(pro[k], abs=1e-12)


def test_no_regions_at_all():
    normal = np.zeros((2, 3, 3)), np.zeros((2, 3, 3))
    assert metrics.region_table(*normal, 0.5) == []
    found = metrics.detected_regions(*normal, 0.5)
    assert (found["num_regions"], found["detected"], found["share"]) == (0, 0, None)
    assert metrics.region_table([], [], 0.5) == []


@pytest.mark.parametrize("function", [metrics.decisions, metrics.by_defect])
@pytest.mark.parametrize(
    ("scores", "labels", "reason"),
    [
        ([0.0, np.nan], [0, 1], r"1 of 2 scores are NaN"),
        ([0.0, 1.0, 2.0], [0, 1], r"scores \(3,\) and labels \(2,\) differ in shape"),
        ([0.0, 1.0], [0, 2], r"labels must be 0 or 1"),
        (["a", "b"], [0, 1], r"not real numbers"),
    ],
)
def test_refused_scores(function, scores, labels, reason):
    last = (1.0,) if function is metrics.decisions else (["a"] * len(scores), 1.0)
    with pytest.raises(ValueError, match=reason) as error:
        function(scores, labels, *last)
    assert "\n" not in str(error.value)


def test_refused_names_thresholds_and_shares():
    maps, masks = np.zeros((2, 3, 3)), np.eye(3)[None].repeat(2, 0)
    with pytest.raises(ValueError, match=r"1 names of defects for images of shape \(2,\)"):
        metrics.by_defect([0.0, 1.0], [0, 1], ["a"])
    with pytest.raises(ValueError, match=r"3 names of defects for images of shape \(2,\)"):
        metrics.by_defect_pixels(maps, masks, ["a", "b", "c"])
    with pytest.raises(ValueError, match=r"fpr_limit must be in \(0, 1\]"):
        metrics.by_defect_pixels(maps, masks, ["a", "b"], 0.0)
    with pytest.raises(ValueError, match="no region: none of 2 masks"):
        metrics.by_defect_pixels(maps, 0 * masks, ["a", "b"])
    with pytest.raises(ValueError, match="no background"):
        metrics.by_defect_pixels(maps, np.ones_like(maps), ["a", "b"])
    with pytest.raises(ValueError, match=r"min_overlap must be in \[0, 1\], got 1.5"):
        metrics.detected_regions(maps, masks, 0.5, 1.5)
    with pytest.raises(ValueError, match="the threshold is NaN"):
        metrics.decisions([0.0], [0], np.nan)
    with pytest.raises(ValueError, match="the threshold is NaN"):
        metrics.region_table(maps, 0 * masks, np.nan)
    for function in (metrics.region_table, metrics.detected_regions):
        with pytest.raises(ValueError, match="18 of 18 scores are NaN"):
            function(np.full((2, 3, 3), np.nan), masks, 0.5)
        with pytest.raises(ValueError, match="2 maps but 1 masks"):
            function(maps, masks[:1], 0.5)
