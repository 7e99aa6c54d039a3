"""Maps, means and samples of inspected pixels, against numpy's of the chosen values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtadl_jax.ops import inspected
from vtadl_jax.ops.reconstruction import reconstruction_terms, squared_error
from vtadl_jax.ops.resize import upsample_maps

RNG = np.random.default_rng(0)


def masks(count=2, height=9, width=7):
    inside = RNG.random((count, height, width)) < 0.4
    inside[:, 4, 3] = True
    return inside


def test_outside_has_the_lowest_value_inside():
    maps, inside = RNG.normal(size=(2, 9, 7)).astype(np.float32), masks()
    found = np.asarray(inspected.inspecting(inspected.only_inside)(inside, maps))
    for got, before, kept in zip(found, maps, inside, strict=True):
        np.testing.assert_array_equal(got[kept], before[kept])
        assert (got[~kept] == before[kept].min()).all()


def test_means_are_of_values_inside():
    maps, inside = RNG.normal(size=(2, 9, 7)).astype(np.float32), masks()
    mean = inspected.inspecting(inspected.mean_inside)(inside, maps)
    top = inspected.inspecting(lambda x: inspected.top_mean_inside(x, 0.2))(inside, maps)
    for i in range(2):
        values = np.sort(maps[i][inside[i]])
        np.testing.assert_allclose(mean[i], values.mean(), rtol=1e-5)
        np.testing.assert_allclose(top[i], values[-max(1, int(0.2 * values.size)) :].mean(), 1e-5)


def test_everything_inside_is_as_without_regions():
    maps, every = RNG.normal(size=(2, 9, 7)).astype(np.float32), np.ones((2, 9, 7), bool)
    for function in (
        inspected.only_inside,
        inspected.mean_inside,
        lambda x: inspected.top_mean_inside(x, 0.1),
        lambda x: upsample_maps(x, (18, 14), 2.0),
    ):
        np.testing.assert_allclose(
            inspected.inspecting(function)(every, maps), function(maps), rtol=1e-6
        )


def test_a_cell_is_inspected_if_one_of_its_pixels_is():
    inside = np.zeros((1, 8, 12), bool)
    inside[0, 5, 7] = True
    cells = inspected.inspecting(lambda: inspected.inside_of((1, 2, 3)))(inside)
    np.testing.assert_array_equal(cells[0], [[False, False, False], [False, True, False]])
    uneven = inspected.inspecting(lambda: inspected.inside_of((1, 3, 5)))(inside)
    wanted = np.zeros((3, 5), bool)
    wanted[1:3, 2:4] = True  # row 5 and column 7 are shared by two cells
    np.testing.assert_array_equal(uneven[0], wanted)


def test_constants_and_inputs_of_the_program_find_the_same():
    maps, inside = RNG.normal(size=(2, 4, 4)).astype(np.float32), masks(1, 8, 8)
    constant = inspected.inspecting(inspected.mean_inside)(inside, maps)
    traced = jax.jit(inspected.inspecting(inspected.mean_inside))(inside, maps)
    np.testing.assert_allclose(constant, traced, rtol=1e-6)


@pytest.mark.parametrize("grid", [(9, 7), (3, 4)])
def test_samples_are_inside(grid):
    inside = masks()
    function = inspected.inspecting(lambda k: inspected.places_inside(k, 2, 200, *grid))
    places = np.asarray(function(inside, jax.random.key(0)))
    cells = inspected.inspecting(lambda: inspected.inside_of((2, *grid)))(inside)
    for found, kept in zip(places, np.asarray(cells), strict=True):
        assert set(found.tolist()) == set(np.flatnonzero(kept).tolist())


def test_every_place_is_there_and_no_other():
    values, inside = jnp.arange(2 * 63.0).reshape(2, 9, 7, 1), masks()
    rows = inspected.inspecting(inspected.every_place_inside)(inside, values)
    assert rows.shape == (2, 63, 1)
    for got, own, kept in zip(np.asarray(rows), np.asarray(values), inside, strict=True):
        assert set(got.ravel().tolist()) == set(own[kept].ravel().tolist())


def test_errors_are_means_inside():
    images, recon = (RNG.uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32) for _ in range(2))
    inside = masks(2, 16, 16)
    found = inspected.inspecting(squared_error)(inside, images, recon)
    for i in range(2):
        wanted = np.square(images[i] - recon[i])[inside[i]].mean()
        np.testing.assert_allclose(found[i], wanted, rtol=1e-5)
    other = np.where(inside[..., None], recon, -recon)  # what is outside has no part
    ours = inspected.inspecting(reconstruction_terms)
    np.testing.assert_allclose(ours(inside, images, recon), ours(inside, images, other), rtol=1e-5)
