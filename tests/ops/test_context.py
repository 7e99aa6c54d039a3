"""The context against a loop over positions."""

import numpy as np
import pytest

from vtadl_jax.ops import context


@pytest.mark.parametrize(("shape", "radii"), [((2, 5, 7, 3), (2,)), ((1, 9, 4, 2), (1, 3))])
def test_matches_the_definition(shape, radii):
    features = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    got = context.context_of(features, radii)
    np.testing.assert_array_equal(got, context.context_reference(features, radii))


@pytest.mark.parametrize("radius", [1, 2, 5])
def test_the_position_itself_is_excluded(radius):
    features = np.zeros((1, 16, 16, 1), np.float32)
    features[0, 8, 8] = 1
    found = np.asarray(context.context_of(features, (radius,)))
    assert found[0, 8, 8].sum() == 0
    assert found.sum() == 8  # it is in the context of eight others


def test_position_codes_are_distinct_and_mirror():
    code = context.position_code(4, 6)
    assert len(np.unique(code.reshape(-1, 6), axis=0)) == 24
    np.testing.assert_allclose(code[0, :, 0], -code[-1, :, 0])
