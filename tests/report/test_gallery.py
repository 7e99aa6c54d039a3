"""Overlays of an evaluation: a file for each image, and no other file is touched."""

import numpy as np
import pytest

from tests.factory import tiny_config
from vtadl_jax.data.records import Record
from vtadl_jax.detectors.contract import Scores
from vtadl_jax.evaluation.calibration import calibrate
from vtadl_jax.evaluation.novelty import describe
from vtadl_jax.evaluation.results import Results
from vtadl_jax.report.folder import draft
from vtadl_jax.report.gallery import Gallery
from vtadl_jax.report.tables import category_table, to_csv

NAMES = [
    "test/good/0.png",
    "test/good/0.bmp",
    "test/a/b_1.png",
    "test/a_b/1.png",
    "test/t\udcef.png",
]


@pytest.fixture
def gallery_in(tmp_path):
    test = [Record(np.zeros((8, 8), np.uint8), None, 0, "good", name) for name in NAMES]
    terms = np.array([[0.1], [0.2], [0.3]])
    calibration = calibrate(("t",), terms, terms, weights=(1.0,))

    def make(folder=tmp_path, **fields):
        return Gallery(folder, test, calibration, tiny_config(**fields))

    return make


def draw(gallery):
    count = len(NAMES)
    zeros = np.zeros((count, 8, 8), np.uint8)
    batch = {
        "index": np.arange(count),
        "image": zeros[..., None],
        "mask": zeros,
        "has_mask": np.ones(count, bool),
        "description": describe(zeros[..., None]),
    }
    gallery.add(batch, Scores(np.full((count, 1), 0.2), zeros.astype(np.float32), None))
    gallery.finish()
    return gallery


def test_every_image_has_an_overlay_of_its_own(gallery_in, tmp_path):
    gallery = draw(gallery_in())
    files = {path.name for path in (tmp_path / "overlays").iterdir()}
    assert files == set(gallery.overlays)
    assert len(files) == len(NAMES)
    assert gallery.cards[-1].name == "t\\xef.png"


def test_another_evaluation_removes_its_own_overlays_only(gallery_in, tmp_path):
    with draft(tmp_path) as folder:
        first = draw(gallery_in(folder))
    (tmp_path / "overlays/mine.png").write_bytes(b"kept")
    with draft(tmp_path) as folder:
        second = draw(gallery_in(folder, eval__num_pictures=2))
    kept = {name for name in second.overlays if name}
    assert len(kept) == 2 < len(first.overlays)
    assert {path.name for path in (tmp_path / "overlays").iterdir()} == {*kept, "mine.png"}


def test_a_category_is_no_formula():
    assert "'=1+1," in to_csv(category_table({"=1+1": Results(step=1)}))
