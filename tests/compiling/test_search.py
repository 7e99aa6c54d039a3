"""The search for the largest batch, for several memory curves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtadl_jax.compiling.search import MAX_COMPILES, TOLERANCE, Fit, largest_batch


def search(need, limit, start):
    calls = []

    def measure(images):
        calls.append(images)
        return Fit(images, need(images) <= limit, need(images))

    first = Fit(start, need(start) <= limit, need(start))
    return largest_batch(measure, first, limit), calls


@given(
    fixed=st.integers(0, 900),
    slope=st.integers(1, 40),
    bend=st.floats(0, 0.02),
    start=st.sampled_from([1, 4, 8, 64]),
)
def test_finds_the_edge_within_its_tolerance(fixed, slope, bend, start):
    def need(images):
        return int(fixed + slope * images + bend * images**2)

    found, calls = search(need, 1000, start)
    true = max((n for n in range(1, 2000) if need(n) <= 1000), default=0)
    assert len(calls) <= MAX_COMPILES
    assert len(set(calls)) == len(calls)
    assert found.images == 0 or need(found.images) <= 1000
    assert found.too_many is None or need(found.too_many) > 1000
    assert found.images <= true
    if found.too_many is not None and len(calls) < MAX_COMPILES:
        assert found.too_many - found.images <= max(8, TOLERANCE * found.images)


def test_a_linear_memory_takes_few_compilations():
    found, calls = search(lambda n: 640 + 80 * n, 16_000, 8)
    assert 184 <= found.images <= 192
    assert len(calls) <= 4


@pytest.mark.parametrize("start", [1, 8])
def test_not_even_one_image_may_fit(start):
    found, _ = search(lambda n: 2000 + n, 1000, start)
    assert found.images == 0
    assert found.too_many == 1
