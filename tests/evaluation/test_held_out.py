"""Cross-fitting of tails: no image is scored with tails that know it, and all are scored."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from tests.factory import tiny_config, tiny_detector
from vtadl_jax.data.sources import load_splits
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.detectors.contract import Scores, Tails
from vtadl_jax.evaluation.held_out import defects_per_image, draw_onto, folds
from vtadl_jax.evaluation.scoring import Evaluator
from vtadl_jax.runtime import sharding


@pytest.mark.parametrize("count", [2, 4, 5, 13])
def test_folds_score_each_image_once_and_never_fit_to_it(count):
    seen = []
    for scored, others in folds(count):
        assert not set(scored) & set(others)
        assert len(scored) + len(others) == count
        seen += scored.tolist()
    assert sorted(seen) == list(range(count))


def test_a_single_image_is_fitted_to_itself():
    [(scored, others)] = folds(1)
    assert scored.tolist() == others.tolist() == [0]


def test_held_out_images_are_scored_with_tails_of_the_others(dataset):
    """A detector whose tails are the brightest image it knows; its score is the excess over it."""

    def level(images):
        return images.astype(jnp.float32).mean((1, 2, 3))

    detector = dataclasses.replace(
        tiny_detector("position_gaussian"),
        score=lambda variables, images: Scores(
            (level(images) - variables["stats"]["brightest"])[:, None], None
        ),
        score_terms=("excess",),
        term_weights=(1.0,),
        tails=Tails(
            lambda variables, images, drawn, masks, key: level(images),
            lambda variables, rows, rng: {**variables, "stats": {"brightest": rows.max()}},
        ),
    )
    config = tiny_config(dataset, detector="position_gaussian", data__category="plate")
    evaluator = Evaluator(config, detector, Geometry(config.image_size), sharding.make_mesh(1))
    holdout = load_splits(config).train[:7]
    variables = {"params": {}, "stats": {"brightest": np.float32(0)}, "frozen": {}}
    levels = evaluator.run(variables, holdout, "level").terms[:, 0]
    rows = evaluator.tail_rows(variables, holdout)
    found = evaluator.as_new(variables, holdout, rows).terms[:, 0]
    for scored, others in folds(7):
        np.testing.assert_allclose(found[scored], levels[scored] - levels[others].max(), rtol=1e-5)
    assert evaluator.fit_tails(variables, rows)["stats"]["brightest"] == levels.max()


def test_drawn_defects_change_what_their_mask_says_and_are_the_same_again():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 64, 64, 3)).astype(np.uint8)
    images[2] = 128  # nothing can be seen of a piece moved on one color; kinds take turns
    drawn, masks = draw_onto(images, np.array([4, 5, 6]), 4, 0)
    assert drawn.shape == (3, 4, 64, 64, 3)
    changed = (drawn != images[:, None]).any(-1)
    assert masks[:2].any((2, 3)).all()
    assert not (changed & ~masks).mean() > 0.02  # faint edges of a defect are outside its mask
    np.testing.assert_array_equal(draw_onto(images, np.array([4, 5, 6]), 4, 0)[0], drawn)
    assert not draw_onto(images, np.array([4, 5, -1]), 4, 0)[1][2].any()  # padding


@pytest.mark.parametrize(
    ("wanted", "images", "each"), [(64, 8, 8), (64, 100, 1), (64, 2, 8), (0, 3, 0)]
)
def test_defects_are_spread_over_the_held_out_images(wanted, images, each):
    tails = Tails(lambda *_: None, lambda *_: {}, wanted)
    assert defects_per_image(tails, images) == each
