"""The mixture's log-density against its definition, scipy in float64 and finite differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from vtadl_jax.errors import UserError
from vtadl_jax.ops import mixture

EVERY = (0, 1, 2, 3)
# Compiled as one program: eager calls would compile every operation separately.
log_prob, shared_log_prob, reference = (
    jax.jit(function, static_argnames="factor_of")
    for function in (
        mixture.mixture_log_prob,
        mixture.shared_mixture_log_prob,
        mixture.mixture_log_prob_reference,
    )
)


def draw(seed, batch, k, d, dtype=np.float32, diagonal=(0.1, 2.0), spread=1.0):
    """A random mixture per token: logits, loc, scale_tril, y."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(*batch, k))
    loc = spread * rng.normal(size=(*batch, k, d))
    factor = np.tril(rng.normal(size=(*batch, k, d, d)), -1) * 0.5
    factor += np.eye(d) * rng.uniform(*diagonal, size=(*batch, k, d, 1))
    y = rng.normal(size=(*batch, d))
    return tuple(a.astype(dtype) for a in (logits, loc, factor, y))


def shared_of(args):
    """Returns the first token's mixture, for all tokens."""
    logits, loc, factor, y = args
    first = (0,) * (logits.ndim - 1)
    return logits[first], loc[first], factor[first], y


@functools.cache
def compiled_gradient(function, options):
    """Returns one compiled program, shared by all tests with the same shapes."""

    def value(*a):
        return function(*a, **dict(options)).sum()

    return jax.jit(jax.value_and_grad(value, argnums=EVERY))


def value_and_grads(function, args, **options):
    """Returns value and gradients of the sum over tokens, compiled, for all arguments."""
    return compiled_gradient(function, tuple(options.items()))(*args)


def assert_matches_float64(function, args, rtol=2e-4, **options):
    """Compares float32 value and gradients with the float64 definition, each on its scale."""
    factor_of = options.get("factor_of", "covariance")
    value, grads = value_and_grads(function, args, **options)
    assert value.dtype == np.float32
    with jax.enable_x64(True):
        exact = tuple(np.float64(a) for a in args)
        want, wanted = value_and_grads(reference, exact, factor_of=factor_of)
    np.testing.assert_allclose(value, want, rtol=1e-4, atol=1e-4)
    for got, expected in zip(grads, wanted, strict=True):
        scale = max(1.0, float(np.abs(expected).max(initial=0)))
        np.testing.assert_allclose(got, expected, atol=rtol * scale)


def scipy_log_prob(logits, loc, factor, y):
    """Returns the log-likelihood of one token by scipy.stats, float64."""
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
        if diagonal[1] < 0.1:  # keep the covariance well enough conditioned for scipy
            args = (*args[:2], args[2] * np.where(np.eye(5), 1, 1e-3), args[3] * 1e-3)
        expected = [scipy_log_prob(*token) for token in zip(*args, strict=True)]
        np.testing.assert_allclose(log_prob(*args), expected, rtol=1e-5)
        shared = tuple(a[0] for a in args[:3])
        expected = [scipy_log_prob(*shared, y) for y in args[3]]
        np.testing.assert_allclose(shared_log_prob(*shared, args[3]), expected, rtol=1e-5)


@pytest.mark.parametrize("spread", [1.0, 1e4])
@pytest.mark.parametrize("diagonal", [(0.5, 2.0), (1e-3, 1e-1)])
def test_float32_stays_near_float64(diagonal, spread):
    args = draw(2, (7,), 5, 6, np.float32, diagonal, spread)
    for fast, inputs in (
        (log_prob, args),
        (shared_log_prob, shared_of(args)),
    ):
        with jax.enable_x64(True):
            exact = reference(*(np.float64(a) for a in inputs))
        np.testing.assert_allclose(fast(*inputs), exact, rtol=1e-4)


@pytest.mark.slow
@given(
    seed=st.integers(0, 2**16),
    batch=st.sampled_from([(), (1,), (3,), (0,), (2, 5), (4, 1, 3), (2, 0)]),
    k=st.integers(1, 5),
    d=st.integers(1, 4),
    factor_of=st.sampled_from(["covariance", "precision"]),
)
@settings(max_examples=8, deadline=None)
def test_value_and_gradient_match_the_definition_on_any_shape(seed, batch, k, d, factor_of):
    args = draw(seed, batch, k, d)
    assert jax.eval_shape(mixture.mixture_log_prob, *args).shape == batch
    assert_matches_float64(mixture.mixture_log_prob, args, factor_of=factor_of)


