"""A run with `data.regions`: what is outside has no part in fit, scores, maps, metrics, exports."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

from tests.factory import tiny_config, with_fields
from vtadl_jax.data.finding import Found
from vtadl_jax.data.pipeline import load_example
from vtadl_jax.data.records import Record
from vtadl_jax.data.regions.per_image import Folder
from vtadl_jax.data.regions.region import Regions
from vtadl_jax.data.sources import load_splits
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.errors import UserError
from vtadl_jax.evaluate import evaluate_run
from vtadl_jax.evaluation.predictor import Predictor
from vtadl_jax.evaluation.results import Results
from vtadl_jax.evaluation.trained_run import load_calibration, load_run
from vtadl_jax.export.deploy import deployed
from vtadl_jax.export.saved import save_run
from vtadl_jax.export.settings import settings_of
from vtadl_jax.predict import inspected_everywhere
from vtadl_jax.report.closing import masks_outside
from vtadl_jax.run import run
from vtadl_jax.training.regions import REGIONS, load_regions

FITTED = {"num_epochs": 0, "num_train_steps": 0, "mesh__data": 1, "eval__num_pictures": 2}


def area():
    found = np.zeros((32, 32), bool)
    found[4:28, 6:24] = True
    found[10:14, 10:14] = False
    return found


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.uint8(255 * pixels)).save(path)
    return path


def config_of(dataset, regions, detector="position_gaussian", **fields):
    return tiny_config(dataset, detector, **{**FITTED, **fields}, data__regions=str(regions))


@pytest.fixture(scope="module")
def made(shared, dataset):
    """(workdir, results, path of the mask, which is gone since); not to be changed."""

    def fit(folder):
        mask = save(folder.with_name("regions-mask.png"), area())
        return folder, run(config_of(dataset, mask), folder), mask

    return shared("regions-run", fit)


def noise(seed, count=2, size=(32, 32)):
    return np.random.default_rng(seed).integers(0, 256, (count, *size, 3), np.uint8)


def changed_outside(images, seed=9):
    return np.where(area()[..., None], images, noise(seed, len(images)))


@pytest.mark.parametrize("sides", [(32, 32), (64, 64), (17, 17)])
@pytest.mark.parametrize("fit", ["stretch", "pad", "crop"])
def test_no_pixel_outside_reaches_the_network(sides, fit):
    one = np.zeros((48, 32), bool)
    one[9:40, 7:29] = True
    geometry = Geometry(sides, None, fit, 0, Regions((3, 4, 5), one))
    image = noise(0, 1, (48, 32))[0]
    other = np.where(one[..., None], image, noise(1, 1, (48, 32))[0])
    np.testing.assert_array_equal(geometry.image(image), geometry.image(other))
    inside = geometry.inside((48, 32))
    assert inside.any()
    assert (geometry.image(image)[~inside] == (3, 4, 5)).all()
    without = dataclasses.replace(geometry, regions=None)
    np.testing.assert_array_equal(geometry.image(image)[inside], without.image(image)[inside])


def test_a_region_that_leaves_no_pixel_is_refused():
    one = np.zeros((64, 64), bool)
    one[3, 3] = True
    with pytest.raises(UserError, match="leaves no pixel of an image of 64×64 at 8×8"):
        Geometry((8, 8), regions=Regions((0,), one)).inside((64, 64))


def test_masks_are_cut_and_counted():
    geometry = Geometry((32, 32), regions=Regions((0, 0, 0), area()))
    image = noise(0, 1)[0]

    def example(rows, columns):
        mask = np.zeros((32, 32), np.uint8)
        mask[rows, columns] = 255
        return load_example(Record(image, mask, 1, "dent", "a"), geometry, 3)

    within = example(slice(20, 24), slice(8, 12))
    assert within["leaves"] == 0
    assert within["mask"].sum() == 16
    across = example(slice(20, 24), slice(4, 12))
    assert across["leaves"] == 1
    assert 0 < across["mask"].sum() < 32
    beside = example(slice(0, 3), slice(0, 9))
    assert beside["leaves"] == 2
    assert not beside["mask"].any()


def test_scores_and_maps_do_not_depend_on_what_is_outside(made):
    predictor, images = Predictor.from_workdir(made[0]), noise(3)
    for one, two in zip(predictor(images), predictor(changed_outside(images)), strict=True):
        assert (one.score, one.terms) == (two.score, two.terms)
        np.testing.assert_array_equal(one.anomaly_map, two.anomaly_map)
        outside = one.anomaly_map[~area()]
        assert outside.max() <= one.anomaly_map[area()].min()
        assert (outside < predictor.calibration.pixel_threshold).all()


def test_the_run_keeps_its_regions_and_evaluates_without_their_file(made, tmp_path):
    workdir, results, mask = made
    stored = load_regions(workdir)
    np.testing.assert_array_equal(stored.area, area())
    assert len(stored.colour) == 3
    mask.rename(tmp_path / "mask.png")
    try:
        again = evaluate_run(workdir, {})
    finally:
        (tmp_path / "mask.png").rename(mask)
    for name in ("image_auroc", "pixel_auroc", "aupro", "num_masks_leaving"):
        assert again[name] == results[name]


def test_pixel_metrics_are_of_pixels_inside(made):
    workdir, results, _ = made
    found = load_run(workdir)
    inside = found.geometry.inside((32, 32))
    splits = load_splits(found.config, ())
    examples = [load_example(r, found.geometry, 3) for r in splits.test]
    pixels = results["at_threshold"]["pixel"]
    assert sum(pixels[name] for name in ("tp", "fp", "fn", "tn")) == inside.sum() * len(examples)
    assert pixels["tp"] + pixels["fn"] == sum(int(e["mask"].sum()) for e in examples)
    assert results["num_masks_leaving"] == sum(int(e["leaves"] > 0) for e in examples)


def test_masks_outside_are_said():
    results = Results(num_anomalous=40, num_masks_leaving=3, num_masks_beside=1)
    assert masks_outside(results) == (
        "3 of 40 masks have pixels outside of data.regions, which are not counted; 1 has no "
        "others: its image counts as defective in image metrics all the same"
    )


def test_metrics_at_original_size_are_of_pixels_inside(made):
    results = evaluate_run(made[0], {"original_size": True})
    pixels = results["at_threshold"]["pixel"]
    inside = load_run(made[0]).geometry.inside((32, 32)).sum()
    total = sum(pixels[name] for name in ("tp", "fp", "fn", "tn"))
    assert total == inside * results["num_test_images"]  # these images have the network's size


def test_a_deployed_function_and_a_saved_file_score_as_the_run(made, tmp_path):
    found = load_run(made[0])
    calibration = load_calibration(found)
    images = noise(5)
    ours = Predictor.from_workdir(made[0])(images)
    save_run(found, calibration, tmp_path / "part.vtadl")
    saved = Predictor.from_file(tmp_path / "part.vtadl")(images)
    settings = settings_of(calibration)
    function = jax.jit(deployed(found.detector, found.geometry))
    outputs = function(found.variables, settings, images)
    other = function(found.variables, settings, changed_outside(images))
    for i, (one, two) in enumerate(zip(ours, saved, strict=True)):
        assert (one.score, one.is_defective) == (two.score, two.is_defective)
        np.testing.assert_array_equal(one.anomaly_map, two.anomaly_map)
        assert float(outputs["score"][i]) == pytest.approx(one.score, rel=1e-4)
        np.testing.assert_allclose(outputs["anomaly_map"][i], one.anomaly_map, rtol=1e-3, atol=1e-3)
        np.testing.assert_array_equal(outputs["score"][i], other["score"][i])
        assert not outputs["defect_mask"][i][~area()].any()


def test_images_of_other_sizes_of_the_aspect_are_deployed_as_the_predictor_sees_them(made):
    found = load_run(made[0])
    images, calibration = noise(6, 2, (48, 48)), load_calibration(found)
    ours = Predictor.from_workdir(made[0])(images)
    function = jax.jit(deployed(found.detector, found.geometry))
    outputs = function(found.variables, settings_of(calibration), images)
    for i, one in enumerate(ours):
        assert float(outputs["score"][i]) == pytest.approx(one.score, rel=1e-4)
        np.testing.assert_allclose(outputs["anomaly_map"][i], one.anomaly_map, rtol=1e-3, atol=1e-3)
        outside = ~outputs["defect_mask"][i]
        assert np.asarray(outside)[one.anomaly_map < calibration.pixel_threshold].all()


@pytest.mark.slow
@pytest.mark.parametrize("sides", [None, (64, 64)])
def test_an_onnx_file_scores_as_the_run(made, tmp_path, sides):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from vtadl_jax.export.onnx.written import export_run

    found = load_run(made[0])
    export_run(found, load_calibration(found), tmp_path / "part.onnx", sides=sides)
    theirs, ours = Predictor.from_file(tmp_path / "part.onnx"), Predictor.from_workdir(made[0])
    images = noise(7, 2, (64, 64))
    for one, two in zip(theirs(images), ours(images), strict=True):
        assert one.score == pytest.approx(two.score, rel=1e-4)
        np.testing.assert_allclose(one.anomaly_map, two.anomaly_map, rtol=1e-3, atol=1e-3)
    if sides is None:
        with pytest.raises(UserError, match="not of the same aspect"):
            theirs(noise(7, 1, (64, 40))[0])


def test_a_run_goes_on_with_its_own_regions_only(made, dataset, tmp_path):
    workdir, _, mask = made
    other = save(tmp_path / "other.png", ~area())
    with pytest.raises(UserError, match="holds a run with other regions"):
        run(config_of(dataset, other), workdir)
    with pytest.raises(UserError, match="holds a run with other regions"):
        run(config_of(dataset, ""), workdir)
    assert run(config_of(dataset, mask), workdir, report=False)["image_auroc"] is not None
    away = mask.rename(tmp_path / "away.png")
    assert run(config_of(dataset, mask), workdir, report=False)["image_auroc"] is not None
    away.rename(mask)
    stored = (workdir / REGIONS).read_bytes()
    (workdir / REGIONS).write_bytes(stored[:99])
    with pytest.raises(UserError, match=REGIONS):
        load_run(workdir)
    (workdir / REGIONS).unlink()
    with pytest.raises(UserError, match="is missing"):
        load_run(workdir)
    (workdir / REGIONS).write_bytes(stored)


def test_a_file_that_cannot_be_read_is_told_before_images_are_read(tmp_path):
    with pytest.raises(UserError, match=r"data.regions .*none.png: no such file"):
        run(config_of(tmp_path / "no images", tmp_path / "none.png"), tmp_path / "run")


def test_regions_of_another_aspect_are_refused_before_training(dataset, tmp_path):
    wide = save(tmp_path / "wide.png", np.ones((32, 40), bool))
    with pytest.raises(UserError, match=r"is 40×32, but image .* is 32×32"):
        run(config_of(dataset, wide), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    turned = config_of(dataset, save(tmp_path / "mask.png", area()))
    with pytest.raises(UserError, match=r"with data.regions a turned copy"):
        run(with_fields(turned, data__orientations="mirror"), tmp_path / "run")


def test_images_of_another_aspect_are_refused(made):
    with pytest.raises(UserError, match=r"data.regions is 32×32 and an image 40×32"):
        Predictor.from_workdir(made[0])(noise(0, 1, (32, 40))[0])


def test_each_image_may_have_a_file(dataset, tmp_path, capsys):
    config = config_of(dataset, "")
    splits = load_splits(config, ())
    for i, record in enumerate((*splits.train, *splits.test)):
        moved = np.roll(area(), i % 4, 1)
        save((tmp_path / "areas" / record.name).with_suffix(".png"), moved)
    results = run(config_of(dataset, tmp_path / "areas"), tmp_path / "run")
    assert results["pixel_auroc"] is not None
    assert "a file for each of 34 images" in capsys.readouterr().err
    path = splits.test[1].image
    images = tmp_path / "images" / splits.test[1].name
    images.parent.mkdir(parents=True)
    pixels, inside = np.array(Image.open(path).convert("RGB")), np.roll(area(), 21 % 4, 1)
    predictor = Predictor.from_workdir(tmp_path / "run", regions=tmp_path / "areas")
    found = []
    for seed in (1, 2):
        Image.fromarray(np.where(inside[..., None], pixels, noise(seed, 1)[0])).save(images)
        found.append(predictor(images))
    assert found[0].score == found[1].score
    everywhere = Predictor.from_workdir(tmp_path / "run")
    assert everywhere.per_image
    assert everywhere(images).score != found[0].score
    moved = (tmp_path / "areas").rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"has no file of data.regions.*--data_regions=DIR"):
        evaluate_run(tmp_path / "run", {})
    again = evaluate_run(tmp_path / "run", {}, data_regions=str(moved))
    assert again["pixel_auroc"] == results["pixel_auroc"]
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert stored["data"]["regions"] == str(tmp_path / "areas")


def test_a_folder_of_regions_is_of_runs_with_a_region_for_each_image(made, tmp_path):
    with pytest.raises(UserError, match="has no region for each image: leave it out"):
        evaluate_run(made[0], {}, data_regions=str(tmp_path))


def test_regions_at_prediction_are_of_runs_with_a_region_for_each_image(made, tmp_path):
    save(tmp_path / "a.png", area())
    with pytest.raises(UserError, match="has one region for all images: leave them out"):
        Predictor.from_workdir(made[0], regions=tmp_path)


def test_new_images_without_a_region_are_named(tmp_path):
    save(tmp_path / "areas" / "a.png", area())
    paths = [save(tmp_path / "new" / f"{name}.png", area()) for name in "abc"]
    found = Found(tmp_path / "new", paths)
    folder = Folder.of(tmp_path / "areas")

    def said(per_image, files):
        return inspected_everywhere(SimpleNamespace(per_image=per_image, folder=files), found)

    assert said(False, None) == ""
    assert "give --inspect=DIR" in said(True, None)
    line = said(True, folder)
    assert line.startswith("note: 2 of 3 images have no file in --inspect")
    assert line.endswith("inspected everywhere: b.png, c.png")
    found.images[1:] = []
    assert said(True, folder) == ""
