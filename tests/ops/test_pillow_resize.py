"""Resizes in a program: equal to Pillow's, for sides known when it is traced and when it runs."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtadl_jax.data.transforms import Geometry
from vtadl_jax.ops.pillow_resize import Resampling, resize_maps, resize_pixels

CASES = [
    ((50, 70), (32, 32)),
    ((20, 30), (64, 64)),  # enlarged
    ((64, 33), (16, 64)),  # one axis each
    ((300, 7), (7, 7)),  # more taps than are written out
    ((24, 24), (24, 24)),
]


def pixels_of(height, width, channels=3, seed=0):
    shape = (2, height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def resized(images, size):
    rows, columns = (Resampling(images.shape[1 + axis], to, 0, to) for axis, to in enumerate(size))
    return np.asarray(resize_pixels(images, rows, columns))


@pytest.mark.parametrize(("sides", "size"), CASES)
def test_pixels_equal_those_of_pillow(sides, size):
    images = pixels_of(*sides)
    expected = [Geometry(size).image(image) for image in images]
    np.testing.assert_array_equal(resized(images, size), expected)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(*[st.integers(1, 60)] * 4, st.integers(0, 2**31))
def test_pixels_equal_those_of_pillow_whatever_the_sides(height, width, rows, columns, seed):
    images = pixels_of(height, width, 1, seed)
    with jax.disable_jit():
        found = resized(images, (rows, columns))
    np.testing.assert_array_equal(found[0], Geometry((rows, columns)).image(images[0]))


def test_sides_may_be_known_only_when_the_program_runs():
    @jax.jit
    def resize(images, height, width):
        return resize_pixels(images, Resampling(height, 32, 0, 32), Resampling(width, 24, 0, 24))

    for height, width in ((40, 100), (12, 24)):
        images = np.zeros((1, 100, 100, 3), np.uint8)
        images[:, :height, :width] = pixels_of(height, width)[:1]
        expected = Geometry((32, 24)).image(images[0, :height, :width])
        np.testing.assert_array_equal(resize(images, height, width)[0], expected)


@pytest.mark.parametrize(("sides", "size"), CASES)
def test_maps_equal_those_of_pillow_to_float32(sides, size):
    maps = np.random.default_rng(1).normal(size=(2, *size)).astype(np.float32)
    rows, columns = (Resampling(of, to, 0, to) for of, to in zip(size, sides, strict=True))
    expected = [Geometry(size).invert(each, sides) for each in maps]
    np.testing.assert_allclose(resize_maps(maps, rows, columns), expected, atol=2e-6)
