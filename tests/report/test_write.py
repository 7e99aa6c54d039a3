"""A whole report by detectors that do not locate, or do not reconstruct, and by one that does both.

Drawn records and detectors of a line each: nothing is trained.
"""

import csv
import json
import re

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tests.factory import tiny_config
from vtadl_jax.data.records import Record
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.detectors.contract import Detector, Scores
from vtadl_jax.evaluation.predictor import Predictor
from vtadl_jax.evaluation.results import Results
from vtadl_jax.evaluation.scoring import Evaluator
from vtadl_jax.report.folder import FILES
from vtadl_jax.report.predictions import predict
from vtadl_jax.report.write import evaluate, say_metrics
from vtadl_jax.runtime import sharding

SIZE = 32


def brightness(locates: bool, reconstructs: bool) -> Detector:
    """Calls anomalous what is bright; its reconstruction is black."""

    def score(_, images):
        bright = images.astype(jnp.float32).mean(-1) / 255
        terms = jnp.stack([bright.max((1, 2)), bright.mean((1, 2))], -1)
        recon = jnp.zeros_like(images) if reconstructs else None
        return Scores(terms, bright if locates else None, recon)

    return Detector(lambda key: {}, score, ("brightest", "mean"), (1.0, 1.0))


def draw(folder, kind, number):
    """A grey image, with a white square and its mask if it is defective."""
    rng = np.random.default_rng(number)
    image = rng.integers(90, 110, (SIZE, SIZE, 3), np.uint8)
    path, mask_path = (folder / f"{kind}_{number}{end}.png" for end in ("", "_mask"))
    if kind == "good":
        Image.fromarray(image).save(path)
        return Record(path, None, 0, kind, f"test/{kind}/{number}.png")
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[8:16, 4:12] = 255
    image[mask > 0] = 255
    Image.fromarray(image).save(path)
    Image.fromarray(mask).save(mask_path)
    return Record(path, mask_path, 1, kind, f"test/{kind}/{number}.png")


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    return [draw(folder, kind, n) for kind in ("good", "scratch", "dent") for n in range(3)]


def report(records, out, locates, reconstructs, train=()):
    """(results, calibration, the detector) of a report written to `out`."""
    config = tiny_config(eval__batch_size=4, mesh__data=1)
    detector = brightness(locates, reconstructs)
    evaluator = Evaluator(config, detector, Geometry((SIZE, SIZE)), sharding.make_mesh(1))
    calibration = evaluator.calibrate({}, records[:3], step=5)
    out.mkdir(exist_ok=True)
    results = evaluate(evaluator, {}, calibration, records, train=train, out=out)
    return results, calibration, detector


