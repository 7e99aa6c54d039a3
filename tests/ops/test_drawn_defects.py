"""Drawn defects against their definition, and what is promised of them."""

import jax
import numpy as np
import pytest

from vtadl_jax.ops import drawn_defects

CHANNELS = 3


def drawn(count=16, size=(24, 20), channels=CHANNELS, share=1.0, seed=0, smallest=0.05):
    images = np.random.default_rng(seed).integers(0, 256, (count, *size, channels), np.uint8)
    keys = jax.random.split(jax.random.key(seed), count)

    @jax.jit
    def both(keys, images):
        defects = drawn_defects.sample(keys, channels, share, smallest, 0.3)
        return defects, *drawn_defects.draw(images, defects)

    return images, *jax.tree.map(np.asarray, both(keys, images))


def test_pixels_and_masks_are_those_of_the_definition():
    images, defects, found, masks = drawn()
    assert set(defects.kind.tolist()) == {0, 1, 2}
    wanted, expected = drawn_defects.draw_reference(images, defects)
    # Rounding of float32 moves a few values by one grey level, and a mask at its threshold.
    difference = np.abs(found.astype(int) - wanted)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3
    assert (masks != expected).mean() < 1e-3


@pytest.mark.parametrize("channels", [1, 3])
def test_only_marked_pixels_change_visibly(channels):
    images, _, found, masks = drawn(channels=channels)
    change = np.abs(found.astype(int) - images).max(-1)
    np.testing.assert_array_equal(masks == 1, change >= drawn_defects.CHANGE)
    assert masks.any((1, 2)).mean() > 0.6  # a centre near a border may leave nothing
    assert masks.mean() < 0.3


def test_the_share_of_images_with_a_defect():
    images, defects, found, masks = drawn(count=400, size=(8, 8), share=0.5)
    assert 0.4 < defects.present.mean() < 0.6
    np.testing.assert_array_equal(found[~defects.present], images[~defects.present])
    assert not masks[~defects.present].any()


def test_a_defect_depends_on_its_own_key_only():
    keys = jax.random.split(jax.random.key(3), 6)
    sample = jax.jit(lambda keys: drawn_defects.sample(keys, 3, 0.5, 0.05, 0.3))
    every, some = sample(keys), sample(keys[2:4])
    for one, other in zip(every, some, strict=True):
        np.testing.assert_array_equal(one[2:4], other)
