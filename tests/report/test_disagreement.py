"""Where the experts of a detector disagree: facts about images with known scores and maps."""

import numpy as np
import pytest

from vtadl_jax.evaluation.calibration import calibrate
from vtadl_jax.report.disagreement import Panel, sentence

NAMES = ("left", "right", "useless")
WEIGHTS = {"left": 0.6, "right": 0.39, "useless": 0.01}
GOOD = np.tile(np.arange(40.0)[:, None], (1, 3))


def make_panel(good=GOOD, weights=WEIGHTS):
    names = tuple(weights)
    terms = good[:, : len(names)]
    return Panel(weights, calibrate(names, terms, None, weights=(1.0,) * len(names), keep=names))


def spot(column):
    """A map that is highest around a column."""
    return -np.abs(np.arange(50) - column)[None] * np.ones((40, 1)) + np.arange(40)[:, None] / 100


MAPS = {"left": spot(5), "right": spot(45), "useless": spot(25)}


@pytest.mark.parametrize(
    ("scores", "maps", "told"),
    [
        ((3, 3, 3), MAPS, ""),
        ((60, 3, 3), MAPS, "left alone flags it"),
        ((60, 60, 3), MAPS, "left and right flag different places"),
        ((60, 60, 60), {**MAPS, "right": spot(5), "useless": spot(30)}, ""),
        ((3, 3, 60), MAPS, ""),  # the verdict leaves it out
        ((60, 3, 60), MAPS, "left alone flags it"),
    ],
)
def test_disagreements(scores, maps, told):
    opinions, found = make_panel().judge(np.array(scores), maps)
    assert found == told
    assert [one.flags for one in opinions] == [score == 60 for score in scores]
    assert [one.counts for one in opinions] == [True, True, False]
    assert opinions[0].p_value == pytest.approx(1 / 41 if scores[0] == 60 else 38 / 41)


def test_the_summary_counts_every_image():
    panel = make_panel()
    for scores, defective in (((60, 3, 3), True), ((3, 60, 3), False), ((60, 60, 3), True)):
        panel.judge(np.array(scores), MAPS, defective)
    panel.judge(np.array((3, 3, 60)), MAPS)
    found = panel.summary()
    assert found["images"] == 4
    assert (found["alone"], found["different_places"]) == (2, 1)
    left = {"weight": 0.6, "flagged": 2, "alone": 1, "alone_defective": 1}
    assert found["by_expert"]["left"] == left
    assert found["by_expert"]["useless"]["flagged"] == 1
    assert sentence(found) == (
        "in 2 of 4 images one expert alone reaches its threshold (left 1, right 1), in 1 experts "
        "flag different places; useless is not counted, as the verdict leaves it out"
    )


def test_the_sentence_where_there_is_nothing_to_tell():
    assert sentence({}) == ""
    alone = make_panel(weights={"left": 1.0})
    assert alone.judge(np.array([60.0]), {"left": spot(5)})[1] == ""
    assert sentence(alone.summary()) == ""
    agreeing = make_panel(weights={"left": 0.5, "right": 0.5})
    agreeing.judge(np.array([1.0, 2.0]), MAPS)
    assert sentence(agreeing.summary()) == "the experts agree in all 1 image"


def test_without_good_scores_no_expert_flags():
    names = tuple(WEIGHTS)
    calibration = calibrate(names, GOOD, None, weights=(1.0,) * 3)  # as of an older run
    opinions, found = Panel(WEIGHTS, calibration).judge(np.array([60.0, 60, 60]), MAPS)
    assert found == ""
    assert {(one.p_value, one.flags) for one in opinions} == {(None, False)}
