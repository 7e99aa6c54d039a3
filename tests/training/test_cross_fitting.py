"""Folds: every good image is left out once, and no fit sees what it leaves out."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from tests.factory import tiny_config
from vtadl_jax.data.records import Record
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.data.turned import turned_copies
from vtadl_jax.detectors.contract import Detector, Fit, Scores
from vtadl_jax.runtime.console import say
from vtadl_jax.training import cross_fitting
from vtadl_jax.training.cross_fitting import fit_folds, folds
from vtadl_jax.training.division import Division

SIZE = (8, 8)
TRACES: list[int] = []


def records(count: int) -> tuple[Record, ...]:
    return tuple(
        Record(np.full(SIZE, i, np.uint8), None, 0, "good", f"{i}.png") for i in range(count)
    )


def gather(variables, images, key):
    TRACES.append(1)
    return {"level": images.astype(jnp.float32).mean((1, 2, 3))}


def solve(variables, rows, rng):
    return {**variables, "stats": {"seen": sorted(rows["level"].tolist())}}


DETECTOR = Detector(lambda key: {}, lambda v, x: Scores(x), ("a",), (1.0,), fit=Fit(gather, solve))


def fitted(division: Division, **fields):
    config = tiny_config(detector="position_gaussian", data__channels=1, **fields)
    initial = {"params": {}, "stats": {}, "frozen": {}}
    return fit_folds(DETECTOR, initial, division, Geometry(SIZE), config)


@pytest.mark.parametrize(("count", "number"), [(2, 2), (7, 7), (16, 10), (40, 10), (3, 10)])
def test_each_image_is_left_out_once(count, number):
    found = folds(count, number)
    assert len(found) == min(count, number)
    assert sorted(np.concatenate(found).tolist()) == list(range(count))
    assert max(map(len, found)) - min(map(len, found)) <= 1


@pytest.mark.parametrize("kept", [0, 2**30], ids=["gathered again", "kept"])
def test_a_fold_is_fitted_to_the_other_images(monkeypatch, capsys, kept):
    monkeypatch.setattr(cross_fitting, "KEPT_BYTES", kept)
    TRACES.clear()
    for positions, variables in fitted(Division(records(13), records(13), 5)):
        others = sorted(set(range(13)) - set(positions.tolist()))
        assert variables["stats"]["seen"] == others
    assert len(TRACES) <= 1  # one compiled pass for all folds; none if the other case made it
    assert "cross-fitted to 13 good images in 5 folds, each without a part" in (
        capsys.readouterr().err
    )


def test_copies_and_defective_images_belong_to_the_right_side():
    good = records(3)
    bad = dataclasses.replace(good[0], image=np.full(SIZE, 99, np.uint8), label=1, name="bad")
    copies = {record.name: turned_copies(record, [(False, 90)]) for record in good}
    found = fitted(Division((*good, bad), good, 3, copies), eval__batch_size=2)
    for positions, variables in found:
        others = [i for i in range(3) if i not in positions]
        assert variables["stats"]["seen"] == [*sorted(2 * others), 99]


def test_what_a_solution_says_is_said_once(capsys):
    def talking(variables, rows, rng):
        say("solved")
        return solve(variables, rows, rng)

    detector = dataclasses.replace(DETECTOR, fit=Fit(gather, talking))
    config = tiny_config(detector="position_gaussian", data__channels=1)
    initial = {"params": {}, "stats": {}, "frozen": {}}
    fit_folds(detector, initial, Division(records(3), records(3), 3), Geometry(SIZE), config)
    said = capsys.readouterr().err
    assert "solved" not in said
    assert "cross-fitted to 3 good images" in said
