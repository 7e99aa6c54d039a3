"""What a mask's values mean, and regions that a smaller mask keeps."""

import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy import ndimage

from tests.data.factory import fails, write
from vtadl_jax.data.decode import load_mask, read_mask
from vtadl_jax.data.masks import describe, understand
from vtadl_jax.data.transforms import Geometry


def two_regions(first: int, second: int, dtype=np.uint8) -> np.ndarray:
    """[40, 60]: a square of one value and a line of another, far from each other."""
    mask = np.zeros((40, 60), dtype)
    mask[4:14, 4:14], mask[25, 30:55] = first, second
    return mask


def disc(size: int = 64) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    return np.where(np.hypot(y - 30, x - 33) < 15, 255, 0).astype(np.uint8)


@pytest.mark.parametrize(
    ("first", "second", "dtype"),
    [
        (1, 1, np.uint8),
        (1, 200, np.uint8),
        (3, 255, np.uint8),
        (127, 128, np.uint8),
        (1, 2, np.uint16),
        (1, 40000, np.uint16),
        (7, 7, np.int32),
        (1, 200, np.float32),
    ],
)
def test_class_numbers_are_defects_whatever_they_are(tmp_path, first, second, dtype):
    mask = two_regions(first, second, dtype)
    for found in (understand(mask), read_mask(write(tmp_path / "a.tif", mask))):
        np.testing.assert_array_equal(found.pixels, mask > 0)
        assert found.kind == "classes"
        assert found.values == tuple(np.unique(mask))


@pytest.mark.parametrize(("dtype", "value"), [(np.uint8, 255), (np.uint8, 128), (np.uint16, 65535)])
def test_two_values_need_no_word(dtype, value):
    found = understand(two_regions(value, value, dtype))
    assert (found.kind, found.pixels.sum()) == ("two", 100 + 25)
    assert describe([("a.png", found)]) == []


def test_many_classes_with_a_border_that_touches_them():
    mask = np.zeros((40, 60), np.uint8)
    for i in range(10):
        mask[:, 6 * i : 6 * i + 3] = i + 1
    mask[20] = 255  # as the border of Pascal VOC
    np.testing.assert_array_equal(understand(mask).pixels, mask > 0)