@pytest.mark.slow
@pytest.mark.parametrize("factor_of", ["covariance", "precision"])
def test_many_coordinates_match_the_definition(factor_of):
    args = draw(10, (3,), 2, 17, diagonal=(0.7, 1.5))
    assert_matches_float64(mixture.mixture_log_prob, args, factor_of=factor_of)


@pytest.mark.slow
def test_the_value_alone_of_many_rows_costs_no_more_than_with_the_gradient():
    """Without a gradient nothing forces rows into memory; they must not be recomputed for later
    rows, 2⁶⁴ times in total."""
    logits, loc, factor, y = draw(0, (3,), 2, 64, diagonal=(0.5, 2.0))
    rows, cols = np.tril_indices(64, -1)
    diagonal, lower = np.diagonal(factor, axis1=-2, axis2=-1), factor[..., rows, cols]
    loc_rows, diagonal, lower = (x.transpose(2, 1, 0) for x in (loc, diagonal, lower))
    got = jax.jit(mixture.mixture_log_prob_rows)(logits.T, loc_rows, diagonal, lower, y.T)
    np.testing.assert_allclose(got, reference(logits, loc, factor, y), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("factor_of", ["covariance", "precision"])
def test_packed_factors_are_the_matrices(factor_of):
    args = draw(11, (2, 3), 3, 4)
    packed = mixture.pack_tril(args[2])
    assert packed.shape == (2, 3, 3, 10)
    np.testing.assert_array_equal(mixture.unpack_tril(packed, 4), np.tril(args[2]))
    np.testing.assert_array_equal(
        log_prob(*args[:2], packed, args[3], factor_of=factor_of),
        log_prob(*args, factor_of=factor_of),
    )
    shared = shared_of(args)
    np.testing.assert_array_equal(
        log_prob(*shared[:2], packed[0, 0], args[3], factor_of=factor_of),
        log_prob(*shared, factor_of=factor_of),
    )


def test_a_precision_factor_is_the_transposed_inverse():
    """Σ⁻¹ = P Pᵀ with Σ = L Lᵀ: Cholesky factors of a matrix and its inverse, one mixture."""
    logits, loc, factor, y = draw(12, (4,), 3, 3, np.float64)
    precision = np.linalg.cholesky(np.linalg.inv(factor @ factor.swapaxes(-1, -2)))
    np.testing.assert_allclose(
        log_prob(logits, loc, precision, y, factor_of="precision"),
        log_prob(logits, loc, factor, y),
        rtol=1e-4,
    )


def test_parameters_without_batch_axes_are_shared():
    args = draw(13, (2, 3), 3, 4)
    shared = shared_of(args)
    every = tuple(np.broadcast_to(a, (2, 3, *a.shape)) for a in shared[:3])
    np.testing.assert_allclose(log_prob(*shared), log_prob(*every, args[3]), rtol=1e-5)


@pytest.mark.slow
def test_gradient_matches_finite_differences():
    with jax.enable_x64(True):
        args = draw(3, (2,), 3, 4, np.float64)
        value = jax.jit(lambda *a: mixture.mixture_log_prob(*a).sum())
        grads = jax.jit(jax.grad(value, argnums=EVERY))(*args)
        rng = np.random.default_rng(0)
        for position, (arg, grad) in enumerate(zip(args, grads, strict=True)):
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


def extreme(name):
    """Returns [3] tokens and 4 components of 5 coordinates with extreme values."""
    logits, loc, factor, y = draw(4, (3,), 4, 5)
    if name == "one component takes all":
        logits = np.where(np.arange(4) == 1, 1e4, -1e4) * np.ones((3, 1))
    elif name == "impossible components":
        logits[:, 2:] = -np.inf
    elif name == "far away":
        loc[:] = 1e6
    elif name == "near-singular":
        factor = factor * np.where(np.eye(5), 1e-12, 1)
    elif name == "out of range":  # whitened residuals overflow, directly or when squared
        factor, loc = factor * np.where(np.eye(5), 1e-30, 1), loc + 1e10
    return tuple(np.float32(a) for a in (logits, loc, factor, y))


@pytest.mark.parametrize("factor_of", ["covariance", "precision"])
@pytest.mark.parametrize(
    "name",
    [
        "one component takes all",
        "impossible components",
        "far away",
        "near-singular",
        "out of range",
    ],
)
def test_values_and_gradients_are_finite_at_the_extremes(name, factor_of):
    args = extreme(name)
    for function, inputs in (
        (mixture.mixture_log_prob, args),
        (mixture.shared_mixture_log_prob, shared_of(args)),
    ):
        value, grads = value_and_grads(function, inputs, factor_of=factor_of)
        assert np.isfinite(value)
        assert all(np.isfinite(g).all() for g in grads)


@pytest.mark.parametrize("position", EVERY)
def test_nan_is_not_hidden(position):
    args = draw(14, (3,), 4, 5)
    args[position].flat[0] = np.nan
    assert np.isnan(log_prob(*args)[0])
    if position != 2:  # the part of the shared factor that is not read may be anything
        assert np.isnan(shared_log_prob(*shared_of(args))).any()


@pytest.mark.slow
@pytest.mark.parametrize("factor_of", ["covariance", "precision"])
def test_diagonal_rows_match_full_rows_without_off_diagonals(factor_of):
    rng = np.random.default_rng(5)
    k, d, t = 3, 4, 6
    logits, loc = rng.normal(size=(k, t)), rng.normal(size=(d, k, t))
    diagonal, y = rng.uniform(0.2, 2, size=(d, k, t)), rng.normal(size=(d, t))
    lower = np.zeros((mixture.tril_size(d), k, t))
    np.testing.assert_allclose(
        mixture.mixture_log_prob_rows(logits, loc, diagonal, None, y, factor_of=factor_of),
        mixture.mixture_log_prob_rows(logits, loc, diagonal, lower, y, factor_of=factor_of),
        rtol=1e-5,
    )


def test_bfloat16_inputs_are_computed_in_float32():
    args = draw(6, (3,), 4, 5)
    low = tuple(jnp.asarray(a, jnp.bfloat16) for a in args)
    exact = log_prob(*(np.asarray(a, np.float32) for a in low))
    np.testing.assert_array_equal(log_prob(*low), exact)


@pytest.mark.parametrize("d", [1, 2, 8, 9, 33])
def test_inverse_of_triangular_factors(d):
    factor = draw(8, (), 3, d)[2]
    upper = np.triu(np.full((d, d), np.nan, np.float32), 1)
    inverse = jax.jit(mixture.inverse_tril)(factor + upper)
    np.testing.assert_allclose(inverse @ factor, np.broadcast_to(np.eye(d), (3, d, d)), atol=1e-3)


def test_a_positive_diagonal_has_a_floor():
    raw = np.float32([-1e4, -1, 0, 1e4])
    expected = np.logaddexp(0, np.float64(raw)) + 0.05
    np.testing.assert_allclose(mixture.positive_diagonal(raw, 0.05), expected, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("factor_of", ["covariance", "precision"])
def test_programs_make_no_lapack_calls(factor_of):
    """A batched solve on the CPU can deadlock (see `mixture_factors`)."""
    args = draw(9, (6,), 4, 12)
    for function, inputs in (
        (mixture.mixture_log_prob, args),
        (mixture.shared_mixture_log_prob, shared_of(args)),
    ):

        def value(*a, function=function):
            return function(*a, factor_of=factor_of).sum()

        program = jax.jit(jax.grad(value, argnums=EVERY)).lower(*inputs).compile().as_text()
        assert "custom-call" not in program


def test_density_integrates_to_one():
    logits, loc, factor, _ = draw(7, (), 3, 2, spread=0.5)
    axis = np.linspace(-12, 12, 481)
    grid = np.stack(np.meshgrid(axis, axis), -1).astype(np.float32)
    density = np.exp(shared_log_prob(logits, loc, factor, grid))
    assert density.sum() * (axis[1] - axis[0]) ** 2 == pytest.approx(1, abs=1e-3)


def test_errors_are_one_line():
    logits, loc, factor, y = draw(15, (6,), 4, 3)
    cases = [
        (lambda: mixture.mixture_log_prob(logits, loc[..., :2], factor, y), r"loc \[6, 4, 2\]"),
        (lambda: mixture.mixture_log_prob(logits, loc, factor[..., 0], y), r"packed in \[4, 6\]"),
        (
            lambda: mixture.mixture_log_prob(logits, loc, factor, y, factor_of="scale"),
            "factor_of 'scale': use one of covariance, precision",
        ),
        (
            lambda: mixture.mixture_log_prob_rows(
                logits.T, loc.T, factor[..., 0].T, None, y.T, implementation="cuda"
            ),
            "implementation 'cuda': use one of xla, pallas",
        ),
        (
            lambda: mixture.shared_mixture_log_prob(logits[0], loc[0], factor[0], y, chunk_size=0),
            "chunk_size 0: use 1 or more",
        ),
    ]
    for call, message in cases:
        with pytest.raises(UserError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
