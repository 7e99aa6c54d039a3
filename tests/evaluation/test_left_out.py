"""Calibration by images that each detector does not know."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from tests.factory import tiny_config
from vtadl_jax.data.records import Record
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.data.turned import moved_copies, turned_copies
from vtadl_jax.detectors.contract import Detector, Fit, Scores, Tails
from vtadl_jax.evaluation.calibration import COPIES, CROSS_FIT
from vtadl_jax.evaluation.left_out import LeftOut
from vtadl_jax.evaluation.scoring import Evaluator
from vtadl_jax.runtime import sharding
from vtadl_jax.training.cross_fitting import folds
from vtadl_jax.training.division import Division
from vtadl_jax.training.fitting import fit_variables

SIZE = (8, 8)
LEVELS = np.array([10, 50, 52, 90, 130, 131, 160])


def level(images):
    return images.astype(jnp.float32).mean((1, 2, 3))


def score(variables, images):
    """The distance from the nearest known level, beyond the offset of the tails."""
    known, values = variables["stats"]["known"], level(images)
    distance = jnp.abs(values[:, None] - known).min(-1) - variables["stats"]["offset"]
    maps = jnp.broadcast_to(distance[:, None, None], (len(images), *SIZE))
    return Scores(distance[:, None], maps)


def solve(variables, rows, rng):
    known = np.resize(np.float32(rows), 64)  # a bank of fixed size
    return {**variables, "stats": {**variables["stats"], "known": known}}


FIT = Fit(lambda variables, images, key: level(images), solve)
TAILS = Tails(
    lambda variables, images, drawn, masks, key: score(variables, images).terms[:, 0],
    lambda variables, rows, rng: {
        **variables,
        "stats": {**variables["stats"], "offset": np.float32(rows.max())},
    },
)
DETECTOR = Detector(lambda key: {}, score, ("distance",), (1.0,), fit=FIT, tails=None)
INITIAL = {
    "params": {},
    "stats": {"known": np.zeros(64, np.float32), "offset": np.float32(0)},
    "frozen": {},
}


def records(levels=LEVELS) -> tuple[Record, ...]:
    return tuple(
        Record(np.full(SIZE, v, np.uint8), None, 0, "good", f"{i}.png")
        for i, v in enumerate(levels)
    )


def left_out_of(division: Division, detector: Detector = DETECTOR):
    config = tiny_config(detector="position_gaussian", data__channels=1, mesh__data=1)
    geometry = Geometry(SIZE)
    evaluator = Evaluator(config, detector, geometry, sharding.make_mesh(1))
    fitted = fit_variables(detector, INITIAL, division.fitted, geometry, config)
    return evaluator, LeftOut.of(evaluator, INITIAL, fitted, division)


def distances_without(num_folds: int) -> np.ndarray:
    """Each level's distance from the nearest level of other folds."""
    found = np.zeros(len(LEVELS))
    for positions in folds(len(LEVELS), num_folds):
        others = np.delete(LEVELS, positions)
        for i in positions:
            found[i] = np.abs(others - LEVELS[i]).min()
    return found


@pytest.mark.parametrize("num_folds", [3, 7])
def test_images_are_scored_by_fits_without_them(num_folds):
    division = Division(records(), records(), num_folds)
    evaluator, left_out = left_out_of(division)
    outputs = left_out.run(evaluator, "test")
    np.testing.assert_allclose(outputs.terms[:, 0], distances_without(num_folds))
    np.testing.assert_array_equal(outputs.descriptions[:, 0], np.float32(LEVELS / 255))
    assert (evaluator.run(left_out.fitted, records(), "known").terms == 0).all()


def test_the_calibration_comes_from_these_scores():
    evaluator, left_out = left_out_of(Division(records(), records(), 7))
    calibration = left_out.calibrate(evaluator, 3)
    distances = distances_without(7)
    assert (calibration.calibrated_by, calibration.num_folds) == (CROSS_FIT, 7)
    assert (calibration.num_images, calibration.step) == (7, 3)
    scores = calibration.image_scores(distances[:, None])
    np.testing.assert_allclose(calibration.good_scores, np.sort(scores))
    assert calibration.image_threshold == pytest.approx(scores.max(), rel=2e-5)
    assert calibration.image_threshold > scores.max()
    # The largest score of a good image is one of eight that are equally likely.
    assert calibration.p_value(calibration.image_threshold) == pytest.approx(1 / 8)
    assert calibration.pixel_threshold == pytest.approx(distances.max())
    assert calibration.novelty.num_images == 7  # each image once
    assert calibration.novelty.num_copies == 0


def test_batches_tell_the_place_of_each_image():
    evaluator, left_out = left_out_of(Division(records(), records(), 3))
    seen = {}

    def tell(batch, scores):
        seen.update(zip(batch["index"].tolist(), scores.terms[:, 0].tolist(), strict=True))

    left_out.run(evaluator, "test", tell)
    np.testing.assert_allclose([seen[i] for i in range(7)], distances_without(3))


def test_tails_are_of_the_other_folds():
    detector = dataclasses.replace(DETECTOR, tails=TAILS)
    evaluator, left_out = left_out_of(Division(records(), records(), 3), detector)
    distances = distances_without(3)
    expected = np.zeros(7)
    for positions in folds(7, 3):
        expected[positions] = distances[positions] - np.delete(distances, positions).max()
    np.testing.assert_allclose(left_out.run(evaluator, "test").terms[:, 0], expected)
    assert left_out.fitted["stats"]["offset"] == distances.max()


@pytest.mark.parametrize("tails", [None, TAILS])
def test_a_single_image_has_scores_but_no_p_values(tails):
    image = Record(np.tile(np.uint8([10, 200]), (8, 4)), None, 0, "good", "a.png")
    division = Division((image,), moved_copies(image, 0), 1)
    evaluator, left_out = left_out_of(division, dataclasses.replace(DETECTOR, tails=tails))
    calibration = left_out.calibrate(evaluator, 0)
    assert (calibration.calibrated_by, calibration.num_images) == (COPIES, 0)
    assert calibration.p_value(0.0) is None
    assert np.isfinite([calibration.image_threshold, calibration.pixel_threshold]).all()
    assert calibration.fault() is None
    assert calibration.novelty.num_originals == 1


def test_turned_copies_widen_what_is_known_but_not_the_spread():
    copies = {record.name: turned_copies(record, [(False, 90)]) for record in records()}
    evaluator, left_out = left_out_of(Division(records(), records(), 7, copies))
    novelty = left_out.calibrate(evaluator, 0).novelty
    assert (novelty.num_images, novelty.num_copies) == (14, 7)
    plain = left_out_of(Division(records(), records(), 7))
    assert novelty.distance == plain[1].calibrate(plain[0], 0).novelty.distance
