"""The auto-encoder: bottleneck, training, anomaly maps, and rejected options."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.factory import build_of, tiny_config
from vtadl_jax.detectors.autoencoder import build
from vtadl_jax.errors import UserError
from vtadl_jax.experiment import make_detector


def config_of(**fields):
    fields = {"data__channels": 1, "eval__map_sigma": 0.0, "model__loss__mse_weight": 1.0, **fields}
    return tiny_config(detector="autoencoder", **fields)


def draw_images(count, seed=0):
    """Returns centred discs of several sizes, which a short latent vector can describe."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:32, :32] - 15.5
    radius = rng.uniform(4, 12, (count, 1, 1))
    return np.uint8(200 / (1 + np.exp(np.hypot(rows, columns) - radius)))[..., None]


def train(detector, images, steps=300):
    variables = detector.init(jax.random.key(0))
    tx = optax.adam(3e-3)
    keys = jax.random.split(jax.random.key(0), len(images))

    def step(carry, _):
        params, stats, state = carry

        def value(params):
            return detector.loss({"params": params, "stats": stats}, {"image": images}, keys)

        (loss, (_, stats)), grads = jax.value_and_grad(value, has_aux=True)(params)
        updates, state = tx.update(grads, state)
        return (optax.apply_updates(params, updates), stats, state), loss

    # Optimized, whatever the tests are compiled with: it computes longer than it compiles.
    run = jax.jit(
        lambda carry: jax.lax.scan(step, carry, length=steps),
        compiler_options={"xla_backend_optimization_level": 3},
    )
    carry = (variables["params"], variables["stats"], tx.init(variables["params"]))
    (params, stats, _), losses = run(carry)
    return {"params": params, "stats": stats}, losses


@pytest.mark.slow
def test_it_learns_normal_images_and_marks_anomalies():
    detector = make_detector(config_of(model__loss__ssim_weight=0.5))
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


@pytest.mark.slow
def test_the_loss_is_the_weighted_sum_of_terms():
    images = draw_images(4)
    keys = jax.random.split(jax.random.key(0), 4)
    for mse, ssim in ((1.0, 0.0), (2.0, 0.5)):
        detector = make_detector(
            config_of(model__loss__mse_weight=mse, model__loss__ssim_weight=ssim)
        )
        variables = detector.init(jax.random.key(0))
        total, (terms, _) = detector.loss(variables, {"image": images}, keys)
        assert total == pytest.approx(mse * terms["mse"] + ssim * terms["dissimilarity"])


@pytest.mark.slow
@pytest.mark.parametrize("side", [28, 32, 48])
def test_all_of_the_image_passes_through_the_latent_vector(side):
    network = build_of(build, config_of(image_size=(side, side), model__latent_dim=5))
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
        ({"model__latent_dim": 0}, "latent_dim 0"),
        ({"train__accumulate": 2}, "accumulate 2: .* use 1"),
    ],
)
def test_options_that_cannot_be_built_are_rejected(fields, message):
    with pytest.raises(UserError, match=message):
        make_detector(config_of(**fields))
