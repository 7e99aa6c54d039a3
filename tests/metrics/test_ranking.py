"""Ranking metrics against their definitions, scikit-learn and the golden cases."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from tests.metrics import reference
from vtadl_jax import metrics

GOLDEN = Path(__file__).resolve().parents[2].parent / "shared" / "metrics"
LEVELS = [-np.inf, -2.5, -1.0, -0.0, 0.0, 1e-30, 1.0, 1.0000001, 3.0, np.inf]
FUNCTIONS = [
    metrics.auroc,
    metrics.average_precision,
    metrics.pr_auc,
    metrics.f1_max,
    metrics.balanced_accuracy_max,
    metrics.youden_accuracy,
]


@st.composite
def ranked(draw, levels=LEVELS):
    """Scores with many ties and labels with both classes."""
    size = draw(st.integers(2, 30))
    scores = draw(st.lists(st.sampled_from(levels), min_size=size, max_size=size))
    labels = draw(st.lists(st.booleans(), min_size=size - 2, max_size=size - 2))
    return np.array(scores, np.float32), np.array([True, False, *labels])


@pytest.mark.slow
@settings(deadline=None, max_examples=200)
@given(ranked())
def test_equals_definition(case):
    scores, labels = case
    for name in ("auroc", "average_precision", "pr_auc"):
        got = getattr(metrics, name)(scores, labels)
        assert got == pytest.approx(getattr(reference, name)(scores, labels), abs=1e-12), name
    for name in ("f1_max", "balanced_accuracy_max"):
        value, threshold = getattr(metrics, name)(scores, labels)
        best, thresholds = getattr(reference, name)(scores, labels)
        assert value == pytest.approx(best, abs=1e-12), name
        assert threshold == max(thresholds), name
    assert metrics.youden_accuracy(scores, labels) == reference.youden_accuracy(scores, labels)


@pytest.mark.slow
@settings(deadline=None, max_examples=100)
@given(ranked(levels=[x for x in LEVELS if np.isfinite(x)]))
def test_equals_sklearn(case):
    scores, labels = case
    assert metrics.auroc(scores, labels) == pytest.approx(sk.roc_auc_score(labels, scores))
    precision, recall, _ = sk.precision_recall_curve(labels, scores)
    assert metrics.pr_auc(scores, labels) == pytest.approx(sk.auc(recall, precision))
    assert metrics.average_precision(scores, labels) == pytest.approx(
        sk.average_precision_score(labels, scores)
    )
    for function, peer in (
        (metrics.f1_max, sk.f1_score),
        (metrics.balanced_accuracy_max, sk.balanced_accuracy_score),
    ):
        value, threshold = function(scores, labels)
        assert value == pytest.approx(peer(labels, scores >= threshold))


@settings(deadline=None, max_examples=50)
@given(ranked(levels=[0.0, 0.125, 0.25, 0.5, 0.75]))
def test_strictly_monotone_transform_changes_nothing(case):
    scores, labels = case
    moved = np.exp(8 * scores.astype(np.float64)) - 100
    for function in FUNCTIONS:
        before, after = function(scores, labels), function(moved, labels)
        assert np.ravel(before)[0] == np.ravel(after)[0]


@settings(deadline=None, max_examples=50)
@given(ranked())
def test_auroc_of_negated_scores_is_the_complement(case):
    scores, labels = case
    total = metrics.auroc(scores, labels) + metrics.auroc(-scores, labels)
    assert total == pytest.approx(1.0, abs=1e-15)
    assert metrics.auroc(scores, ~labels) == metrics.auroc(-scores, labels)


def test_neighbouring_floats_are_distinguished():
    low = np.float32(1.0)
    high = np.nextafter(low, np.float32(2.0))
    assert metrics.auroc(np.array([low, high]), [0, 1]) == 1.0
    assert metrics.f1_max(np.array([low, high]), [0, 1]) == (1.0, float(high))


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32])
def test_any_shape_and_label_dtype(dtype):
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 9, (3, 4, 5)).astype(np.float32)
    labels = rng.integers(0, 2, (3, 4, 5))
    for function in FUNCTIONS:
        assert function(scores, labels.astype(dtype)) == function(scores.ravel(), labels.ravel())


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32, np.uint8, "bfloat16", bool])
def test_score_dtypes(dtype):
    pytest.importorskip("ml_dtypes")  # registers the name "bfloat16"
    scores = np.array([0, 1, 0, 1, 1, 0], np.dtype(dtype))
    labels = np.array([0, 1, 0, 0, 1, 1])
    assert metrics.auroc(scores, labels) == pytest.approx(2 / 3)
    assert metrics.f1_max(scores, labels) == (pytest.approx(2 / 3), 1.0)


def test_arguments_are_not_modified():
    scores, labels = np.array([3.0, 1.0, 2.0]), np.array([1, 0, 1])
    for function in FUNCTIONS:
        function(scores, labels)
    assert scores.tolist() == [3, 1, 2]
    assert labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("scores", "labels", "reason"),
    [
        ([0.0, np.nan, 1.0, np.nan], [0, 1, 0, 0], r"2 of 4 scores are NaN"),
        ([0.0, 1.0], [0, 0], r"no positive \(1\) among 2 labels"),
        ([0.0, 1.0], [1, 1], r"no negative \(0\) among 2 labels"),
        ([], [], r"no positive \(1\) among 0 labels"),
        ([0.0, 1.0, 2.0], [0, 1], r"scores \(3,\) and labels \(2,\) differ in shape"),
        (np.zeros((2, 3)), np.zeros((3, 2)), r"differ in shape"),
        ([0.0, 1.0, 2.0], [0, 1, 255], r"labels must be 0 or 1: 1 are not, the first is 255"),
        ([0.0, 1.0, 2.0], [0, 1, 0.5], r"labels must be 0 or 1"),
        ([0.0, 1.0, 2.0], [0, 1, np.nan], r"labels must be 0 or 1"),
        (["a", "b"], [0, 1], r"not real numbers"),
        ([1j, 2j], [0, 1], r"not real numbers"),
    ],
)
def test_errors_say_why_in_one_line(function, scores, labels, reason):
    with pytest.raises(ValueError, match=reason) as error:
        function(scores, labels)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("level", ["pixel", "image"])
def test_golden_cases(level):
    if not GOLDEN.is_dir():
        pytest.skip(f"golden metric cases are not beside the checkout: {GOLDEN}")
    expected = json.loads((GOLDEN / "expected.json").read_text(encoding="utf-8"))
    for name, case in expected["cases"].items():
        want, tolerance = case[level], expected["tolerance"]["auroc"]
        if want is None:
            continue
        with np.load(GOLDEN / "cases" / f"{name}.npz") as data:
            pixels = data["maps"], data["masks"]
            scores, labels = pixels if level == "pixel" else (data["image_scores"], data["labels"])
        got = {
            "auroc": metrics.auroc(scores, labels),
            "ap": metrics.average_precision(scores, labels),
            "pr_auc": metrics.pr_auc(scores, labels),
        }
        got["f1max"], threshold = metrics.f1_max(scores, labels)
        assert got == pytest.approx({k: want[k] for k in got}, abs=tolerance), name
        assert sk.f1_score(labels.ravel(), (scores >= threshold).ravel()) == pytest.approx(
            want["f1max"], abs=tolerance
        )
