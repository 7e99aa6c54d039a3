"""SPADE's searches: against their definitions, within memory, and the published numbers."""

import jax
import numpy as np
import pytest

from tests import golden
from vtadl_jax.ops.gallery_search import (
    block_sizes,
    level_distances,
    level_distances_reference,
    nearest_images,
    nearest_vectors,
)
from vtadl_jax.ops.neighbours import nearest_distances_reference
from vtadl_jax.ops.resize import upsample_maps

STEM = "spade_seed32"
distances_of = jax.jit(level_distances, static_argnums=(2, 3))


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(2, 1, shape).astype(np.float32)


@pytest.mark.parametrize("memory", [4, 100, 4000, 10**6])
@pytest.mark.parametrize(("queries", "size"), [(7, 11), (40, 1), (1, 300), (30, 290)])
def test_nearest_vectors_are_those_of_the_definition(queries, size, memory):
    q, bank = draw(queries, 5), draw(size, 5, seed=1)
    q[0] = bank[-1]
    got = np.asarray(jax.jit(nearest_vectors, static_argnums=2)(q, bank, memory))
    np.testing.assert_allclose(got, nearest_distances_reference(q, bank), rtol=1e-5, atol=1e-7)
    assert got[0] == 0


@pytest.mark.parametrize(
    ("queries", "vectors", "memory"),
    [(3136, 15680, 2**26), (3136, 15680, 2**20), (196, 980, 2**26), (5, 3, 1), (1000, 7, 4096)],
)
def test_products_stay_within_the_memory(queries, vectors, memory):
    rows, block = block_sizes(queries, vectors, memory)
    assert 4 * rows * block <= max(memory, 4)
    assert 1 <= rows <= queries
    assert 1 <= block <= vectors


def test_no_larger_array_than_the_bound_is_made():
    q, bank = draw(64, 4), draw(512, 4, seed=1)
    function = jax.jit(nearest_vectors, static_argnums=2)
    text = function.lower(q, bank, 4 * 64 * 128).as_text()
    assert "tensor<32x256xf32>" in text
    assert "tensor<64x512xf32>" not in text
    assert "tensor<32x512xf32>" not in text


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("memory", [400, 10**6])
def test_level_distances_are_those_of_the_definition(published, memory):
    level, gallery = draw(4, 7, 3), draw(5, 4, 7, 3, seed=1)  # 140 vectors
    level[0, 0] = gallery[0, 0, 0]  # kept in both forms
    got = np.asarray(distances_of(level, gallery, memory, published))
    want = level_distances_reference(level, gallery, published)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)
    assert got[0, 0] == pytest.approx(3**0.5 * 1e-6 if published else 0, rel=1e-3)


def test_the_published_form_leaves_out_the_last_columns_of_the_farthest_neighbour():
    gallery = draw(3, 6, 7, 2, seed=1)  # 126 vectors, 26 of them the last
    level = gallery[2]
    clean, cut = (np.asarray(distances_of(level, gallery, 10**6, form)) for form in (False, True))
    assert (clean == 0).all()
    lost = np.argwhere(cut.T.reshape(-1) > 1e-5)[:, 0]  # by (column, row)
    assert lost.tolist() == list(range(16, 42))


def test_nearest_images_are_those_of_the_definition_and_unused_places_are_none():
    vectors, bank = draw(3, 6), draw(9, 6, seed=1)
    bank[7:] = 0
    vectors[2] = 0  # nearest to what is unused
    distances, index = jax.jit(nearest_images, static_argnums=3)(vectors, bank, 7, 4)
    want = np.sqrt(np.square(np.float64(vectors)[:, None] - bank[None, :7]).sum(-1))
    np.testing.assert_array_equal(index, np.argsort(want, 1, kind="stable")[:, :4])
    np.testing.assert_allclose(distances, np.sort(want, 1)[:, :4], rtol=1e-5)


def test_of_equal_images_the_first_is_taken():
    bank = np.repeat(draw(1, 4), 5, 0)
    _, index = nearest_images(draw(1, 4, seed=1), bank, 5, 3)
    assert index.tolist() == [[0, 1, 2]]


def maps_of(levels, galleries, size, published=False):
    """Each level's distances [B, h, w], and the smoothed mean; galleries: of each image."""
    distances = [
        np.stack([distances_of(x, g, 2**20, published) for x, g in zip(level, all_, strict=True)])
        for level, all_ in zip(levels, galleries, strict=True)
    ]
    maps = [np.asarray(upsample_maps(d, (size, size), 4.0)) for d in distances]
    return distances, sum(maps) / len(maps)


@pytest.mark.slow
def test_the_published_program_s_numbers_of_a_small_case():
    features, numbers = golden.feature_parameters(STEM), golden.numbers(STEM)
    data = features.spade_small()
    distances, index = nearest_images(data["test_pool"], data["train_pool"], 12, 5)
    np.testing.assert_array_equal(index, numbers["small_topk"])
    np.testing.assert_allclose(distances.mean(-1), numbers["small_image_score"], rtol=1e-5)
    levels, galleries = [], []
    for name in ("l1", "l2", "l3"):
        train, test = (data[part][name].transpose(0, 2, 3, 1) for part in ("train", "test"))
        levels.append(test)
        galleries.append([train[i] for i in np.asarray(index)])
    clean, maps = maps_of(levels, galleries, 112)
    np.testing.assert_allclose(clean[0][:, ::2, ::2], numbers["small_clean_l1"], rtol=1e-4)
    for name, found in (("l2", clean[1]), ("l3", clean[2])):
        np.testing.assert_allclose(found, numbers[f"small_clean_{name}"], rtol=1e-4)
    np.testing.assert_allclose(maps[:, ::4, ::4], numbers["small_clean_map"], rtol=1e-4)
    np.testing.assert_allclose(maps.max((1, 2)), numbers["small_clean_map_max"], rtol=1e-4)
    code, maps = maps_of(levels, galleries, 112, published=True)
    np.testing.assert_allclose(code[2], numbers["small_code_l3"], rtol=1e-4)
    np.testing.assert_allclose(maps[:, ::4, ::4], numbers["small_code_map"], rtol=1e-4)
    assert (code[2] != clean[2]).mean() > 0.1
