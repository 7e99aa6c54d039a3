"""The line around what is inspected."""

import numpy as np

from vtadl_jax.report.marks import REGION, with_region


def test_the_line_is_around_the_region_and_covers_nothing_of_it():
    image, inside = np.zeros((20, 30, 3), np.uint8), np.zeros((20, 30), bool)
    inside[5:12, 8:20] = True
    drawn = with_region(image, inside)
    line = (drawn == REGION).all(-1)
    wanted = np.zeros_like(inside)
    wanted[4:13, 7:21] = True
    np.testing.assert_array_equal(line, wanted & ~inside)
    assert not image.any()


def test_without_a_region_the_image_is_as_it_was():
    image = np.zeros((4, 4, 3), np.uint8)
    assert with_region(image, None) is image
    assert with_region(image, np.ones((4, 4), bool)) is image
