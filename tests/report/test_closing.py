"""The table at the end of a training or an evaluation."""

import dataclasses

from vtadl_jax.evaluation.results import Results
from vtadl_jax.report.closing import MOST_KINDS, place_lines, result_lines

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
