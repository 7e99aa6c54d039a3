"""Window means against loops, and interpolation back to the grid."""

import numpy as np
import pytest

from vtadl_jax.ops import windows


@pytest.mark.parametrize(
    ("shape", "window"), [((2, 8, 12, 3), 4), ((1, 9, 5, 2), 5), ((1, 6, 7, 1), 1)]
)
def test_means_match_the_definition(shape, window):
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    rows, columns = (windows.window_starts(side, window) for side in shape[1:3])
    want = [[values[:, i : i + window, j : j + window].mean((1, 2)) for j in columns] for i in rows]
    got = windows.window_means(values, window)
    np.testing.assert_allclose(got, np.moveaxis(np.array(want), 2, 0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("side", "window"), [(32, 8), (31, 8), (7, 4), (4, 4), (5, 1), (9, 2), (16, 3), (17, 5)]
)
def test_windows_cover_the_side_and_their_rings_exclude_them(side, window):
    starts = windows.window_starts(side, window)
    assert starts[0] == 0
    assert starts[-1] == side - window
    assert (np.diff(starts) <= window).all()
    assert (np.diff(starts) >= 1).all()
    assert (starts[2:] - starts[:-2] >= window).all()


@pytest.mark.parametrize("window", [1, 2, 4])
def test_values_return_to_the_positions_of_their_windows(window):
    grid = (8, 12)
    places = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), -1)[None].astype(float)
    for axis in (0, 1):  # a slope is restored, except for the outer half of a window
        values = windows.window_means(places.astype(np.float32), window)[..., axis]
        back = np.asarray(windows.to_places(values, grid, window))[0]
        inner = slice(window // 2, -(window // 2) or None)
        np.testing.assert_allclose(back[inner, inner], places[0, inner, inner, axis], atol=1e-5)


def test_one_window_covers_the_whole_grid():
    values = windows.window_means(np.arange(16.0, dtype=np.float32).reshape(1, 4, 4, 1), 4)
    np.testing.assert_allclose(values, [[[[7.5]]]])
    np.testing.assert_allclose(
        windows.to_places(values[..., 0], (4, 4), 4), np.full((1, 4, 4), 7.5)
    )
