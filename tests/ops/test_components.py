"""Components of masks against scipy's, and the strongest ones against the host's regions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from vtadl_jax.evaluation.regions import find_regions
from vtadl_jax.ops.components import label_components, strongest_components

EIGHT = np.ones((3, 3), bool)


def spiral(side):
    """A snake one pixel wide from the border to the middle: the longest way through a square."""
    mask, row, column, step = np.zeros((side, side), bool), 0, 0, (0, 1)
    length = side
    while length > 0:
        for _ in range(length):
            mask[row, column] = True
            row, column = row + step[0], column + step[1]
        row, column = row - step[0], column - step[1]
        step = (step[1], -step[0])
        row, column, length = row + step[0], column + step[1], length - (1 if step[0] == 0 else 2)
    return mask


def masks():
    rng = np.random.default_rng(0)
    yield "nothing", np.zeros((5, 7), bool)
    yield "all", np.ones((6, 3), bool)
    yield "one pixel", np.ones((1, 1), bool)
    yield "spiral", spiral(41)
    yield "diagonals", np.indices((20, 30)).sum(0) % 5 == 0
    for part in (0.05, 0.3, 0.4, 0.6):
        yield f"noise {part}", rng.random((37, 53)) < part


@pytest.mark.parametrize("mask", [pytest.param(m, id=name) for name, m in masks()])
def test_labels_divide_a_mask_as_scipys(mask):
    labels = np.asarray(jax.jit(label_components)(mask))
    expected, count = ndimage.label(mask, EIGHT)
    assert (labels[~mask] == mask.size).all()
    pairs = set(zip(labels[mask].tolist(), expected[mask].tolist(), strict=True))
    assert len(pairs) == count == len({a for a, _ in pairs}) == len({b for _, b in pairs})


@pytest.mark.parametrize("levels", [2, 5, 10**6])
@pytest.mark.parametrize("mask", [pytest.param(m, id=name) for name, m in masks()])
def test_the_strongest_are_the_hosts_first_regions(mask, levels):
    values = np.random.default_rng(1).integers(1, levels, mask.shape).astype(np.float32) / levels
    found = jax.jit(strongest_components, static_argnums=2)(values, mask, 6)
    expected = find_regions(np.where(mask, values, -1), 0)
    assert found.total == len(expected)
    for k, region in enumerate(expected[:6]):
        assert tuple(found.boxes[k].tolist()) == region.box
        assert (found.areas[k], tuple(found.peaks_at[k].tolist())) == (region.area, region.peak_at)
        assert found.peaks[k] == np.float32(region.peak)
        assert found.means[k] == pytest.approx(region.mean, rel=1e-6)
    assert not np.asarray(found.areas[len(expected) :]).any()


def test_components_of_a_batch_are_those_of_its_images():
    rng = np.random.default_rng(2)
    values = rng.random((3, 20, 31)).astype(np.float32)
    inside = values > np.array([0.5, 0.9, 2])[:, None, None]
    together = jax.vmap(lambda v, m: strongest_components(v, m, 4))(values, inside)
    for i in range(3):
        alone = strongest_components(jnp.asarray(values[i]), jnp.asarray(inside[i]), 4)
        for whole, one in zip(together, alone, strict=True):
            np.testing.assert_array_equal(whole[i], one)
