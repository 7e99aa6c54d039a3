"""One mixture for all tokens: chunks, memory, devices, and float32 accuracy."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests.ops.test_mixture import (
    EVERY,
    assert_matches_float64,
    draw,
    log_prob,
    reference,
    shared_log_prob,
    shared_of,
    value_and_grads,
)
from vtadl_jax.ops import mixture
from vtadl_jax.ops import mixture_shared as module


def shared_case(seed, k, d, batch, diagonal=(0.5, 2.0)):
    logits, loc, factor, _ = draw(seed, (), k, d, diagonal=diagonal)
    return logits, loc, factor, draw(seed + 1, batch, 1, d)[3]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("k", "d", "batch"), [(1, 1, ()), (1, 3, (4,)), (4, 2, (2, 3)), (3, 17, (5,)), (5, 3, (0,))]
)
@pytest.mark.parametrize("factor_of", ["covariance", "precision"])
def test_value_and_gradient_match_the_definition(k, d, batch, factor_of):
    args = shared_case(20, k, d, batch)
    assert_matches_float64(mixture.shared_mixture_log_prob, args, factor_of=factor_of)


@pytest.mark.slow
@pytest.mark.parametrize("factor_of", ["covariance", "precision"])
def test_chunks_of_components_change_nothing(factor_of):
    args = shared_case(21, 6, 3, (7, 3))
    whole = value_and_grads(
        mixture.shared_mixture_log_prob, args, factor_of=factor_of, chunk_size=6
    )
    for chunk_size in (1, 4, None):  # 4 does not divide 6: 3 at once
        value, grads = value_and_grads(
            mixture.shared_mixture_log_prob, args, factor_of=factor_of, chunk_size=chunk_size
        )
        np.testing.assert_allclose(value, whole[0], rtol=1e-5)
        for got, want in zip(grads, whole[1], strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("factor_of", ["covariance", "precision"])
def test_memory_is_that_of_a_chunk(factor_of):
    """Checks the bound in `shared_mixture_log_prob`'s docstring by XLA's memory analysis."""
    k, d, tokens, chunk = 150, 64, 4096, 5
    shapes = [(k,), (k, d), (k, d, d), (tokens, d)]
    args = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]

    def value(*a):
        return mixture.shared_mixture_log_prob(*a, factor_of=factor_of, chunk_size=chunk).mean()

    step = jax.jit(jax.value_and_grad(value, argnums=EVERY)).lower(*args).compile()
    floats = 3 * (chunk * d * tokens + k * tokens + k * d * d + d * tokens)
    all_at_once = k * d * tokens  # one array of whitened tokens, which autodiff would keep
    temporary = step.memory_analysis().temp_size_in_bytes
    assert temporary <= 4 * floats < 4 * all_at_once


def spread_case(sigma):
    """Tokens within a few sigma of their component, components `sigma` apart; exact values."""
    k, d = 6, 16
    logits, loc, factor, _ = draw(23, (), k, d, diagonal=(0.7, 1.5), spread=sigma)
    factor = np.where(np.eye(d), factor, factor / 4)
    noise = np.random.default_rng(22).normal(size=(60, d))
    y = loc[np.arange(60) % k] + noise.astype(np.float32)
    args = (logits, loc, factor, y)
    with jax.enable_x64(True):
        exact = reference(*(np.float64(a) for a in args))
    return args, np.asarray(exact)


@pytest.mark.parametrize("sigma", [1, 10, 1e2, 1e3, 1e4])
def test_the_log_density_is_accurate_for_distant_components(sigma):
    args, exact = spread_case(sigma)
    np.testing.assert_allclose(shared_log_prob(*args), exact, atol=5e-4)


def test_whitening_tokens_and_means_separately_is_inaccurate_for_distant_components(monkeypatch):
    args, exact = spread_case(1e4)
    monkeypatch.setattr(module, "NEAR", np.inf)
    got = jax.jit(lambda *a: mixture.shared_mixture_log_prob(*a))(*args)
    assert np.abs(got - exact).max() > 5e-3


@pytest.mark.slow
def test_one_device_and_eight_agree():
    args = shared_case(25, 6, 3, (16,))
    one = value_and_grads(mixture.shared_mixture_log_prob, args)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    tokens = jax.device_put(args[3], NamedSharding(mesh, PartitionSpec("data")))
    eight = value_and_grads(mixture.shared_mixture_log_prob, (*args[:3], tokens))
    for got, want in zip(*map(jax.tree.leaves, (eight, one)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_agrees_with_the_mixture_of_every_token():
    args = draw(24, (3, 4), 4, 9)
    logits, loc, factor, y = shared_of(args)
    every = tuple(np.broadcast_to(a, (3, 4, *a.shape)) for a in (logits, loc, factor))
    np.testing.assert_allclose(
        shared_log_prob(logits, loc, factor, y),
        log_prob(*every, y),
        rtol=1e-5,
    )
