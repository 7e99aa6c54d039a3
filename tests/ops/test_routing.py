"""Squash and dynamic routing against their definitions, in value and gradient."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import golden
from vtadl_jax.ops.routing import UNROLLED, lengths, route, route_reference, squash

# images, input capsules, their length, output capsules, their length
SHAPES = [(2, 5, 3, 2, 4), (1, 1, 1, 1, 1), (1, 4, 2, 3, 1)]
MANY = UNROLLED + 1  # output capsules and values of one, too many for sums that are written out


def drawn(shape, seed=0):
    batch, count, dim, outputs, out_dim = shape
    rng = np.random.default_rng(seed)
    arrays = ((batch, count, dim), (outputs, count, dim, out_dim), (batch, outputs, out_dim))
    return [rng.normal(size=size) for size in arrays]


def value_and_gradients(function, inputs, weights, cotangent, **options):
    """Returns outputs, coefficients and the gradients of the outputs' weighted sum."""

    def total(inputs, weights):
        outputs, coefficients = function(inputs, weights, **options)
        return (outputs * cotangent).sum(), (outputs, coefficients)

    grad = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)
    # The definition is slow to compile.
    grad = grad if function is route_reference else jax.jit(grad)
    (_, found), grads = grad(inputs, weights)
    return *found, *grads


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"iterations": 1},
        {"iterations": 2, "stop_gradient": False, "offset": 0.5},
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_value_and_gradients_match_the_definition(shape, options):
    with jax.enable_x64(True):
        arrays = [jnp.asarray(array) for array in drawn(shape)]
        want = value_and_gradients(route_reference, *arrays, **options)
        kept = value_and_gradients(route, *arrays, **options)
        never = value_and_gradients(route, *arrays, **options, kept_bytes=0)
    got = value_and_gradients(route, *(a.astype(np.float32) for a in drawn(shape)), **options)
    for narrow, *exact, wanted in zip(got, kept, never, want, strict=True):
        for array in exact:
            np.testing.assert_allclose(array, wanted, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(narrow, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stopped", [True, False])
def test_many_capsules_of_many_values_match_the_definition(stopped):
    with jax.enable_x64(True):
        arrays = [jnp.asarray(array) for array in drawn((1, 2, MANY, MANY, 2))]
        want = value_and_gradients(route_reference, *arrays, stop_gradient=stopped)
        for kept_bytes in (2**20, 0):
            found = value_and_gradients(
                route, *arrays, stop_gradient=stopped, kept_bytes=kept_bytes
            )
            for array, wanted in zip(found, want, strict=True):
                np.testing.assert_allclose(array, wanted, rtol=1e-10, atol=1e-12)


def test_large_predictions_are_never_in_memory():
    inputs, weights, cotangent = (a.astype(np.float32) for a in drawn((64, 64, 2, 4, 32)))
    size = 64 * 64 * 4 * 32 * 4

    def temporary(kept_bytes):
        step = functools.partial(value_and_gradients, route, kept_bytes=kept_bytes)
        return jax.jit(step).lower(inputs, weights, cotangent).compile().memory_analysis()

    assert temporary(size).temp_size_in_bytes > size
    assert temporary(size - 1).temp_size_in_bytes < size / 2


def test_coefficients_share_out_each_input_and_images_do_not_mix():
    inputs, weights, _ = (array.astype(np.float32) for array in drawn(SHAPES[0]))
    outputs, coefficients = route(inputs, weights)
    np.testing.assert_allclose(coefficients.sum(1), 1, rtol=1e-6)
    alone, _ = route(inputs[1:], weights)
    np.testing.assert_allclose(outputs[1:], alone, rtol=1e-5)


def test_the_gradient_that_is_stopped_is_that_of_the_last_sum():
    with jax.enable_x64(True):
        inputs, weights, cotangent = map(jnp.asarray, drawn(SHAPES[0]))
        *_, stopped = value_and_gradients(route, inputs, weights, cotangent)
        _, fixed = route(inputs, weights)

        def last(weights):
            sums = jnp.einsum("bji,bid,jido->bjo", fixed, inputs, weights)
            return (squash(sums) * cotangent).sum()

        np.testing.assert_allclose(stopped, jax.jit(jax.grad(last))(weights), rtol=1e-10)


@pytest.mark.parametrize("offset", [1.0, 0.5])
def test_squash_keeps_the_direction_and_matches_the_definition(offset):
    vectors = np.random.default_rng(0).normal(size=(3, 4, 5))
    norm = np.linalg.norm(vectors, axis=-1, keepdims=True)
    with jax.enable_x64(True):
        found = squash(jnp.asarray(vectors), offset)
        np.testing.assert_allclose(found, vectors * norm / (offset + norm**2), rtol=1e-12)
        np.testing.assert_allclose(lengths(vectors), norm[..., 0], rtol=1e-12)
    if offset == 1:
        assert (np.linalg.norm(found, axis=-1) < 1).all()


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-12, 1e-3, 1e6])
def test_vanishing_and_long_vectors_have_a_finite_gradient(size):
    vector = np.array([0.6, -0.8], np.float32) * np.float32(size)
    found = jax.jit(jax.jacobian(squash))(vector)
    # d(s·|s| / (1 + |s|²)) = f·1 + (s·sᵀ)·f'(|s|)/|s|, f(n) = n / (1 + n²).
    n, unit = np.float64(size), np.outer([0.6, -0.8], [0.6, -0.8])
    slope = (1 - n**2) / (1 + n**2) ** 2
    want = n / (1 + n**2) * np.eye(2) + n * slope * unit
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-15)
    gradient = np.asarray(jax.grad(lengths)(vector))
    if size >= 1e-12:
        np.testing.assert_allclose(gradient, [0.6, -0.8], rtol=1e-5)
    else:
        np.testing.assert_array_equal(gradient, 0)


