"""Which training images are fitted, which calibrate, and what 'auto' stands for."""

import dataclasses

import numpy as np
import pytest

from tests.factory import tiny_config, tiny_detector, with_fields
from vtadl_jax.config import check_same_run
from vtadl_jax.data.records import Record
from vtadl_jax.errors import UserError
from vtadl_jax.training.division import FEW, Division, decide, divide, images_needed, is_fitted
from vtadl_jax.training.setup import as_decided

FITTED = {"num_train_steps": 0, "num_epochs": 0}
DETECTOR = tiny_detector("position_gaussian")


def config_of(**fields):
    fields = {**FITTED, "data__orientations": "none", **fields}
    return tiny_config(detector="position_gaussian", **fields)


def good(count: int, side: int = 8) -> list[Record]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (count, side, side), np.uint8)
    return [Record(image, None, 0, "good", f"good/{i}.png") for i, image in enumerate(images)]


def divided(count: int, **fields) -> Division:
    config, _ = decide(config_of(**fields), DETECTOR, good(count))
    return divide(config, good(count))


@pytest.mark.parametrize(
    ("count", "folds", "calibrating"),
    [(2, 2, 2), (4, 4, 4), (8, 8, 8), (16, 10, 16), (40, 10, 40), (180, 10, 180), (300, 0, 30)],
)
def test_few_images_are_cross_fitted_and_many_held_out(count, folds, calibrating):
    division = divided(count)
    assert division.num_folds == folds
    assert len(division.holdout) == calibrating
    assert len(division.records) == (count if folds else count - calibrating)


def test_the_rate_decides_how_many_are_enough():
    assert divided(300, eval__image_false_alarm_rate=0.01).num_folds == 10
    assert divided(100, eval__image_false_alarm_rate=0.1).num_folds == 0
    assert images_needed(0.05) == 19


def test_on_and_off_are_followed():
    assert divided(40, eval__cross_fit="off").num_folds == 0
    assert divided(300, eval__cross_fit="on").num_folds == 10


def test_one_image_calibrates_by_moved_copies_or_is_refused():
    division = divided(1)
    assert division.num_folds == 1
    assert len(division.records) == len(division.fitted) == 1
    assert all("moved" in record.name for record in division.holdout)
    with pytest.raises(UserError, match="cannot be taken from 1 images"):
        divided(1, eval__cross_fit="off")


def test_trained_detectors_hold_out():
    detector = dataclasses.replace(DETECTOR, fit=None)
    config = tiny_config(num_train_steps=4)
    decided, lines = decide(config, detector, good(20))
    assert (decided.eval.cross_fit, decided.data.orientations, lines) == ("off", "none", [])
    assert divide(decided, good(20)).num_folds == 0
    assert not is_fitted(tiny_config(detector="position_gaussian", num_epochs=3), DETECTOR)
    with pytest.raises(UserError, match=r"eval\.cross_fit 'on': detector 'vtadl' is trained"):
        decide(with_fields(config, eval__cross_fit="on"), detector, good(20))
    with pytest.raises(UserError, match=r"data\.orientations 'mirror'.*use data\.augment"):
        decide(with_fields(config, data__orientations="mirror"), detector, good(20))


def test_defective_images_are_fitted_and_never_left_out():
    train = [*good(4), dataclasses.replace(good(1)[0], label=1, name="bad")]
    config, _ = decide(config_of(), DETECTOR, train)
    division = divide(config, train)
    assert len(division.records) == 5
    assert [record.label for record in division.holdout] == [0] * 4


def test_copies_follow_their_image():
    division = divided(3, data__orientations="rot180")
    names = [record.name for record in division.fitted]
    assert names[:2] == ["good/0.png", "good/0.png (turned by 180°)"]
    assert len(names) == 6
    assert len(division.with_copies(division.records[:1])) == 2


def test_auto_tests_few_images_and_says_what_it_found():
    config, [line] = decide(config_of(data__orientations="auto"), DETECTOR, good(4, 64))
    assert line.startswith("orientations: ")
    assert "pairs; normal up to 70 %" in line
    assert config.data.orientations != "auto"
    config, [line] = decide(config_of(data__orientations="auto"), DETECTOR, good(1))
    assert "one good image does not show" in line
    assert config.data.orientations == "none"
    config, lines = decide(config_of(data__orientations="auto"), DETECTOR, good(FEW + 1))
    assert (config.data.orientations, lines) == ("none", [])
    _, [line] = decide(config_of(data__orientations="any"), DETECTOR, good(FEW + 1))
    assert line == "orientations: 11 turned copies of each image"


def test_auto_stands_for_what_the_stored_run_decided(tmp_path):
    auto = config_of(data__orientations="auto")
    stored = config_of(data__orientations="mirror,rot180", eval__cross_fit="on")
    check_same_run(auto, stored, tmp_path)
    found = as_decided(auto, stored)
    assert (found.data.orientations, found.eval.cross_fit) == ("mirror,rot180", "on")
    with pytest.raises(UserError, match=r"eval\.cross_fit is 'on' there and 'off' here"):
        check_same_run(with_fields(auto, eval__cross_fit="off"), stored, tmp_path)
    earlier = as_decided(auto, auto)  # a run without these fields
    assert (earlier.data.orientations, earlier.eval.cross_fit) == ("none", "off")
