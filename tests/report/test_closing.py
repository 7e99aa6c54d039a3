"""The table at the end of a training or an evaluation."""

import dataclasses
import math

import pytest

from vtadl_jax.evaluation.results import Results
from vtadl_jax.report.closing import (
    MORE_IMAGES,
    MOST_KINDS,
    NOT_A_TEST,
    place_lines,
    result_lines,
    too_few_note,
)
from vtadl_jax.training.division import images_needed

IMAGE = {"tp": 8, "fp": 1, "fn": 2, "tn": 4, "threshold": 1.23456, "set_by": "good training images"}
KINDS = {
    "dent": {"num_images": 4, "image_auroc": 0.75, "detected": 3},
    "scratch": {"num_images": 6, "image_auroc": None, "detected": 5},
}
RESULTS = Results(
    step=400,
    metrics={"image_auroc": 0.9876, "pixel_auroc": 0.5, "aupro": None},
    fpr_limit=0.3,
    by_defect=KINDS,
    by_defect_pixels={"dent": {"pixel_auroc": 0.9, "aupro": 0.25}},
    at_threshold={"image": IMAGE, "pixel": {"threshold": 1.0}},
    num_test_images=15,
    num_anomalous=10,
    seconds=3.2,
)


def change(**fields) -> list[str]:
    return result_lines(dataclasses.replace(RESULTS, **fields))


def test_the_table_says_what_was_found():
    assert result_lines(RESULTS) == [
        "results at step 400 on 15 test images, in 3s",
        "  defective images found  8 of 10",
        "  false alarms            1 among 5 good images",
        "  image threshold         1.235, from good training images",
        "  image AUROC             0.988",
        "  pixel AUROC             0.500",
        "  AU-PRO (FPR 0.3)        -",
        "  kind of defect   found  image AUROC  pixel AUROC  AU-PRO",
        "  dent            3 of 4        0.750        0.900   0.250",
        "  scratch         5 of 6            -            -       -",
    ]


def test_a_method_without_maps_has_no_pixel_metrics():
    lines = change(at_threshold={"image": IMAGE}, by_defect_pixels={})
    assert not any("pixel" in line or "AU-PRO" in line for line in lines)
    assert "  dent            3 of 4        0.750" in lines


def test_one_kind_is_not_repeated_and_many_are_not_listed():
    assert not any("kind" in line for line in change(by_defect={"dent": KINDS["dent"]}))
    many = {f"kind {i}": KINDS["dent"] for i in range(MOST_KINDS + 1)}
    assert "  each of 9 kinds of defect: by_defect in results.json" in change(by_defect=many)


def test_the_threshold_names_its_images_and_what_they_guarantee():
    asked = {"image": {**IMAGE, "false_alarm_rate_asked": 0.01}}
    few = change(at_threshold=asked, num_calibration_images=4)
    assert "  image threshold         1.235, from 4 held-out good images" in few
    assert few[-1].startswith(
        "note: 4 held-out good images are too few to guarantee 1 % false alarms, which takes 99; "
        "the threshold is just above their highest score, which guarantees 20 % on average; to"
    )
    assert too_few_note(1, 0.05).startswith("note: 1 held-out good image is too few")
    enough = change(at_threshold=asked, num_calibration_images=99)
    source = "from 99 held-out good images, for 1 % false alarms"
    assert f"  image threshold         1.235, {source}" in enough
    assert not any("too few" in line for line in enough)
    given = {"image": {**IMAGE, "set_by": "the user", "false_alarm_rate_asked": None}}
    assert not any("few" in line for line in change(at_threshold=given, num_calibration_images=4))


@pytest.mark.parametrize(
    ("rate", "number"), [(0.1, 9), (0.05, 19), (0.02, 49), (0.01, 99), (0.3, 3), (1.0, 0)]
)
def test_the_images_that_a_rate_needs_are_those_that_keep_it(rate, number):
    assert images_needed(rate) == number
    for count in (number - 1, number):  # a rank within the values, or above all of them
        if count > 0:
            assert (math.ceil((count + 1) * (1 - rate)) <= count) == (count >= number)
    assert images_needed(0.0) == math.inf


