"""The table of metrics: values of the slow twins, one pass for AU-PRO, names that others use."""

import numpy as np
import pytest

from tests.metrics import reference
from vtadl_jax import metrics
from vtadl_jax.evaluation import metric_table
from vtadl_jax.evaluation.metric_table import METRICS, SHOWN, View, compute_metrics
from vtadl_jax.training.setup import RESULTS

ALWAYS = {"scores": np.zeros(0), "labels": np.zeros(0, int), "maps": [], "masks": []}


def view_of(seed=0, **changes):
    rng = np.random.default_rng(seed)
    labels = np.array([0, 0, 0, 1, 1])
    masks = np.zeros((5, 6, 7), np.uint8)
    masks[3, 1:3, 2:5] = masks[4, 5, 6] = masks[4, :2, :2] = 1
    values = {
        "scores": rng.normal(labels, 1.0),
        "labels": labels,
        "maps": list(rng.normal(masks, 1.0).astype(np.float32).round(1)),
        "masks": list(masks),
        "fpr_limit": 0.3,
    }
    return View(**values | changes)


def test_every_metric_is_that_of_its_slow_twin():
    view = view_of(pixel_threshold=0.5)
    pixels, truth = np.array(view.maps), np.array(view.masks)
    tp, fp, fn, _ = reference.decisions(pixels, truth, 0.5)
    expected = {
        "image_auroc": reference.auroc(view.scores, view.labels),
        "image_average_precision": reference.average_precision(view.scores, view.labels),
        "image_pr_auc": reference.pr_auc(view.scores, view.labels),
        "image_f1_max": reference.f1_max(view.scores, view.labels)[0],
        "image_balanced_accuracy_max": reference.balanced_accuracy_max(view.scores, view.labels)[0],
        "image_accuracy": reference.youden_accuracy(view.scores, view.labels)[0],
        "pixel_auroc": reference.auroc(pixels, truth),
        "pixel_average_precision": reference.average_precision(pixels, truth),
        "aupro": reference.aupro(view.maps, view.masks, 0.3),
        "seg_f1": 2 * tp / (2 * tp + fp + fn),
    }
    assert compute_metrics(view) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("limit", [0.3, 0.05, 1.0])
def test_aupro_at_both_limits_takes_one_pass(monkeypatch, limit):
    calls = []
    real = metrics.aupro

    def spy(*arguments):
        calls.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(metrics, "aupro", spy)
    view = view_of(fpr_limit=limit)
    found = compute_metrics(view)
    assert len(calls) == 1
    assert set(view.aupro_at) == {limit, metric_table.SMALL_FPR}
    assert found["aupro"] == view.aupro_at[limit]
    for at, value in view.aupro_at.items():
        assert value == real(view.maps, view.masks, at)


@pytest.mark.parametrize(
    ("changes", "undefined"),
    [
        ({"labels": np.zeros(5, int)}, {"image"}),
        ({"labels": np.ones(5, int)}, {"image"}),
        ({"maps": [], "masks": []}, {"pixel"}),
        ({"masks": [np.zeros((6, 7), np.uint8)] * 5}, {"pixel"}),
        ({"masks": [np.ones((6, 7), np.uint8)] * 5}, {"pixel"}),
        (ALWAYS, {"image", "pixel"}),
    ],
)
def test_metrics_that_need_both_classes_are_none_without(changes, undefined):
    found = compute_metrics(view_of(pixel_threshold=0.5, **changes))
    for metric in METRICS:
        if metric.kind == "region":
            assert metric.name not in found
            continue
        assert (found[metric.name] is None) == (metric.kind in undefined), metric.name


def test_rows_are_whole_and_the_best_checkpoint_is_the_largest():
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    assert all(metric.title and metric.meaning for metric in METRICS)
    assert [m.name for m in SHOWN] == [
        *("image_auroc", "image_average_precision", "pixel_auroc", "aupro", "au_spro")
    ]
    # keep_best takes the largest of these.
    assert set(RESULTS) <= {metric.name for metric in METRICS if metric.largest_is_best}


def test_metrics_of_regions_are_there_where_the_data_set_has_them():
    view = view_of()
    first = np.zeros((6, 7), np.uint8)
    first[4:, :2] = 1
    second = view.masks[4] - (view.masks[4] & first)
    pairs = [[], [], [], [(view.masks[3], 2.0)], [(first, 1.0), (second, 99.0)]]
    regions = [[metrics.SaturatedRegion(*pair) for pair in here] for here in pairs]
    kinds = ["good", "good", "good", "logical_anomalies", "structural_anomalies"]
    found = compute_metrics(view_of(regions=regions, kinds=kinds))
    logical = reference.au_spro(view.maps[:4], pairs[:4], 0.05)
    structural = reference.au_spro([*view.maps[:3], view.maps[4]], [*pairs[:3], pairs[4]], 0.05)
    assert found["au_spro_logical"] == pytest.approx(logical, abs=1e-12)
    assert found["au_spro_structural"] == pytest.approx(structural, abs=1e-12)
    assert found["au_spro"] == pytest.approx((logical + structural) / 2, abs=1e-12)
    only = compute_metrics(view_of(regions=[*regions[:4], []], kinds=[*kinds[:4], "good"]))
    assert only["au_spro_structural"] is None
    assert only["au_spro"] == only["au_spro_logical"]
