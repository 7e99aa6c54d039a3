"""The mixture's log-density against its definition, scipy in float64 and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from vtadl_jax.ops import mixture


def draw(seed, batch, k, d, dtype=np.float32, diagonal=(0.1, 2.0), spread=1.0):
    """A random mixture per token: logits, loc, scale_tril, y."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(*batch, k))
    loc = spread * rng.normal(size=(*batch, k, d))
    factor = np.tril(rng.normal(size=(*batch, k, d, d)), -1) * 0.5
    factor += np.eye(d) * rng.uniform(*diagonal, size=(*batch, k, d, 1))
    y = rng.normal(size=(*batch, d))
    return tuple(a.astype(dtype) for a in (logits, loc, factor, y))


def scipy_log_prob(logits, loc, factor, y):
    """The same for one token by scipy.stats, float64."""
    components = [
        stats.multivariate_normal(m, f @ f.T, allow_singular=False).logpdf(y)
        for m, f in zip(np.float64(loc), np.float64(factor), strict=True)
    ]
    return special.logsumexp(special.log_softmax(np.float64(logits)) + components)


@pytest.mark.parametrize(
    ("diagonal", "spread"),
    [
        pytest.param((0.5, 2.0), 1.0, id="ordinary"),
        pytest.param((1e-3, 2e-3), 1e-3, id="near-singular"),
        pytest.param((1.0, 2.0), 1e4, id="components 1e4 sigma away"),
    ],
)
def test_agrees_with_scipy_in_float64(diagonal, spread):
    with jax.enable_x64(True):
        args = draw(1, (6,), 4, 5, np.float64, diagonal, spread)
        if diagonal[1] < 0.1:  # keep the covariance's condition within what scipy can invert
            args = (*args[:2], args[2] * np.where(np.eye(5), 1, 1e-3), args[3] * 1e-3)
        expected = [scipy_log_prob(*token) for token in zip(*args, strict=True)]
        np.testing.assert_allclose(mixture.mixture_log_prob(*args), expected, rtol=1e-5)
        shared = tuple(a[0] for a in args[:3])
        expected = [scipy_log_prob(*shared, y) for y in args[3]]
        np.testing.assert_allclose(
            mixture.shared_mixture_log_prob(*shared, args[3]), expected, rtol=1e-5
        )


@pytest.mark.parametrize("spread", [1.0, 1e4])
@pytest.mark.parametrize("diagonal", [(0.5, 2.0), (1e-3, 1e-1)])
def test_float32_stays_near_float64(diagonal, spread):
    args = draw(2, (7,), 5, 6, np.float32, diagonal, spread)
    fast = np.asarray(mixture.mixture_log_prob(*args))
    with jax.enable_x64(True):
        exact = mixture.mixture_log_prob_reference(*(np.float64(a) for a in args))
    assert fast.dtype == np.float32
    np.testing.assert_allclose(fast, exact, rtol=1e-4)


@given(
    seed=st.integers(0, 2**16),
    batch=st.sampled_from([(), (1,), (3,), (2, 5), (4, 1, 3)]),
    k=st.integers(1, 5),
    d=st.integers(1, 7),
)
@settings(max_examples=12, deadline=None)
def test_value_and_gradient_match_the_reference_on_any_shape(seed, batch, k, d):
    args = draw(seed, batch, k, d)

    def both(function):
        value = lambda *a: function(*a).sum()  # noqa: E731
        return jax.jit(jax.value_and_grad(value, argnums=(0, 1, 2, 3)))(*args)

    fast, grads = both(mixture.mixture_log_prob)
    slow, expected = both(mixture.mixture_log_prob_reference)
    assert mixture.mixture_log_prob(*args).shape == batch
    np.testing.assert_allclose(fast, slow, rtol=1e-4, atol=1e-4)
    for got, want in zip(grads, expected, strict=True):
        want = np.tril(want) if want.shape[-2:] == (d, d) and got is grads[2] else want
        scale = max(1.0, float(np.abs(want).max()))
        np.testing.assert_allclose(got, want, atol=2e-4 * scale)


