"""The test finds turns that good images show, and no others."""

import numpy as np
import pytest
from scipy import ndimage

from vtadl_jax.data.orientation_test import find_orientations, nearest
from vtadl_jax.data.records import Record
from vtadl_jax.data.turned import Copy


def part(rng: np.random.Generator, shape: tuple[int, int] = (96, 96)) -> np.ndarray:
    """A part without any symmetry, always placed alike but for a pixel or two, with noise."""
    image = np.full((96, 96), 190.0)
    image[20:76, 30:44] = 60
    image[62:76, 44:70] = 60
    image[24:34, 44:56] = 100
    image = ndimage.shift(image, rng.normal(0, 1, 2), mode="nearest")
    image = ndimage.zoom(image, (shape[0] / 96, shape[1] / 96), order=1)
    noisy = ndimage.gaussian_filter(image, 1) + rng.normal(0, 4, image.shape)
    return np.uint8(np.clip(noisy, 0, 255))


def records(images) -> list[Record]:
    return [Record(image, None, 0, "good", f"{i}.png") for i, image in enumerate(images)]


def turned(count: int, turns, seed: int = 0) -> list[Record]:
    rng = np.random.default_rng(seed)
    return records(Copy(part(rng), *turns[rng.integers(len(turns))]).read() for _ in range(count))


@pytest.mark.parametrize("count", [2, 4, 12])
def test_parts_that_are_always_placed_alike_have_one_orientation(count):
    found = find_orientations(turned(count, [(False, 0)]))
    assert found.normal == ()
    assert min(found.shares.values()) > 0.9
    assert min(found.ratios.values()) > 2
    assert "rot90 100 %" in str(found)


def test_quarter_turns_are_found_without_mirror_images():
    found = find_orientations(turned(12, [(False, 90 * i) for i in range(4)], seed=1))
    assert found.normal == ("rot180", "rot90")


def test_parts_at_any_angle_are_found():
    turns = [(bool(m), a) for m in (0, 1) for a in range(0, 360, 15)]
    found = find_orientations(turned(10, turns, seed=3))
    assert found.normal == ("mirror", "flip", "rot180", "rot90", "any")


def test_symmetric_parts_are_found():
    rng = np.random.default_rng(0)
    both = [part(rng) for _ in range(4)]
    found = find_orientations(records(np.maximum(image, image[:, ::-1]) for image in both))
    assert found.normal == ("mirror",)


def test_oblong_images_are_not_turned_by_right_angles():
    rng = np.random.default_rng(0)
    found = find_orientations(records(part(rng, (96, 160)) for _ in range(4)))
    assert found.shares.keys() == {"mirror", "flip", "rot180"}


def test_a_copy_is_compared_with_other_images_only():
    images = np.array([[0.0], [1.0], [5.0]])
    np.testing.assert_array_equal(nearest(images, images), [1, 1, 4])
    np.testing.assert_array_equal(nearest(np.array([[5.0], [5.0], [5.0]]), images), [0, 0, 4])