def test_held_out_images_are_no_test():
    image = {"tp": 0, "fp": 0, "fn": 0, "tn": 6, "threshold": 1.5, "set_by": "good training images"}
    lines = result_lines(
        Results(
            evaluated_on="calibration",
            at_threshold={"image": {**image, "false_alarm_rate_asked": 0.2}},
            num_calibration_images=6,
            seconds=1.0,
        )
    )
    assert lines[:3] == [
        "results on 6 held-out good images, in 1s",
        "  false alarms     0 among 6 good images",
        "  image threshold  1.5, from 6 held-out good images, for 20 % false alarms",
    ]
    assert lines[3:] == [f"note: {NOT_A_TEST}; {MORE_IMAGES}"]


def test_a_given_threshold_intervals_and_unlike_images_are_told():
    image = {**IMAGE, "set_by": "the user"}
    lines = change(
        at_threshold={"image": image},
        intervals={"image_auroc": [0.9, 0.99]},
        num_unlike_training={"good": 1, "anomalous": 2},
    )
    text = "\n".join(lines)
    assert "1.235, the one given" in text
    assert "0.988 (95 % interval 0.900 to 0.990)" in text
    assert "unlike all training images  2 defective, 1 good; they count as defective" in text


def test_notes_have_their_numbers():
    one, two = (change(num_without_mask=n, num_thin_regions=n)[-2:] for n in (1, 2))
    assert one[0].startswith("note: 1 defective image without a mask, left out of pixel metrics")
    assert one[1].startswith("note: 1 marked region is too thin for")
    assert two[1].startswith("note: 2 marked regions are too thin for")


def test_without_test_images_nothing_is_measured(tmp_path):
    assert result_lines(Results()) == ["no test images: calibrated only"]
    command = f"python -m vtadl_jax.predict --workdir {tmp_path} --input DIR --output OUT"
    assert place_lines(tmp_path) == [f"score new images: {command}"]


def test_files_that_are_there_are_named(tmp_path):
    workdir = tmp_path / "a run"
    workdir.mkdir()
    (workdir / "report.html").touch()
    first, page, last = place_lines(workdir)
    assert first == "open"
    assert page.startswith(f"  {workdir / 'report.html'}  all images")
    assert f"--workdir '{workdir}' --input" in last


def test_cross_fitted_thresholds_say_what_to_expect():
    asked = {"image": {**IMAGE, "false_alarm_rate_asked": 0.05}}
    fields = {"at_threshold": asked, "calibrated_by": "cross-fit"}
    few = change(**fields, num_calibration_images=4, num_folds=4)
    source = "from 4 good images, each scored by a fit without it (leave-one-out)"
    assert f"  image threshold         1.235, {source}" in few
    assert few[-1] == (
        "note: 4 good images, each scored by a fit without it (leave-one-out), are too few for 5 % "
        "false alarms, which takes 19; the threshold is just above their highest score: expect "
        "20 % false alarms on average (at most 40 % by theory), and no p-value below 0.2"
    )
    enough = change(**fields, num_calibration_images=40, num_folds=10)
    source = "from 40 good images, each scored by a fit without it (10 folds)"
    assert f"  image threshold         1.235, {source}, for about 5 % false alarms" in enough
    assert not any("too few" in line for line in enough)


def test_one_image_promises_nothing():
    asked = {"image": {**IMAGE, "false_alarm_rate_asked": 0.05}}
    lines = change(at_threshold=asked, calibrated_by="copies", num_folds=1)
    source = "which guarantees nothing, from moved copies of one good image"
    assert f"  image threshold         1.235, {source}" in lines
    assert lines[-1].startswith("note: one good image: nothing can be left out")
    alone = result_lines(Results(calibrated_by="copies", num_folds=1))
    assert alone[0] == "no test images: calibrated only"
    assert alone[1].startswith("note: one good image")
