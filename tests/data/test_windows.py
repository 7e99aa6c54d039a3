"""Windows of large images: places, weights, and one map of their maps."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from vtadl_jax.config_data import WindowOptions
from vtadl_jax.data.crops import TILE, Crop, Kept, tiles_of, windows_of
from vtadl_jax.data.decode import load_image, load_mask
from vtadl_jax.data.records import Record
from vtadl_jax.data.windows import (
    Grid,
    cut,
    map_size,
    scaled,
    starts,
    stitch,
    stitch_slowly,
    to_image,
    weights,
)

SIZES = [(64, 64), (100, 37), (33, 130), (5, 3), (96, 64)]


def options(**fields) -> WindowOptions:
    return WindowOptions(**{"side": 32, "map_stride": 4, **fields})


def windows_map(pixels, grid: Grid) -> np.ndarray:
    """The mean of each cell: a scorer that does not know where a window is."""
    parts = [cut(pixels, *grid.place(i), grid.side) for i in range(len(grid))]
    inside = grid.side // grid.cell
    cells = np.stack(parts).reshape(-1, inside, grid.cell, inside, grid.cell)
    return cells.mean((2, 4), dtype=np.float64).astype(np.float32)


@pytest.mark.parametrize("overlap", [0, 0.25, 0.5, 0.8])
@pytest.mark.parametrize("length", [3, 32, 33, 64, 257])
def test_windows_cover_an_axis(length, overlap):
    first = starts(length, 32, round(32 * (1 - overlap)), 4)
    assert first[0] == 0
    assert (first % 4 == 0).all()
    assert first[-1] + 32 == max(-(-length // 4) * 4, 32)
    assert (np.diff(first) <= max(32 * (1 - overlap), 4) + 4).all()
    assert (np.diff(first) > 0).all()
    along = weights(first // 4, 8, int(first[-1] + 32) // 4)
    whole = np.zeros(int(first[-1] + 32) // 4)
    for at, row in zip(first // 4, along, strict=True):
        whole[at : at + 8] += row
    assert_allclose(whole, 1, rtol=1e-6)
    assert (along > 0).all()


@pytest.mark.parametrize("size", SIZES)
def test_stitching_is_as_its_slow_twin(size):
    grid = Grid.of(size, options(overlap=0.4), 1.0)
    maps = np.random.default_rng(0).normal(size=(len(grid), 8, 8)).astype(np.float32)
    assert_allclose(stitch(maps, grid), stitch_slowly(maps, grid), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.3])
@pytest.mark.parametrize("size", SIZES)
def test_a_constant_stays_constant(size, scale):
    grid = Grid.of(size, options(), scale)
    whole = stitch(np.full((len(grid), 8, 8), 2.5, np.float32), grid)
    found = to_image(whole, grid, size, 4)
    assert found.shape == map_size(size, options())
    assert found.dtype == np.float32
    assert_allclose(found, 2.5, rtol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_another_grid_of_windows_gives_the_same_map(size):
    pixels = np.random.default_rng(1).integers(0, 256, size, np.uint8)
    found = [
        stitch(windows_map(pixels, grid), grid)
        for grid in (Grid.of(size, options(overlap=overlap), 1.0) for overlap in (0, 0.3, 0.5, 0.7))
    ]
    for other in found[1:]:
        assert_allclose(found[0], other, rtol=1e-5, atol=1e-3)


def test_the_map_of_a_scale_is_at_the_places_of_the_image():
    size = 96, 160
    pixels = np.zeros(size, np.uint8)
    pixels[40:56, 100:116] = 255
    whole = []
    for scale in (1.0, 0.5):
        grid = Grid.of(size, options(), scale)
        found = to_image(stitch(windows_map(scaled(pixels, scale), grid), grid), grid, size, 4)
        rows, columns = np.mgrid[: found.shape[0], : found.shape[1]]
        centre = [(found * at).sum() / found.sum() * 4 + 2 for at in (rows, columns)]
        assert_allclose(centre, (48, 108), atol=0.6)
        whole.append(found)
    assert whole[0].shape == whole[1].shape == (24, 40)


def record_of(folder, size=(50, 70)) -> Record:
    pixels = np.random.default_rng(2).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    mask = np.zeros(size, np.uint8)
    mask[40:, 60:] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    return Record(folder / "a.png", folder / "mask.png", 1, "bad", "a.png")


def test_crops_hold_the_pixels_and_the_mask_of_their_place(tmp_path):
    record = record_of(tmp_path)
    found = windows_of([record], options(scales=(1.0, 0.5)))
    grids = [Grid.of((50, 70), options(), scale) for scale in (1.0, 0.5)]
    assert len(found) == sum(map(len, grids))
    assert len({crop.name for crop in found}) == len(found)
    whole, mask = load_image(record.image, 3), load_mask(record.mask)
    for number in range(len(grids[0])):
        place = grids[0].place(number)
        assert_array_equal(load_image(found[number].image, 3), cut(whole, *place, 32))
        assert_array_equal(load_mask(found[number].mask), cut(mask, *place, 32))
    assert load_image(found[-1].image, 1).shape == (32, 32)
    assert windows_of([record], WindowOptions()) == (record,)


def test_each_window_is_inside_a_tile(tmp_path):
    record = record_of(tmp_path, (130, 200))
    side = TILE * 32
    tiles = [crop.image for crop in tiles_of([record], options())]
    for top in range(130 - 32):
        for left in range(200 - 32):
            assert any(
                isinstance(tile, Crop)
                and tile.top <= top <= tile.top + side - 32
                and tile.left <= left <= tile.left + side - 32
                for tile in tiles
            )
    small = tiles_of([record_of(tmp_path)], options())
    assert [crop.image.extent for crop in small] == [(50, 70)]
    assert load_image(small[0].image, 3).shape == (side, side, 3)


def test_few_decoded_images_are_kept():
    kept, calls = Kept(2 * 10**4), []

    def image(number):
        return kept.get((number,), lambda: calls.append(number) or np.zeros(10**4, np.uint8))

    for number in (0, 1, 0, 2, 0, 1):
        image(number)
    assert calls == [0, 1, 2, 1]