def test_gradient_matches_finite_differences():
    with jax.enable_x64(True):
        args = draw(3, (2,), 3, 4, np.float64)

        def value(*a):
            return mixture.mixture_log_prob(*a).sum()

        rng = np.random.default_rng(0)
        for position, arg in enumerate(args):
            grad = np.asarray(jax.grad(value, argnums=position)(*args))
            direction = rng.normal(size=arg.shape)
            if position == 2:
                direction = np.tril(direction)
            step = 1e-6
            plus, minus = (
                value(*args[:position], arg + sign * step * direction, *args[position + 1 :])
                for sign in (1, -1)
            )
            np.testing.assert_allclose(
                (grad * direction).sum(), (plus - minus) / (2 * step), rtol=1e-6, atol=1e-6
            )


@pytest.mark.parametrize("function", ["mixture_log_prob", "shared_mixture_log_prob"])
def test_gradients_are_finite_when_one_component_takes_all_the_weight(function):
    logits, loc, factor, y = draw(4, (3,), 4, 5)
    logits = np.where(np.arange(4) == 1, 300.0, -300.0).astype(np.float32) * np.ones((3, 1))
    loc[:, 2] = 1e6
    args = (
        (logits, loc, factor) if function == "mixture_log_prob" else (logits[0], loc[0], factor[0])
    )
    grads = jax.grad(lambda *a: getattr(mixture, function)(*a).sum(), argnums=(0, 1, 2, 3))(
        *args, y
    )
    assert all(np.isfinite(g).all() for g in grads)


def test_diagonal_rows_match_full_rows_without_off_diagonals():
    rng = np.random.default_rng(5)
    k, d, t = 3, 4, 6
    logits, loc = rng.normal(size=(k, t)), rng.normal(size=(d, k, t))
    diagonal, y = rng.uniform(0.2, 2, size=(d, k, t)), rng.normal(size=(d, t))
    lower = np.zeros((mixture.tril_size(d), k, t))
    np.testing.assert_allclose(
        mixture.mixture_log_prob_rows(logits, loc, diagonal, None, y),
        mixture.mixture_log_prob_rows(logits, loc, diagonal, lower, y),
        rtol=1e-5,
    )


def test_bfloat16_inputs_are_computed_in_float32():
    args = draw(6, (3,), 4, 5)
    low = tuple(jnp.asarray(a, jnp.bfloat16) for a in args)
    exact = mixture.mixture_log_prob(*(np.asarray(a, np.float32) for a in low))
    np.testing.assert_array_equal(mixture.mixture_log_prob(*low), exact)


@pytest.mark.parametrize("d", [1, 2, 7, 33])
def test_inverse_of_triangular_factors(d):
    factor = draw(8, (), 3, d)[2]
    upper = np.triu(np.full((d, d), np.nan, np.float32), 1)
    inverse = mixture.inverse_tril(factor + upper)
    np.testing.assert_allclose(inverse @ factor, np.broadcast_to(np.eye(d), (3, d, d)), atol=1e-3)


def test_programs_make_no_lapack_calls():
    """A batched solve on the CPU can wait for itself for ever (see `inverse_tril`)."""
    args = draw(9, (6,), 4, 5)
    shared = (*(a[0] for a in args[:3]), args[3])
    for function, inputs in (
        (mixture.mixture_log_prob, args),
        (mixture.shared_mixture_log_prob, shared),
    ):
        program = jax.jit(jax.grad(lambda *a, f=function: f(*a).sum(), argnums=(0, 1, 2, 3)))
        assert "custom-call" not in program.lower(*inputs).compile().as_text()


def test_density_integrates_to_one():
    logits, loc, factor, _ = draw(7, (), 3, 2, spread=0.5)
    axis = np.linspace(-12, 12, 481)
    grid = np.stack(np.meshgrid(axis, axis), -1).astype(np.float32)
    log_prob = mixture.shared_mixture_log_prob(logits, loc, factor, grid)
    assert np.exp(log_prob).sum() * (axis[1] - axis[0]) ** 2 == pytest.approx(1, abs=1e-3)
