"""Reconstruction of features: network, gradients of hard positions, loss, and what is learned."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.detectors.fits import draw_images, fit, small_features
from tests.factory import tiny_config
from vtadl_jax.detectors.feature_reconstruction import cosine_distance, scale_easy_gradients
from vtadl_jax.errors import UserError
from vtadl_jax.experiment import make_detector
from vtadl_jax.networks import reconstructor
from vtadl_jax.networks.reconstructor import ReconstructorOptions

NAME = "feature_reconstruction"
SMALL = {
    "model__network__width": 16,
    "model__network__hidden": 16,
    "model__network__num_heads": 2,
}
OPTIONS = ReconstructorOptions(width=8, hidden=12, depth=2, num_heads=2, dropout=0.5)


def tokens_of(count=3, places=5, seed=0):
    return np.random.default_rng(seed).normal(size=(count, places, 6)).astype(np.float32)


def small_params():
    return jax.jit(lambda key: reconstructor.init(key, 6, OPTIONS))(jax.random.key(0))


def reference(params, tokens):
    """The network without dropout in float64, one block at a time."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)

    def dense(x, layer):
        return x @ layer["kernel"] + layer["bias"]

    def normalise(x, norm):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * norm[
            "scale"
        ] + norm["bias"]

    def gelu(x):
        return np.asarray(jax.nn.gelu(jnp.asarray(x, jnp.float32)), np.float64)

    def attend(q, k, v):  # of one head of one image: [N, d]
        q, k = (np.where(x > 0, x, np.expm1(x)) + 1 for x in (q, k))
        weights = q @ k.T
        return weights / weights.sum(-1, keepdims=True) @ v

    x = dense(gelu(dense(tokens, params["squeeze"])), params["expand"])
    for number in range(OPTIONS.depth):
        layer = jax.tree.map(lambda leaf, n=number: leaf[n], params["blocks"])
        qkv = dense(normalise(x, layer["norm_attention"]), layer["qkv"])
        q, k, v = np.split(qkv, 3, -1)
        side = OPTIONS.width // OPTIONS.num_heads
        heads = [slice(side * h, side * (h + 1)) for h in range(OPTIONS.num_heads)]
        found = np.stack(
            [
                np.concatenate([attend(q[b, :, h], k[b, :, h], v[b, :, h]) for h in heads], -1)
                for b in range(len(x))
            ]
        )
        x = x + dense(found, layer["out"])
        x = x + dense(gelu(dense(normalise(x, layer["norm_mlp"]), layer["up"])), layer["down"])
    return dense(normalise(x, params["norm"]), params["head"])


def test_the_network_matches_its_definition():
    tokens = tokens_of()
    params = small_params()
    got = jax.jit(lambda p: reconstructor.apply(p, tokens, OPTIONS))(params)
    np.testing.assert_allclose(got, reference(params, tokens), rtol=1e-4, atol=1e-4)


def test_an_image_s_dropout_is_that_of_its_key_wherever_it_stands():
    tokens = tokens_of()
    params = small_params()
    keys = jax.random.split(jax.random.key(1), 3)
    apply = jax.jit(lambda tokens, keys: reconstructor.apply(params, tokens, OPTIONS, keys=keys))
    together, alone = apply(tokens, keys), apply(tokens[1:2], keys[1:2])
    np.testing.assert_allclose(together[1:2], alone, atol=1e-5)
    assert np.abs(together - apply(tokens, jax.random.split(jax.random.key(2), 3))).max() > 1e-2


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 1.0])
def test_gradients_of_the_easiest_positions_of_each_image_are_scaled(share):
    found, wanted = tokens_of(2, 11), tokens_of(2, 11, seed=1)

    @jax.jit
    def loss(found, weight):
        scaled = scale_easy_gradients(found, wanted, share, weight)
        return cosine_distance(scaled, wanted, (1, 2)).sum(), scaled

    plain, (scaled, values) = (
        jax.grad(loss, has_aux=True)(found, 1.0)[0],
        jax.grad(loss, has_aux=True)(found, 0.1),
    )
    np.testing.assert_allclose(values, found, rtol=1e-6)
    ratio = np.linalg.norm(scaled, axis=-1) / np.linalg.norm(plain, axis=-1)
    order = np.argsort(np.asarray(cosine_distance(found, wanted)), 1)
    for image in range(2):
        easy = order[image, : int(share * 10)]
        want = np.ones(11)
        want[easy] = 0.1
        np.testing.assert_allclose(ratio[image], want, rtol=1e-4)


