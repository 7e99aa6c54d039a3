"""Scores of large images by windows: one way to evaluate and to predict, and its false alarms."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from tests.factory import tiny_config
from vtadl_jax.config_data import WindowOptions
from vtadl_jax.data.records import Record
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.detectors.contract import Detector, Scores, Tails
from vtadl_jax.errors import UserError
from vtadl_jax.evaluation import held_out
from vtadl_jax.evaluation.calibration import Calibration, calibrate
from vtadl_jax.evaluation.predictor import Predictor
from vtadl_jax.evaluation.scoring import Evaluator
from vtadl_jax.evaluation.window_scales import Seen, fit_scales, whole_map, whole_terms
from vtadl_jax.runtime import sharding

WEIGHTS = (1.0, 0.5)


def toy() -> Detector:
    """Terms and map of the pixels alone."""

    def score(variables, images):
        grey = images.astype(jnp.float32).mean(-1) + variables["stats"]["shift"]
        return Scores(jnp.stack([grey.max((1, 2)), grey.mean((1, 2))], -1), grey)

    return Detector(lambda key: {}, score, ("top", "level"), WEIGHTS)


VARIABLES = {"params": {}, "stats": {"shift": np.float32(3)}, "frozen": {}}


def config_of(channels=3, **fields):
    usual = {"image_size": (16, 16), "eval__batch_size": 5, "data__windows__side": 32}
    return tiny_config("", "filter_mixture", data__channels=channels, **{**usual, **fields})


def images_of(sizes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(90, 160, (*size, 3), np.uint8) for size in sizes]


def records_of(images):
    return [Record(image, None, 0, "good", f"train/good/{i:03d}") for i, image in enumerate(images)]


@pytest.fixture(scope="module")
def evaluator():
    mesh = sharding.make_mesh(1)
    config = config_of(data__windows__scales=(1.0, 0.5))
    return Evaluator(config, toy(), Geometry((16, 16)), mesh)


@pytest.fixture(scope="module")
def calibrated(evaluator) -> Calibration:
    holdout = records_of(images_of([(96, 70)] * 9))
    return evaluator.calibrate(VARIABLES, holdout, 0)


def predictor_of(calibration, config) -> Predictor:
    return Predictor(
        toy(),
        VARIABLES,
        Geometry((16, 16)),
        calibration,
        channels=config.data.channels,
        batch_size=5,
        windows=config.data.windows,
    )


def test_evaluation_and_prediction_give_the_same(evaluator, calibrated, tmp_path):
    image = images_of([(80, 101)], 7)[0]
    image[30:50, 60:84] = 250
    mask = np.zeros((80, 101), bool)
    mask[30:50, 60:84] = True
    Image.fromarray(image).save(tmp_path / "a.png")
    record = Record(tmp_path / "a.png", mask, 1, "bad", "test/bad/a.png")
    found = evaluator.run(VARIABLES, [record], "", calibrated=calibrated)
    assert found.maps[0].shape == found.masks[0].shape == (20, 26)
    assert found.maps[0][found.masks[0] > 0].mean() > 2 * found.maps[0].mean()
    score = calibrated.image_scores(found.terms, found.descriptions)[0]
    predictor = predictor_of(calibrated, evaluator.config)
    for way in (tmp_path / "a.png", image, Image.fromarray(image)):
        prediction = predictor(way)
        assert prediction.score == score
        assert prediction.anomaly_map is not None
        assert prediction.anomaly_map.shape == (80, 101)
    assert prediction.is_defective
    assert_allclose(prediction.anomaly_map[40, 70], found.maps[0][10, 17], rtol=0.05)


def test_images_of_all_kinds_are_scored(calibrated, evaluator):
    predictor = predictor_of(calibrated, evaluator.config)
    rng = np.random.default_rng(3)
    small = rng.integers(0, 256, (7, 50), np.uint8)
    for image in (small, rng.integers(0, 65536, (33, 64), np.uint16), rng.random((40, 31))):
        prediction = predictor(image)
        assert np.isfinite(prediction.score)
        assert prediction.anomaly_map.shape == image.shape
    assert_array_equal(
        predictor(small).anomaly_map, predictor(np.repeat(small[..., None], 3, 2)).anomaly_map
    )


def test_a_calibration_stays_whole_as_json(calibrated):
    stored = json.loads(json.dumps(calibrated.to_dict()))
    assert Calibration.from_dict(stored) == calibrated
    stored["windows"][0]["spread"] = [0.0, 1.0]
    with pytest.raises(ValueError, match="windows"):
        Calibration.from_dict(stored)


def test_a_calibration_of_whole_images_is_refused(calibrated, evaluator):
    other = dataclasses.replace(calibrated, windows=())
    with pytest.raises(UserError, match="not of windows at the scales"):
        predictor_of(other, evaluator.config)


def drawn(rng, count: int, scales: int = 2) -> list[Seen]:
    """What a detector may see in good images: some are noisier, and they differ in size."""
    found = []
    for _ in range(count):
        terms = [
            rng.gamma(2, rng.uniform(1, 1.5) * (1 + scale), (int(rng.integers(4, 60)), 2))
            for scale in range(scales)
        ]
        found.append(Seen(tuple(terms), ()))
    return found


def test_the_score_is_that_of_the_highest_window():
    rng = np.random.default_rng(5)
    good = drawn(rng, 20)
    scales = fit_scales((1.0, 0.5), good)
    image = drawn(rng, 1)[0]
    terms = whole_terms(scales, image, WEIGHTS, 4.0)
    calibration = calibrate(
        ("a", "b"),
        np.stack([whole_terms(scales, one, WEIGHTS, 4.0) for one in good]),
        None,
        weights=WEIGHTS,
        windows=scales,
    )
    each = [
        (terms - np.array(scale.mean)) / np.array(scale.spread) @ np.array(WEIGHTS)
        for scale, terms in zip(scales, image.terms, strict=True)
    ]
    assert_allclose(calibration.image_scores(terms[None]), np.concatenate(each).max(), rtol=1e-5)


def test_the_false_alarm_rate_is_of_images_not_of_windows():
    rng, alarms, rate = np.random.default_rng(6), [], 0.1
    for _ in range(60):
        good, new = drawn(rng, 19), drawn(rng, 50)
        scales = fit_scales((1.0, 0.5), good)

        def terms(seen, scales=scales):
            return np.stack([whole_terms(scales, one, WEIGHTS, None) for one in seen])

        found = calibrate(
            ("a", "b"),
            terms(good),
            None,
            weights=WEIGHTS,
            image_false_alarm_rate=rate,
            windows=scales,
        )
        alarms.append((found.image_scores(terms(new)) >= found.image_threshold).mean())
    # Of 3000 images; the deviation of the mean over 60 calibrations is below 0.01.
    assert 0.05 < np.mean(alarms) < 0.13


def test_the_maps_of_scales_are_combined_by_their_tails():
    rng = np.random.default_rng(8)
    good = [
        Seen((np.ones((3, 1)),) * 2, (rng.normal(0, 1, (40, 40)), rng.normal(50, 9, (40, 40))))
        for _ in range(4)
    ]
    scales = fit_scales((1.0, 0.25), good)
    values = whole_map(scales, good[0])
    assert_allclose(values.mean(), 1, atol=0.2)  # of -log of uniform values, from a table
    swapped = Seen(good[0].terms, good[0].maps[::-1])
    assert_allclose(whole_map(scales[::-1], swapped), values, rtol=1e-6)
    one = Seen(good[0].terms[:1], good[0].maps[:1])
    assert whole_map(fit_scales((1.0,), [one]), one) is one.maps[0]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"data__windows__side": 8}, "smaller than image_size"),
        ({"data__windows__side": 30}, "does not divide"),
        ({"data__windows__map_stride": 8}, "fewer than 8 values"),
        ({"data__windows__scales": (1.0, 1.0)}, "different factors"),
        ({"data__fit": "pad"}, "data.fit scales whole images"),
        ({"data__resize": (64, 64)}, "data.resize scales whole images"),
        ({"image_size": (16, 32)}, "windows are square"),
    ],
)
def test_a_config_that_does_not_fit_is_refused_at_once(fields, words):
    from vtadl_jax.experiment import parse

    with pytest.raises(UserError, match=words):
        parse(config_of(**fields).to_dict())


@pytest.mark.parametrize("overlap", [1.0, -0.1])
def test_an_overlap_of_a_whole_window_is_refused(overlap):
    with pytest.raises(UserError, match="overlap"):
        config_of(data__windows__overlap=overlap)


def test_a_method_of_positions_is_refused_and_parts_are_told():
    from vtadl_jax.training.large_images import check_detector

    config = config_of()
    alone = dataclasses.replace(toy(), positions=("a",), only_positions=True)
    with pytest.raises(UserError, match="windows are cut from anywhere"):
        check_detector(config, alone)
    (line,) = check_detector(config, dataclasses.replace(toy(), positions=("a",)))
    assert "positions are those within a window" in line
    with pytest.raises(UserError, match="labels of whole images"):
        check_detector(config, dataclasses.replace(toy(), needs=frozenset({"label"})))
    assert WindowOptions().side == 0


def test_tails_are_of_some_windows_of_each_image_in_folds_of_any_size(monkeypatch):
    monkeypatch.setattr(held_out, "WINDOWS_PER_IMAGE", 4)

    def gather(variables, images, drawn, masks, key):
        return {"level": images.astype(jnp.float32).mean((1, 2, 3)), "visible": masks.any((2, 3))}

    def solve(variables, rows, rng):
        return {
            **variables,
            "stats": {"level": rows["level"].max(), "shape": rows["visible"].shape},
        }

    detector = dataclasses.replace(toy(), tails=Tails(gather, solve, 8))
    config, images = config_of(), images_of([(64, 80)] * 3)
    records = records_of([image + np.uint8(30 * i) for i, image in enumerate(images)])
    parts = [
        held_out.tail_rows(detector, {}, some, Geometry((16, 16)), config, fewest=1)
        for some in (records[:2], records[2:])
    ]
    rows = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    assert rows.rows["level"].shape == (3, 4)
    found = held_out.with_tails(detector, {}, rows, 0, np.array([0, 1]))["stats"]
    assert found["level"] == rows.rows["level"][1].max()
    assert found["shape"] == (2 * 4, 2)
    assert (
        held_out.with_tails(detector, {}, rows, 0)["stats"]["level"] == rows.rows["level"][2].max()
    )
