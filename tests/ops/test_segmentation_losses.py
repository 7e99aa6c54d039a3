"""Losses from logits against those of probabilities."""

import jax
import jax.numpy as jnp
import numpy as np

from vtadl_jax.ops import segmentation_losses as losses


def logits_and_truth():
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(3, 4, 5))), jnp.asarray(rng.integers(0, 2, (3, 4, 5)) * 1.0)


def test_cross_entropy_from_logits_is_that_of_probabilities_with_its_gradient():
    with jax.enable_x64(True):
        logits, truth = logits_and_truth()
        got, pull = jax.vjp(lambda x: losses.pixel_cross_entropy(x, truth), logits)
        wanted, pull_wanted = jax.vjp(
            lambda x: losses.pixel_cross_entropy_reference(x, truth), logits
        )
        np.testing.assert_allclose(got, wanted, rtol=1e-12)
        np.testing.assert_allclose(pull(got)[0], pull_wanted(got)[0], rtol=1e-12, atol=1e-14)


def test_cross_entropy_is_finite_where_a_probability_rounds_to_0_or_1():
    logits, truth = jnp.array([[[200.0, -200.0]]]), jnp.array([[[0.0, 1.0]]])
    value, grad = jax.value_and_grad(lambda x: losses.pixel_cross_entropy(x, truth).sum())(logits)
    assert float(value) == 400
    np.testing.assert_array_equal(grad, [[[1, -1]]])


def test_dice_of_an_image_and_of_a_batch():
    with jax.enable_x64(True):
        logits, truth = logits_and_truth()
        p, y = 1 / (1 + np.exp(-np.asarray(logits))), np.asarray(truth)
        wanted = [
            (2 * (a * b).sum() + 0.5) / (a.sum() + b.sum() + 0.5) for a, b in zip(p, y, strict=True)
        ]
        np.testing.assert_allclose(losses.dice(logits, truth, 0.5), wanted, rtol=1e-12)
        whole = (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)
        np.testing.assert_allclose(losses.dice(logits, truth, 1.0, (0, 1, 2)), whole, rtol=1e-12)
