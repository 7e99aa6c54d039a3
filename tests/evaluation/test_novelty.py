"""Images unlike all good ones are told, with the reason; new good ones are not."""

import json

import numpy as np
import pytest

from vtadl_jax.evaluation import novelty
from vtadl_jax.evaluation.calibration import CREDIT_LIMIT, Calibration, calibrate
from vtadl_jax.evaluation.novelty import describe, fit_novelty


def plate(seed, shift=(0, 0), light=1.0):
    """A grey plate with a hole at one side, in slightly different light and place: [64, 64, 1]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64]
    top, left = 20 + shift[0] + rng.uniform(-1, 1), 40 + shift[1] + rng.uniform(-1, 1)
    values = np.where(np.hypot(y - top, x - left) < 12, 0.25, 0.6) * light
    values = values * rng.uniform(0.97, 1.03) + rng.normal(0, 0.02, (64, 64))
    return np.clip(np.rint(255 * values), 0, 255).astype(np.uint8)[..., None]


GOOD = np.stack([plate(i) for i in range(30)])
FITTED = fit_novelty(describe(GOOD))
blurred = np.tile(plate(99).reshape(8, 8, 8, 8).mean((1, 3))[..., None, None], (1, 1, 8, 8))
FRAMES = {
    "black": (np.zeros((64, 64, 1), np.uint8), "darker than the darkest"),
    "white": (np.full((64, 64, 1), 255, np.uint8), "over-exposed"),
    "noise": (np.random.default_rng(0).integers(0, 256, (64, 64, 1), np.uint8), "noisier"),
    "over-exposed": (plate(99, light=1.9), "over-exposed"),
    "dark": (plate(99, light=0.5), "darker than the darkest"),
    "flat": (np.full((64, 64, 1), 140, np.uint8), "flatter than the flattest"),
    "shifted": (plate(99, shift=(20, -20)), "coarse picture unlike that of any"),
    "turned": (plate(99)[::-1, ::-1], "coarse picture unlike that of any"),
    "negative": (255 - plate(99), "coarse picture unlike that of any"),
    "half": (np.where(np.arange(64)[:, None, None] < 32, 0, plate(99)), "black pixels"),
    "blurred": (
        blurred.transpose(0, 2, 1, 3).reshape(64, 64, 1).astype(np.uint8),
        "more blurred than any",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_unlike_all_good_ones_is_told_with_its_reason(name):
    image, reason = FRAMES[name]
    found = FITTED.reason(describe(image[None].astype(np.uint8))[0])
    assert found is not None
    assert reason in found
    assert "training image" in found


def test_new_good_images_and_small_changes_of_light_are_inside():
    new = np.stack([plate(100 + i, light=light) for i, light in enumerate([1, 0.9, 1.1] * 20)])
    assert FITTED.amounts(describe(new)).max() < 1
    scratched = plate(200)
    scratched[30:32, 10:50] = 255  # a defect is the detector's to find
    assert FITTED.reason(describe(scratched[None])[0]) is None


def test_colours_unlike_all_good_ones_are_told():
    good = np.repeat(GOOD, 3, -1)
    red = good[:1].astype(int) * np.array([1.4, 0.8, 0.8])
    reason = fit_novelty(describe(good)).reason(describe(red.astype(np.uint8))[0])
    assert "redder than the reddest" in reason
    np.testing.assert_allclose(describe(good), describe(GOOD), atol=1e-6)


def test_a_description_does_not_depend_on_the_batch():
    together = describe(GOOD)
    for image, description in zip(GOOD, together, strict=True):
        np.testing.assert_array_equal(describe(image[None])[0], description)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (8, 8), (9, 70)])
def test_cells_are_means_of_parts_of_any_image(shape):
    grey = np.random.default_rng(0).integers(0, 256, (2, *shape))
    rows = np.array_split(np.arange(shape[0]), min(8, shape[0]))
    columns = np.array_split(np.arange(shape[1]), min(8, shape[1]))
    found = novelty._cell_means(grey)
    assert found.shape == (2, len(rows) * len(columns))
    np.testing.assert_allclose(
        novelty._cell_means(np.full((1, *shape), 7)), np.full((1, found.shape[1]), 7.0)
    )
    if shape == (8, 8):
        np.testing.assert_array_equal(found, grey.reshape(2, -1))


def test_few_good_images_have_wider_limits():
    few = fit_novelty(describe(GOOD[:3]))
    new = describe(np.stack([plate(300 + i) for i in range(20)]))
    assert few.amounts(new).max() < 1
    assert few.reason(describe(FRAMES["black"][0][None])[0])
    one = fit_novelty(describe(GOOD[:1]))
    assert one.amounts(new).max() < 1


def test_a_selection_is_spread_over_all_images():
    assert list(novelty.spread_over(3)) == [0, 1, 2]
    found = novelty.spread_over(10_000)
    assert len(found) == novelty.MAX_IMAGES
    assert (found[0], found[-1]) == (0, 9_999)


def calibrated(weights=(1.0, 1.0, -1.0)) -> Calibration:
    terms = np.random.default_rng(0).normal(size=(20, len(weights)))
    return calibrate("abc", terms, None, weights=weights, descriptions=describe(GOOD))


def test_an_image_unlike_all_good_ones_is_defective_whatever_its_terms():
    calibration = calibrated()
    images = np.stack([FRAMES[name][0] for name in ("black", "dark")]).astype(np.uint8)
    descriptions = describe(np.concatenate([images, GOOD[:1]]))
    terms = np.full((3, 3), -50.0)
    scores = calibration.image_scores(terms, descriptions)
    assert (scores[:2] >= calibration.image_threshold).all()
    assert scores[0] > scores[1]  # farther outside
    assert scores[2] == calibration.image_scores(terms)[2]
    np.testing.assert_array_equal(calibration.unlike(descriptions), [True, True, False])


def test_a_term_of_negative_weight_counts_off_no_more_than_the_limit():
    calibration = calibrated()
    mean, spread = np.array(calibration.mean), np.array(calibration.spread)
    z = np.array([[20.0, 20.0, level] for level in (0, 2, CREDIT_LIMIT, 1000)])
    scores = calibration.image_scores(mean + spread * z)
    np.testing.assert_allclose(scores, [40, 38, 40 - CREDIT_LIMIT, 40 - CREDIT_LIMIT])


def test_novelty_survives_json_and_older_calibrations_have_none():
    calibration = calibrated()
    stored = json.loads(json.dumps(calibration.to_dict()))
    again = Calibration.from_dict(stored)
    described = describe(np.stack([plate(5), plate(6, light=0.4)]))
    np.testing.assert_array_equal(
        again.novelty.amounts(described), calibration.novelty.amounts(described)
    )
    del stored["novelty"], stored["credit_limit"]
    old = Calibration.from_dict(stored)
    assert not old.unlike(described).any()
    assert old.reason(described[1]) == ""
    assert old.image_scores(np.array([[0, 0, 1e6]]))[0] < -1e5


def test_copies_are_known_but_do_not_narrow_the_limits():
    few, turned = describe(GOOD[:4]), describe(np.rot90(GOOD[:4], 2, (1, 2)))
    plain, wide = fit_novelty(few), fit_novelty(few, turned)
    assert (wide.num_images, wide.num_originals, wide.num_copies) == (8, 4, 4)
    assert wide.distance == plain.distance  # a copy near its original says nothing
    frame = describe(FRAMES["turned"][0][None])
    assert plain.amounts(frame)[0, -1] > 1
    assert wide.amounts(frame)[0, -1] < 1
    assert novelty.Novelty.from_dict(json.loads(json.dumps(wide.to_dict()))) == wide
    stored = plain.to_dict()
    del stored["num_copies"]  # as earlier versions wrote it
    assert novelty.Novelty.from_dict(stored) == plain


def test_no_more_copies_are_kept_than_there_is_room_for():
    many = np.repeat(describe(GOOD[:8]), 200, 0)
    assert fit_novelty(describe(GOOD[:4]), many).num_images == novelty.MAX_IMAGES