@pytest.mark.slow
def test_the_loss_is_the_cosine_distance_of_the_whole_map_and_counts_steps():
    images = draw_images(6)
    detector, variables = fit(NAME, images, **SMALL, model__network__dropout=0.0)
    keys = jax.random.split(jax.random.key(0), 6)
    loss, (terms, stats) = jax.jit(detector.loss)(variables, {"image": images}, keys)
    patches = small_features(images).reshape(-1, 10)
    spread = variables["stats"]["spread"]
    np.testing.assert_allclose(spread, patches.std(0), rtol=0.3)  # of random places
    wanted = (small_features(images) - variables["stats"]["mean"]) / spread
    wanted = wanted.reshape(6, -1, 10)
    options = ReconstructorOptions(width=16, hidden=16, depth=2, num_heads=2)
    found = np.float64(reconstructor.apply(variables["params"], np.float32(wanted), options))
    products = (found * wanted).sum((1, 2))
    norms = np.sqrt(np.square(found).sum((1, 2)) * np.square(wanted).sum((1, 2)))
    np.testing.assert_allclose(loss, (1 - products / norms).mean(), rtol=1e-3)
    assert terms.keys() == {"cosine"}
    assert stats["step"] == variables["stats"]["step"] + 1


@pytest.mark.slow
def test_training_lowers_good_distances_and_a_spot_raises_them_around_it():
    images = draw_images(40)
    detector, variables = fit(NAME, images, **SMALL, model__network__dropout=0.1)
    tx = optax.adam(1e-2)

    @jax.jit
    def step(params, stats, opt_state, key):
        def value(params):
            changed = {**variables, "params": params, "stats": stats}
            return detector.loss(changed, {"image": images}, jax.random.split(key, len(images)))

        (loss, (_, stats)), grads = jax.value_and_grad(value, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state)
        return optax.apply_updates(params, updates), stats, opt_state, loss

    params, stats = variables["params"], variables["stats"]
    opt_state, losses = tx.init(params), []
    for key in jax.random.split(jax.random.key(0), 200):
        params, stats, opt_state, loss = step(params, stats, opt_state, key)
        losses.append(float(loss))
    assert losses[-1] < 0.2 * losses[0]
    assert stats["step"] == 200
    trained = {**variables, "params": params, "stats": stats}
    spoilt = images[1:2].copy()
    spoilt[0, 16:24, 8:16] = np.random.default_rng(5).integers(0, 255, (8, 8, 1))
    good, bad = detector.score(trained, images[1:2]), detector.score(trained, spoilt)
    change = np.asarray(bad.anomaly_map - good.anomaly_map)[0, 4::8, 4::8]  # of each position
    around = np.zeros((4, 4), bool)
    around[1:, :3] = True
    assert change[around].mean() > 2 * change[~around].mean()
    assert bad.terms[0, 0] > 1.3 * good.terms[0, 0]


@pytest.mark.slow
@pytest.mark.parametrize(("count", "size"), [(1, (16, 40)), (3, (32, 16))], ids=str)
def test_constant_images_and_other_grids_have_finite_losses_and_scores(count, size):
    images = np.full((count, *size, 1), 80, np.uint8)
    detector, variables = fit(NAME, images, **SMALL)
    keys = jax.random.split(jax.random.key(0), count)

    def value(params):
        return detector.loss({**variables, "params": params}, {"image": images}, keys)[0]

    loss, grads = jax.jit(jax.value_and_grad(value))(variables["params"])
    assert np.isfinite(loss)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    scores = detector.score(variables, images)
    assert scores.anomaly_map.shape == (count, *size)
    assert np.isfinite(scores.terms).all()


def test_heads_must_divide_the_width():
    fields = {"model__network__width": 10, "model__network__num_heads": 4}
    with pytest.raises(UserError, match=r"model\.network\.num_heads 4: does not divide"):
        make_detector(tiny_config(detector=NAME, **fields))
