"""Metrics of packed images equal those of the pixels inside."""

import numpy as np
import pytest

from vtadl_jax import metrics

RNG = np.random.default_rng(3)


def drawn(count=4, height=14, width=17):
    maps = [np.round(RNG.normal(size=(height, width)), 1) for _ in range(count)]
    masks = [(RNG.random((height, width)) < 0.15).astype(np.uint8) for _ in range(count)]
    return maps, masks


def test_a_rectangle_is_as_the_cut_images():
    maps, masks = drawn()
    inside = np.zeros((14, 17), bool)
    inside[2:11, 3:15] = True
    cut = [x[2:11, 3:15] for x in maps], [x[2:11, 3:15] for x in masks]
    pairs = [metrics.packed(x, y, inside) for x, y in zip(maps, masks, strict=True)]
    ours = [x for x, _ in pairs], [y for _, y in pairs]
    assert metrics.aupro(*ours) == pytest.approx(metrics.aupro(*cut), abs=1e-12)
    names = ["a", "b", "a", "b"]
    one, two = (metrics.by_defect_pixels(*images, names) for images in (ours, cut))
    for kind in one:
        assert one[kind] == pytest.approx(two[kind], abs=1e-12)
    assert metrics.detected_regions(*ours, 0.5) == metrics.detected_regions(*cut, 0.5)

    def rows(images):
        found = metrics.region_table(*images, 0.3)
        return sorted((r.image, r.area, r.max_score, r.overlap) for r in found)

    assert rows(ours) == rows(cut)


def test_pixels_outside_have_no_part():
    maps, masks = drawn(1)
    inside = RNG.random((14, 17)) < 0.5
    other = np.where(inside, maps[0], 1e6), np.where(inside, masks[0], 1 - masks[0])
    for one, two in zip(
        metrics.packed(maps[0], masks[0], inside), metrics.packed(*other, inside), strict=True
    ):
        np.testing.assert_array_equal(one, two)
    assert metrics.packed(maps[0], masks[0], inside)[0].shape == (1, inside.sum())


def test_a_region_cut_by_the_edge_of_the_area_is_two():
    mask = np.zeros((5, 9), np.uint8)
    mask[2] = 1
    inside = np.ones((5, 9), bool)
    inside[:, 4] = False
    scores, packed = metrics.packed(np.zeros((5, 9)), mask, inside)
    assert metrics.label_regions([packed])[1] == 2
    assert scores.shape == (1, 40)


def test_faults():
    with pytest.raises(ValueError, match="differ"):
        metrics.packed(np.zeros((2, 2)), np.zeros((2, 3)), np.ones((2, 2), bool))
    with pytest.raises(ValueError, match="no pixel"):
        metrics.packed(np.zeros((2, 2)), np.zeros((2, 2)), np.zeros((2, 2), bool))
