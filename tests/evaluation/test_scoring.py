"""Scores of test images: at the original size maps fit masks to the pixel; without maps, none."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tests.factory import tiny_config
from vtadl_jax.data.records import Record
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.detectors.contract import Detector, Scores
from vtadl_jax.evaluation.scoring import Evaluator
from vtadl_jax.runtime import sharding

HEIGHT, WIDTH, DEFECT = 90, 150, 20
CORNERS = [(0, 0), (0, WIDTH - DEFECT), (HEIGHT - DEFECT, 0), (HEIGHT - DEFECT, WIDTH - DEFECT)]


def brightness_detector() -> Detector:
    """A detector whose score is the brightness."""

    def score(_, images):
        bright = images.astype(jnp.float32).mean(-1) / 255
        return Scores(bright.max((1, 2))[:, None], bright)

    return Detector(lambda key: {}, score, ("brightest",), (1.0,))


def draw(folder, corner):
    """A dark image with a bright square, and its mask."""
    top, left = corner
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[top : top + DEFECT, left : left + DEFECT] = 255
    paths = [folder / f"{kind}_{top}_{left}.png" for kind in ("image", "mask")]
    for path in paths:
        Image.fromarray(mask).save(path)
    return Record(paths[0], paths[1], 1, "square", paths[0].name)


@pytest.mark.parametrize(
    ("fit", "resize"),
    [
        ("stretch", None),
        ("pad", None),
        ("crop", (80, 128)),  # scales to 80 × 133, then crops to 64 × 120
        ("stretch", (72, 132)),
    ],
)
def test_maps_lie_on_the_masks_at_every_corner(tmp_path, fit, resize):
    size = (64, 120)
    config = tiny_config(image_size=size, data__fit=fit, eval__original_size=True, mesh__data=1)
    geometry = Geometry(size, resize, fit)
    evaluator = Evaluator(config, brightness_detector(), geometry, sharding.make_mesh(1))
    records = [draw(tmp_path, corner) for corner in CORNERS]
    outputs = evaluator.run({}, records, "evaluate")
    whole = np.ones(size, np.float32)
    for anomaly_map, mask, corner in zip(outputs.maps, outputs.masks, CORNERS, strict=True):
        assert anomaly_map.shape == mask.shape == (HEIGHT, WIDTH)
        assert geometry.invert(whole, mask.shape).shape == mask.shape
        found, true = anomaly_map > 0.5, mask > 0
        overlap = (found & true).sum() / (found | true).sum()
        assert overlap > 0.85, corner
        centres = [np.argwhere(area).mean(0) for area in (found, true)]
        np.testing.assert_allclose(*centres, atol=1.0)


def test_padding_counts_only_at_the_networks_size(tmp_path):
    records = [draw(tmp_path, CORNERS[0])]
    sizes = []
    for original in (False, True):
        config = tiny_config(data__fit="pad", eval__original_size=original, mesh__data=1)
        geometry = Geometry((32, 32), None, "pad")
        evaluator = Evaluator(config, brightness_detector(), geometry, sharding.make_mesh(1))
        sizes.append(evaluator.run({}, records, "evaluate").masks[0].shape)
    assert sizes == [(32, 32), (HEIGHT, WIDTH)]


def test_normal_images_have_maps_of_their_own_size_too(tmp_path):
    path = tmp_path / "good.png"
    Image.fromarray(np.zeros((17, 40), np.uint8)).save(path)
    records = [Record(path, None, 0, "good", "good.png"), draw(tmp_path, CORNERS[1])]
    config = tiny_config(eval__original_size=True, mesh__data=1)
    evaluator = Evaluator(config, brightness_detector(), Geometry((32, 32)), sharding.make_mesh(1))
    outputs = evaluator.run({}, records, "evaluate")
    assert [m.shape for m in outputs.maps] == [(17, 40), (HEIGHT, WIDTH)]
    assert outputs.masks[0].sum() == 0


@pytest.mark.parametrize("original", [False, True])
def test_without_maps_there_are_terms_labels_and_masks(tmp_path, original):
    records = [draw(tmp_path, corner) for corner in CORNERS[:3]]
    config = tiny_config(eval__batch_size=2, eval__original_size=original, mesh__data=1)
    detector = brightness_detector()
    whole_image = dataclasses.replace(
        detector, score=lambda v, images: Scores(detector.score(v, images).terms)
    )
    evaluator = Evaluator(config, whole_image, Geometry((32, 32)), sharding.make_mesh(1))
    outputs = evaluator.run({}, records, "evaluate")
    assert outputs.terms.shape == (3, 1)
    assert outputs.maps == []
    assert [mask.shape for mask in outputs.masks] == [(32, 32)] * 3
    assert outputs.with_truth() == ([], [])
    assert evaluator.calibrate({}, records, step=3).pixel_threshold is None
