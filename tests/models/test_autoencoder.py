"""The auto-encoder: what it squeezes, learns and marks, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.factory import tiny_config
from vtadl_jax.errors import UserError
from vtadl_jax.models import make_detector
from vtadl_jax.models.autoencoder import build


def config_of(**fields):
    fields = {"data__channels": 1, "eval__map_sigma": 0.0, "loss__mse_weight": 1.0, **fields}
    return tiny_config(detector="autoencoder", **fields)


def draw_images(count, seed=0):
    """Discs of several sizes in the middle: few numbers suffice to tell them apart."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:32, :32] - 15.5
    radius = rng.uniform(4, 12, (count, 1, 1))
    return np.uint8(200 / (1 + np.exp(np.hypot(rows, columns) - radius)))[..., None]


def train(detector, images, steps=300):
    variables = detector.init(jax.random.key(0))
    tx = optax.adam(3e-3)
    keys = jax.random.split(jax.random.key(0), len(images))

    @jax.jit
    def step(carry, _):
        params, stats, state = carry
        grad = jax.value_and_grad(detector.loss, has_aux=True)
        (loss, (_, stats)), grads = grad(params, stats, images, keys)
        updates, state = tx.update(grads, state)
        return (optax.apply_updates(params, updates), stats, state), loss

    carry = (variables["params"], variables["batch_stats"], tx.init(variables["params"]))
    (params, stats, _), losses = jax.lax.scan(step, carry, length=steps)
    return {"params": params, "batch_stats": stats}, losses


@pytest.mark.parametrize("ssim_weight", [0.0, 0.5])
def test_it_learns_good_images_and_marks_what_is_not_of_them(ssim_weight):
    detector = make_detector(config_of(loss__ssim_weight=ssim_weight))
    variables, losses = train(detector, draw_images(16))
    assert losses[-1] < 0.2 * losses[0]
    spoilt = draw_images(4, seed=1)
    good = detector.score(variables, spoilt)
    spoilt[:, 2:8, 20:26] = 255
    bad = detector.score(variables, spoilt)
    assert (bad.terms > good.terms).all()
    row, column = np.unravel_index(np.argmax(bad.anomaly_map[0]), (32, 32))
    assert 2 <= row < 8
    assert 20 <= column < 26
    assert bad.recon.shape == spoilt.shape


def test_the_loss_is_of_the_terms_by_their_weights():
    images = draw_images(4)
    keys = jax.random.split(jax.random.key(0), 4)
    for mse, ssim in ((1.0, 0.0), (2.0, 0.5)):
        detector = make_detector(config_of(loss__mse_weight=mse, loss__ssim_weight=ssim))
        variables = detector.init(jax.random.key(0))
        total, (terms, _) = detector.loss(
            variables["params"], variables["batch_stats"], images, keys
        )
        assert total == pytest.approx(mse * terms["mse"] + ssim * terms["dissimilarity"])


@pytest.mark.parametrize("side", [28, 32, 48])
def test_all_of_the_image_passes_through_the_latent_vector(side):
    network = build(config_of(image_size=(side, side), model__autoencoder__latent_dim=5))
    images = jnp.zeros((1, side, side, 1))
    variables = network.init(jax.random.key(0), images)
    latent = network.encoder.clone(parent=None).apply(
        {"params": variables["params"]["encoder"]}, images
    )
    assert latent.shape == (1, 5)
    assert network.apply(variables, images).shape == images.shape


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model__decoder__features": (8, 8)}, r"features \(8, 8\): give the widths of the 4"),
        ({"model__autoencoder__latent_dim": 0}, "latent_dim 0"),
        ({"train__accumulate": 2}, "accumulate 2: .* use 1"),
    ],
)
def test_what_can_not_be_built_is_refused(fields, message):
    with pytest.raises(UserError, match=message):
        make_detector(config_of(**fields))