def test_capsules_that_vanish_route_to_nothing_with_finite_gradients():
    inputs, weights, cotangent = drawn(SHAPES[0])
    for options in ({}, {"stop_gradient": False}):
        found = value_and_gradients(route, 0 * inputs, weights, cotangent, **options)
        assert all(np.isfinite(array).all() for array in found)
        np.testing.assert_array_equal(found[0], 0)


@pytest.fixture(scope="module")
def cases():
    path = golden.FOLDER / "piade_seed21.json"
    if not path.is_file():
        pytest.skip("no golden numbers of routing beside the repository")
    return json.loads(path.read_text())["routing"]


def as_weights(predictions):
    """Predictions of one image [I, J, D] as weights [J, I, 1, D] of inputs that are all 1."""
    return jnp.asarray(predictions).swapaxes(0, 1)[:, :, None]


@pytest.mark.parametrize("offset", [1.0, 0.5])
@pytest.mark.parametrize("iterations", [1, 2, 3])
def test_routing_matches_the_golden_numbers(cases, iterations, offset):
    want = cases[f"a{offset}_iters{iterations}"]
    with jax.enable_x64(True):
        for image, predictions in enumerate(cases["u_hat_BIJD"]):
            ones = jnp.ones((1, len(predictions), 1))
            found = route(ones, as_weights(predictions), iterations, offset=offset)
            np.testing.assert_allclose(found[0][0], want["v"][image], rtol=1e-10)
            np.testing.assert_allclose(found[1][0].T, want["c_IJ"][image], rtol=1e-10)


@pytest.mark.parametrize(("name", "stopped"), [("grad_detached", True), ("grad_full", False)])
def test_gradients_match_those_by_differences(cases, name, stopped):
    with jax.enable_x64(True):
        weights_of_sum = jnp.asarray(cases["weights_JD"])

        def total(weights):
            outputs, _ = route(jnp.ones((1, weights.shape[1], 1)), weights, stop_gradient=stopped)
            return (outputs[0] * weights_of_sum).sum()

        grad = jax.jit(jax.grad(total))
        for image, predictions in enumerate(cases["u_hat_BIJD"]):
            found = grad(as_weights(predictions))[:, :, 0].swapaxes(0, 1)
            np.testing.assert_allclose(found, cases[name][image], rtol=1e-5, atol=1e-8)


def test_squash_matches_the_golden_numbers(cases):
    with jax.enable_x64(True):
        vectors = jnp.asarray(cases["squash_in"])
        for offset in (1.0, 0.5):
            want = cases[f"squash_a{offset}"]
            np.testing.assert_allclose(squash(vectors, offset), want, rtol=1e-10)