def test_soft_edges_are_cut_at_half_the_range():
    smooth = np.asarray(Image.fromarray(disc()).filter(ImageFilter.GaussianBlur(3)))
    edges = np.asarray(Image.fromarray(disc(256)).resize((64, 64), Image.Resampling.BILINEAR))
    few = (edges // 64) * np.uint8(64)
    few[edges == 255] = 255
    for mask in (smooth, edges, few):
        found = understand(mask)
        assert found.kind == "soft"
        np.testing.assert_array_equal(found.pixels, mask >= 128)
        assert found.num_dropped == 0


@pytest.mark.parametrize("quality", [30, 75, 95])
def test_noise_of_jpeg_is_no_defect(tmp_path, quality):
    mask = disc()
    path = write(tmp_path / "a.jpg", mask, quality=quality)
    noisy = np.asarray(Image.open(path))
    assert ((noisy > 0) & (noisy < 128) & (mask == 0)).any()
    for found in (load_mask(path), load_mask(write(tmp_path / "again.png", noisy))):
        assert (found != (mask > 0)).mean() < 0.01
    quiet = np.where(disc() > 0, 254, 1).astype(np.uint8)
    quiet[::7, ::5] ^= 1
    np.testing.assert_array_equal(understand(quiet).pixels, disc() > 0)


def test_a_shaded_region_that_no_bright_one_touches_is_told():
    mask = np.asarray(Image.fromarray(disc()).filter(ImageFilter.GaussianBlur(2))).copy()
    mask[55:63, 50:62] = 90
    found = understand(mask)
    assert found.num_dropped == 1
    lines = describe([("a.png", found), ("b.png", understand(disc()))])
    assert len(lines) == 2
    assert lines[0].startswith("note: 1 of 2 masks have shades")
    assert "1 regions of values below half the range count as normal" in lines[1]


def test_masks_that_mean_nothing_are_refused():
    with fails("mask x has no value 0, only 1, 2", "normal is not known"):
        understand(two_regions(1, 1) + np.uint8(1), name="mask x")
    with fails("no value above 100, less than half its range"):
        understand(np.arange(101, dtype=np.uint8)[None].repeat(4, 0))
    with fails("has values from -1"):
        understand(two_regions(-1, 3, np.int32))
    with fails("float64", "is not [h, w]"):
        understand(np.zeros((4, 4)))
    assert not understand(np.zeros((4, 4), np.uint8)).pixels.any()


def test_a_mask_of_floats(tmp_path):
    mask = two_regions(1, 1, np.float32)
    np.testing.assert_array_equal(load_mask(write(tmp_path / "a.tif", mask)), mask > 0)
    shades = np.linspace(0, 1, 40, dtype=np.float32)[None].repeat(3, 0)
    assert understand(shades).pixels.sum() == 3 * 20


def test_the_lines_on_a_data_set_name_values_and_an_example():
    found = [(f"{i}.png", understand(two_regions(i, 200))) for i in (1, 2, 200)]
    (line,) = describe(found)
    assert line.startswith("note: 2 of 3 masks hold class numbers (0, 1, 2, 200; for example 1.png")


# Thin regions


def scratches(size: int = 128) -> tuple[np.ndarray, int]:
    """Lines of one and two pixels in several directions, and how many they are."""
    mask = np.zeros((size, size), np.uint8)
    mask[10:100, 17:19] = 255
    mask[7, 30:120] = 255
    for i in range(60):
        mask[40 + i, 50 + i] = 255
    mask[30:34, 100:104] = 255
    mask[99, 99 + 20] = 255
    return mask, 5


@pytest.mark.parametrize(
    "geometry",
    [
        Geometry((16, 16)),
        Geometry((8, 24)),
        Geometry((12, 16), (20, 20)),
        Geometry((10, 20), None, "pad"),
        Geometry((20, 10), None, "crop"),
    ],
)
def test_a_region_keeps_at_least_one_pixel(geometry):
    mask, _ = scratches()
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    reduced, num_thin = geometry.mask_and_thin(mask)
    nearest = plain_nearest(geometry, mask)
    assert (reduced >= nearest).all()
    assert num_thin > 0
    for number in range(1, count + 1):
        one = np.where(labels == number, 255, 0).astype(np.uint8)
        if geometry.fit != "crop" and geometry.resize is None:  # those cut regions away
            assert geometry.mask(one).any()


def plain_nearest(geometry: Geometry, mask: np.ndarray) -> np.ndarray:
    return geometry._move((mask > 0).astype(np.uint8), Image.Resampling.NEAREST, "constant")


def test_regions_that_are_not_thin_are_as_the_nearest_pixel_gives_them():
    for geometry in (Geometry((16, 16)), Geometry((100, 90)), Geometry((200, 300))):
        reduced, num_thin = geometry.mask_and_thin(disc(128))
        np.testing.assert_array_equal(reduced, plain_nearest(geometry, disc(128)))
        assert num_thin == 0


def test_thin_regions_stay_regions_of_their_own():
    mask, count = scratches()
    reduced, num_thin = Geometry((32, 32)).mask_and_thin(mask)
    assert 0 < num_thin <= count
    assert ndimage.label(reduced, np.ones((3, 3)))[1] >= count


def test_regions_that_fall_into_pieces_are_counted():
    mask = np.zeros((128, 128), np.uint8)
    for i in range(100):
        mask[10 + i, 20 + i // 3] = 255
    geometry = Geometry((32, 32))
    reduced, num_thin = geometry.mask_and_thin(mask)
    assert ndimage.label(reduced, np.ones((3, 3)))[1] > 1
    assert num_thin == 1
    wide = mask.repeat(4, 0).repeat(4, 1)
    assert Geometry((128, 128)).mask_and_thin(wide)[1] == 0


def test_a_region_outside_the_crop_is_not_marked():
    mask = np.zeros((128, 128), np.uint8)
    mask[1, 3:9] = 255
    reduced, num_thin = Geometry((8, 8), (16, 16)).mask_and_thin(mask)
    assert (reduced.sum(), num_thin) == (0, 0)


def test_a_mask_of_a_palette(tmp_path):
    mask = two_regions(1, 8)
    image = Image.fromarray(mask)
    image.putpalette([0, 0, 0, 128, 0, 0, *[9] * 18, 64, 0, 0])
    np.testing.assert_array_equal(load_mask(write(tmp_path / "a.png", image)), mask > 0)