def stored(text, name):
    block = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', text, re.S)
    return json.loads(block[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("locates", "reconstructs"), [(True, True), (True, False), (False, True), (False, False)]
)
def test_a_report_shows_what_the_method_makes(records, tmp_path, locates, reconstructs):
    results, calibration, _ = report(records, tmp_path, locates, reconstructs)
    assert Results.load(tmp_path / "results.json") == results
    assert json.loads((tmp_path / "results.json").read_text()) == results.to_dict()
    assert (results.metrics["pixel_auroc"] is not None) == locates
    assert results.metrics["image_auroc"] == 1.0
    with (tmp_path / "scores.csv").open() as f:
        assert [row["name"] for row in csv.DictReader(f)] == [r.name for r in records]

    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    cards = [stored(text, f"card-{i}") for i in range(len(records))]
    assert {card["heat"] is not None for card in cards} == {locates}
    assert {card["recon"] is not None for card in cards} == {reconstructs}
    assert [card["outline"] is not None for card in cards] == [False] * 3 + [True] * 6
    assert ("AU-PRO" in text) == ("pixel AUROC" in text) == locates
    assert bool(re.search(r'<div class="row" hidden>\s*<label>Heat map', text)) != locates

    panels = 2 + locates + reconstructs  # image and truth in any case
    with Image.open(tmp_path / "overlays" / "dent_0.png") as row:
        assert row.width == 2 * 12 + panels * (160 + 8) - 8
        height = row.height
    with Image.open(tmp_path / "overview.png") as sheet:
        assert (sheet.height > len(records) * height) == locates  # the colour bar
    assert (calibration.pixel_threshold is not None) == locates


@pytest.mark.slow
def test_the_subtitle_says_what_was_trained_on(records, tmp_path):
    report(records, tmp_path, True, True)
    page = tmp_path / "report.html"
    assert "6 of them defective; trained for 5 steps on good images<" in page.read_text()
    results, _, _ = report(records, tmp_path, True, True, train=records[:5])
    assert results.num_train_anomalous == {"scratch": 2}
    assert "trained for 5 steps on 3 good and 2 defective images<" in page.read_text()


def test_without_a_folder_nothing_is_written(records, tmp_path, capsys):
    config = tiny_config(eval__batch_size=4, mesh__data=1)
    geometry, mesh = Geometry((SIZE, SIZE)), sharding.make_mesh(1)
    evaluator = Evaluator(config, brightness(False, False), geometry, mesh)
    calibration = evaluator.calibrate({}, records[:3], step=5)
    say_metrics(evaluate(evaluator, {}, calibration, records))
    say_metrics(evaluate(evaluator, {}, calibration, []))
    first, second = capsys.readouterr().err.splitlines()[-2:]
    assert first == (
        "step 5  image_auroc 1.0000  image_average_precision 1.0000  pixel_auroc -  aupro -  "
        "on 9 images"
    )
    assert second == "no test images: calibrated only"
    assert list(tmp_path.iterdir()) == []


def test_without_test_images_the_report_is_of_the_held_out_ones_and_says_so(records, tmp_path):
    config, out = tiny_config(eval__batch_size=4, mesh__data=1), tmp_path / "run"
    out.mkdir()
    geometry, mesh = Geometry((SIZE, SIZE)), sharding.make_mesh(1)
    evaluator, held_out = Evaluator(config, brightness(True, False), geometry, mesh), records[:3]
    calibration = evaluator.calibrate({}, held_out, step=5)
    results = evaluate(evaluator, {}, calibration, [], holdout=held_out, out=out)
    found = {path.name for path in out.iterdir() if not path.name.startswith(".")}
    assert found == {*FILES, "overlays"}
    assert len(list((out / "overlays").iterdir())) == 3
    stored_results = Results.load(out / "results.json")
    assert stored_results == results
    assert (results.evaluated_on, results.num_test_images) == ("calibration", 0)
    assert results.metrics["image_auroc"] is None
    assert results.at_threshold["image"]["tn"] == 3
    page = (out / "report.html").read_text()
    assert "3 held-out good images, no test images; trained for 5 steps on good images<" in page
    assert '<p class="notice">No test images: these good images also set the thr' in page
    assert "no test image was used" not in page
    assert "Image AUROC of each term" not in page
    report(records, out, True, False)  # with test images the notice is gone
    page = (out / "report.html").read_text()
    assert 'aria-label="Notice" hidden><p class="notice"></p>' in page
    assert "no test image was used" in page


@pytest.mark.slow
@pytest.mark.parametrize("locates", [True, False])
def test_predictions_have_maps_if_the_method_locates(records, tmp_path, capsys, locates):
    _, calibration, detector = report(records, tmp_path / "run", locates, False)
    predictor = Predictor(detector, {}, Geometry((SIZE, SIZE)), calibration, batch_size=4)
    files = [record.image for record in records]
    out = tmp_path / "out"
    assert predict(predictor, files, files[0].parent, out) == []
    with (out / "predictions.csv").open() as f:
        assert [row["name"] for row in csv.DictReader(f)] == [path.name for path in files]
    maps = sorted(path.name for path in out.glob("maps/*"))
    assert maps == (sorted(f"{path.name}.npy" for path in files) if locates else [])
    assert ("no maps are written" in capsys.readouterr().err) != locates
    with Image.open(out / "overlays" / files[0].name) as row:
        assert row.width == 2 * 12 + (3 if locates else 1) * (160 + 8) - 8
    prediction = predictor(files[0])
    assert (prediction.anomaly_map is not None) == locates
    assert prediction.recon is None
