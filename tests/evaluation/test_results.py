"""Typed results: what they hold with and without maps, and files of earlier versions."""

import dataclasses
import json

import numpy as np
import pytest

from tests.factory import tiny_config
from vtadl_jax.data.records import Record
from vtadl_jax.errors import UserError
from vtadl_jax.evaluation.calibration import calibrate
from vtadl_jax.evaluation.metric_table import METRICS
from vtadl_jax.evaluation.novelty import describe
from vtadl_jax.evaluation.outputs import EvalOutputs
from vtadl_jax.evaluation.results import Results, count_anomalous, measure

DEFECTS = ("good", "good", "dent", "dent", "stain")
PIXEL = [metric.name for metric in METRICS if metric.kind == "pixel"]


def record(i, defect):
    return Record(f"{i}.png", None, int(defect != "good"), defect, f"{defect}/{i}.png")


def measured(maps=True, unmarked=(), **options):
    rng = np.random.default_rng(1)
    records = [record(i, defect) for i, defect in enumerate(DEFECTS)]
    labels = np.array([r.label for r in records])
    masks = np.zeros((5, 8, 8), np.uint8)
    masks[labels == 1, 2:4, 2:4] = 1
    known = np.array([i not in unmarked for i in range(5)])
    masks[~known] = 0
    described = describe(np.full((5, 8, 8, 1), 100, np.uint8))
    heat = list(rng.normal(masks, 1).astype(np.float32)) if maps else []
    terms = rng.normal(labels[:, None], 1, (5, 2)).astype(np.float32)
    outputs = EvalOutputs(terms, heat, list(masks), labels, known, described)
    normal = rng.normal(size=(9, 8, 8)).astype(np.float32) if maps else None
    calibration = calibrate(("a", "b"), rng.normal(size=(9, 2)), normal, weights=(1, 1), step=4)
    train = [record(i, "good") for i in range(20)] + [record(0, "stain"), record(1, "dent")]
    config = tiny_config(**{f"eval__{name}": value for name, value in options.items()})
    return measure(outputs, records, calibration, config, [*train, record(2, "dent")])


def test_results_survive_json():
    results = measured(num_bootstrap=20)
    stored = json.loads(json.dumps(results.to_dict()))
    assert stored == results.to_dict()
    assert Results.from_dict(stored) == results
    assert stored["format"] == 2
    assert {"vtadl_jax", "jax", "jaxlib", "code"} <= stored["versions"].keys()


def test_the_keys_of_the_file_are_those_of_the_first_version_and_the_new_ones():
    metrics = {metric.name for metric in METRICS if metric.kind != "region"}
    assert not metrics & {field.name for field in dataclasses.fields(Results)}
    first = {
        *("step", "schedule", "aupro_at", "fpr_limit", "image_auroc_by_term", "intervals"),
        *("by_defect", "by_defect_pixels", "at_threshold", "num_test_images", "num_anomalous"),
        *("num_without_mask", "num_calibration_images", "seconds", "format", "versions"),
    }
    counts = {"num_unlike_training", "num_thin_regions", "num_masks_leaving", "num_masks_beside"}
    counts |= {"calibrated_by", "num_folds", "experts"}
    new = {"num_train_images", "num_train_anomalous", "evaluated_on", *counts}
    assert measured().to_dict().keys() == first | metrics | new


def test_what_was_trained_on_is_counted_by_kind():
    results = measured()
    assert results.num_train_images == 23
    assert results.num_train_anomalous == {"dent": 2, "stain": 1}
    assert count_anomalous([record(0, "good")]) == {}


def test_without_maps_there_are_no_pixel_metrics():
    located, whole = measured(num_bootstrap=20), measured(maps=False, num_bootstrap=20)
    assert all(located.metrics[name] is not None for name in PIXEL)
    assert all(whole.metrics[name] is None for name in PIXEL)
    assert whole.aupro_at is None
    assert whole.by_defect_pixels == {}
    assert whole.intervals.keys() == {"image_auroc", "image_average_precision"}
    assert located.at_threshold.keys() == {"image", "pixel"}
    assert whole.at_threshold.keys() == {"image"}
    assert whole.by_defect.keys() == {"dent", "stain"}
    for name in ("image_auroc", "image_pr_auc"):
        assert whole.metrics[name] == located.metrics[name]


def test_kinds_of_images_without_ground_truth_have_no_pixel_metrics():
    results = measured(unmarked=(4,))
    assert results.num_without_mask == 1
    assert results.by_defect.keys() == {"dent", "stain"}
    assert results.by_defect_pixels.keys() == {"dent"}
    assert results.by_defect_pixels["dent"]["num_images"] == 2


def test_a_fixed_threshold_is_the_users():
    decided = measured(image_threshold=-1e9, pixel_threshold=1e9).at_threshold
    assert decided["image"]["set_by"] == decided["pixel"]["set_by"] == "the user"
    assert decided["image"]["false_alarm_rate_asked"] is None
    assert decided["image"]["fn"] == decided["pixel"]["tp"] == 0
    assert decided["pixel"]["regions"]["detected"] == 0
    assert measured().at_threshold["image"]["set_by"] == "good training images"


def test_files_of_earlier_versions_are_read(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"step": 7, "aupro": 0.5, "something": 1, "num_test_images": 3}))
    old = Results.load(path)
    assert (old.step, old.metrics["aupro"], old.metrics["image_auroc"]) == (7, 0.5, None)
    assert old.schedule is None
    assert old.num_train_anomalous == {}
    assert Results.load(path) == Results.from_dict(old.to_dict())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "can't be read"),
        ("[]", "it holds a list instead of fields.*: evaluate the run again"),
        ('{"image_auroc": "0.5"}', "image_auroc is '0.5'"),
        ('{"by_defect": []}', r"by_defect is \[\]"),
        ('{"evaluated_on": 3}', "evaluated_on is 3"),
        ('{"format": 2, "versions": 5}', "versions is 5"),
        ('{"format": 99, "versions": 5}', "newer version of vtadl_jax"),
        ('{"format": 99, "versions": {"vtadl_jax": "9.0"}}', "newer version of vtadl_jax"),
    ],
)
def test_what_is_no_results_file_is_named(tmp_path, text, message):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(UserError, match=message):
        Results.load(tmp_path / "results.json")
