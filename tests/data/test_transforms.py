"""Geometry: sizes, masks, and that image, mask and map stay aligned."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.data.factory import fails, grey, noise, write
from vtadl_jax.data.decode import load_mask
from vtadl_jax.data.pipeline import load_example
from vtadl_jax.data.records import Record
from vtadl_jax.data.transforms import Geometry

# Geometry


@pytest.mark.parametrize(
    ("size", "resize"), [((0, 4), None), ((4, -1), None), ((4, 4), (0, 8)), ((4,), None)]
)
def test_sizes_must_be_positive(size, resize):
    with fails("(height, width)"):
        Geometry(size, resize)


@pytest.mark.parametrize("resize", [(4, 8), (8, 4)])
def test_cut_larger_than_the_image(resize):
    with fails("(5, 5)", resize):
        Geometry((5, 5), resize)


def test_geometry_takes_lists_and_is_hashable():
    assert hash(Geometry([4, 6], [8, 8])) == hash(Geometry((4, 6), (8, 8)))


def test_shapes():
    geometry = Geometry((10, 20), (12, 30))
    for channels, array in ((1, noise((7, 9))), (1, noise((7, 9, 1))), (3, noise((7, 9, 3)))):
        out = geometry.image(array)
        assert (out.shape, out.dtype) == ((10, 20, channels), np.uint8)
    assert geometry.mask(noise((7, 9))).shape == (10, 20)


@pytest.mark.parametrize("array", [noise((4, 4)).astype(float), noise((4, 4, 2)), noise((4,))])
def test_arrays_that_are_no_images(array):
    with fails(array.dtype, array.shape):
        Geometry((4, 4)).image(array)


def test_modes_that_need_converting():
    with fails("CMYK"):
        Geometry((4, 4)).image(Image.new("CMYK", (4, 4)))
    with fails("mode P"):
        Geometry((4, 4)).mask(Image.new("P", (4, 4)))
    with fails("float64"):
        Geometry((4, 4)).mask(np.zeros((4, 4)))


def test_same_size_leaves_the_pixels_alone():
    array = noise((9, 7, 3))
    np.testing.assert_array_equal(Geometry((9, 7)).image(array), array)
    np.testing.assert_array_equal(Geometry((5, 3), (9, 7)).image(array), array[2:7, 2:5])


def test_shrinking_averages():
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    shrunk = Geometry((8, 8)).image(stripes)
    np.testing.assert_allclose(shrunk, 127, atol=6)  # nearest would give 0 or 255


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([0, 127, 128, 255], np.uint8),
        ([0, 32767, 32768, 65535], np.uint16),
        ([0, 32767, 32768, 65535], np.int32),
        ([0, 32767, 32768, 65535], np.dtype(">u2")),
        ([0, 0, 1, 1], bool),
    ],
)
def test_masks_are_cut_at_half_the_range(tmp_path, values, dtype):
    mask = np.array(values, dtype).reshape(2, 2)
    expected = np.array([[0, 0], [1, 1]], np.uint8)
    out = Geometry((2, 2)).mask(mask)
    np.testing.assert_array_equal(out, expected)
    assert out.dtype == np.uint8
    if mask.dtype.isnative:
        np.testing.assert_array_equal(Geometry((2, 2)).mask(Image.fromarray(mask)), expected)
        path = write(tmp_path / "a.tif", mask)
        np.testing.assert_array_equal(load_mask(path), expected.astype(bool))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "1", "L"])
def test_masks_of_any_mode(tmp_path, mode):
    marks = grey(0)
    marks[2:4, 1:5] = 255
    image = Image.fromarray(marks).convert("RGB").convert(mode)
    np.testing.assert_array_equal(load_mask(write(tmp_path / "a.png", image)), marks > 0)


def test_a_red_mark_counts_and_a_transparent_one_does_not(tmp_path):
    marks = np.zeros((4, 4, 4), np.uint8)
    marks[0, :] = (255, 0, 0, 255)
    marks[3, :] = (255, 255, 255, 0)
    found = load_mask(write(tmp_path / "a.png", marks))
    np.testing.assert_array_equal(found, np.arange(4)[:, None].repeat(4, 1) == 0)


def test_a_small_defect_does_not_grow():
    mask = np.zeros((64, 64), np.uint8)
    mask[30:33, 30:33] = 255
    assert Geometry((128, 128)).mask(mask).sum() == 4 * 9


GEOMETRIES = [
    ((90, 120), Geometry((90, 120))),
    ((90, 120), Geometry((45, 40))),
    ((90, 120), Geometry((180, 480))),
    ((60, 200), Geometry((96, 96))),
    ((90, 120), Geometry((64, 64), (80, 72))),
    ((90, 120), Geometry((61, 50), (90, 75))),
]


@pytest.mark.parametrize(("original", "geometry"), GEOMETRIES)
@pytest.mark.parametrize("corner", [(0, 0), (0, 1), (1, 0), (1, 1), (0.5, 0.5)])
def test_image_and_mask_stay_aligned(original, geometry, corner):
    """A bright defect in each corner of what the cut leaves: both outputs agree where it is."""
    canvas = geometry.resize or geometry.size
    rows, columns = (
        _band(n, (c - s) / 2 / c, position)
        for n, c, s, position in zip(original, canvas, geometry.size, corner, strict=True)
    )
    image = grey(0, original)
    image[rows, columns] = 255
    bright = geometry.image(image)[..., 0]
    mask = geometry.mask(image)
    assert mask.any()
    assert not mask.all()
    # Pixels at the border of the defect are mixed; all others must agree entirely.
    assert (bright[mask == 0] < 160).all()
    assert (bright[mask == 1] > 95).all()
    assert ((bright >= 128) == (mask == 1)).mean() > 0.98


@pytest.mark.parametrize(("original", "geometry"), GEOMETRIES)
@pytest.mark.parametrize("corner", [(0, 0), (0, 1), (1, 0), (1, 1), (0.5, 0.5)])
def test_invert_brings_the_peak_back(original, geometry, corner):
    canvas = geometry.resize or geometry.size
    peak = tuple(round(c * (s - 1)) for c, s in zip(corner, geometry.size, strict=True))
    anomaly_map = np.zeros(geometry.size, np.float32)
    anomaly_map[peak] = 1
    back = geometry.invert(anomaly_map, original)
    assert (back.shape, back.dtype) == (original, np.float32)
    ys, xs = np.nonzero(back >= back.max() * 0.999)  # a peak at the cut's edge fills the margin
    edge = [(c - s) // 2 for c, s in zip(canvas, geometry.size, strict=True)]
    expected = [
        (p + e + 0.5) * n / c - 0.5 for p, e, n, c in zip(peak, edge, original, canvas, strict=True)
    ]
    reach = [max(1.0, n / c) for n, c in zip(original, canvas, strict=True)]
    assert np.min(np.abs(ys - expected[0])) <= reach[0]
    assert np.min(np.abs(xs - expected[1])) <= reach[1]
    if geometry.resize is None:
        assert np.abs(ys - expected[0]).max() <= reach[0]
        assert np.abs(xs - expected[1]).max() <= reach[1]


def test_invert_fills_the_margin_with_the_edge():
    geometry = Geometry((4, 2), (8, 8))
    anomaly_map = np.arange(8, dtype=np.float32).reshape(4, 2)
    back = geometry.invert(anomaly_map, (8, 8))
    np.testing.assert_array_equal(back[2:6, 3:5], anomaly_map)
    np.testing.assert_array_equal(back[2:6, 0], anomaly_map[:, 0])
    assert back[0, 0] == anomaly_map[0, 0]
    assert back[7, 7] == anomaly_map[3, 1]


def test_invert_rejects_a_foreign_map():
    with fails("(4, 5)", "(5, 4)"):
        Geometry((5, 4)).invert(np.zeros((4, 5), np.float32), (8, 8))


@given(
    st.tuples(st.integers(1, 20), st.integers(1, 20)),
    st.tuples(st.integers(0, 9), st.integers(0, 9)),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_constants_survive_any_geometry(size, margin, original):
    geometry = Geometry(size, (size[0] + margin[0], size[1] + margin[1]))
    assert (geometry.image(grey(77, original)) == 77).all()
    assert (geometry.mask(grey(200, original)) == 1).all()
    back = geometry.invert(np.full(size, 0.25, np.float32), original)
    assert back.shape == original
    np.testing.assert_allclose(back, 0.25, rtol=1e-6)


def _band(length: int, margin: float, position: float) -> slice:
    """A third of what the cut leaves of an axis, at its start (0), middle or end (1)."""
    low, high = margin * length, (1 - margin) * length
    third = (high - low) / 3
    start = low + position * (high - low - third)
    return slice(round(start), round(start + third))


# Examples


def test_load_example(tmp_path):
    image = write(tmp_path / "a.png", grey(9))
    mask = write(tmp_path / "a_mask.png", grey(255))
    geometry = Geometry((4, 5))
    for label, path, has_mask, value in (
        (0, None, True, 0),
        (1, None, False, 0),
        (1, mask, True, 1),
    ):
        example = load_example(Record(image, path, label, "x", "x/a.png"), geometry, 3)
        assert (example["image"].shape, example["image"].dtype) == ((4, 5, 3), np.uint8)
        assert (example["mask"].shape, example["mask"].dtype) == ((4, 5), np.uint8)
        assert (example["mask"] == value).all()
        assert (example["label"], example["label"].dtype) == (label, np.int32)
        assert (example["has_mask"], example["has_mask"].dtype) == (has_mask, bool)


def test_load_example_compares_sizes(tmp_path):
    image = write(tmp_path / "a.png", grey(9))
    mask = write(tmp_path / "a_mask.png", grey(255, (6, 8)))
    with fails(mask, image):
        load_example(Record(image, mask, 1, "x", "x/a.png"), Geometry((4, 4)), 1)


# Keeping the aspect


@pytest.mark.parametrize("fit", ["pad", "crop"])
@pytest.mark.parametrize("original", [(40, 80), (80, 40), (33, 47), (64, 64)])
@pytest.mark.parametrize("resize", [None, (40, 40)])
def test_the_aspect_is_kept(fit, original, resize):
    """A disc stays round, and `invert` maps it back to its place."""
    rows, columns = np.mgrid[: original[0], : original[1]]
    centre = (original[0] // 2, original[1] // 2)
    disc = np.hypot(rows - centre[0], columns - centre[1]) < 12
    geometry = Geometry((32, 32), resize, fit)
    shown = geometry.image((disc * 255).astype(np.uint8))[..., 0] >= 128
    height, width = (np.ptp(np.nonzero(shown)[axis]) + 1 for axis in (0, 1))
    assert abs(int(height) - int(width)) <= 1
    np.testing.assert_array_less((geometry.mask(disc) != shown).mean(), 0.03)
    back = geometry.invert(shown.astype(np.float32), original) >= 0.5
    assert (back & disc).sum() / (back | disc).sum() > 0.8


def test_padding_repeats_the_edge_and_marks_nothing():
    image = np.tile(np.arange(10, 250, 30, dtype=np.uint8), (4, 1))
    geometry = Geometry((8, 8), fit="pad")
    np.testing.assert_array_equal(geometry.image(image)[..., 0], np.tile(image[:1], (8, 1)))
    mask = geometry.mask(np.ones((4, 8), bool))
    assert mask.sum(axis=1).tolist() == [0, 0, 8, 8, 8, 8, 0, 0]
    rows = np.tile(np.arange(8, dtype=np.float32)[:, None], (1, 8))
    np.testing.assert_array_equal(geometry.invert(rows, (4, 8)), rows[2:6])


def test_cropping_loses_the_ends_and_repeats_them_on_the_way_back():
    image = np.tile(np.arange(8, dtype=np.uint8), (4, 1))
    geometry = Geometry((4, 4), fit="crop")
    np.testing.assert_array_equal(geometry.image(image)[0, :, 0], [2, 3, 4, 5])
    shown = geometry.image(image)[..., 0].astype(np.float32)
    np.testing.assert_array_equal(geometry.invert(shown, (4, 8))[0], [2, 2, 2, 3, 4, 5, 5, 5])


def test_an_extreme_aspect_leaves_at_least_a_row():
    assert Geometry((8, 8), fit="pad").image(noise((1, 400))).shape == (8, 8, 1)


def test_unknown_fit():
    with fails("data.fit 'zoom'", "stretch, pad, crop"):
        Geometry((8, 8), fit="zoom")
