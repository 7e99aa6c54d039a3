"""The U-Net: its loss against the definition, shapes, training, and rejected options."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.factory import tiny_config
from vtadl_jax.errors import UserError
from vtadl_jax.experiment import make_detector

unet = importlib.import_module("vtadl_jax.detectors.unet")  # the package has the function, too
SIZES = {"model__network__width": 4, "model__network__levels": 3}


def detector_of(**fields):
    return make_detector(tiny_config(detector="unet", **{**SIZES, **fields}))


def parts(count=8, seed=0):
    """Returns grey images, every second one with a bright square, and the squares' masks."""
    rng = np.random.default_rng(seed)
    images = rng.integers(90, 110, (count, 32, 32, 3), np.uint8)
    masks = np.zeros((count, 32, 32), np.uint8)
    for i in range(0, count, 2):
        y, x = rng.integers(2, 22, 2)
        images[i, y : y + 8, x : x + 8] = 220
        masks[i, y : y + 8, x : x + 8] = 1
    known = np.ones(count, bool)
    return {"image": images, "mask": masks, "has_mask": known}


def test_the_loss_terms_match_the_definition():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 4, 5)).astype(np.float32)
    mask = (rng.uniform(size=(3, 4, 5)) > 0.6).astype(np.uint8)
    mask[2] = 0
    known = np.array([True, False, True])
    bce, dice = unet.segmentation_terms(logits, mask, known, 5.0)
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    each = -np.where(mask, 5 * np.log(p), np.log(1 - p)).mean((1, 2))
    np.testing.assert_allclose(bce, each * known, rtol=1e-5)
    overlap = (2 * (p * mask).sum((1, 2)) + 1) / (p.sum((1, 2)) + mask.sum((1, 2)) + 1)
    np.testing.assert_allclose(dice, (1 - overlap) * [1, 0, 0], rtol=1e-5)


@pytest.mark.slow
def test_images_of_a_defect_without_a_mask_do_not_count():
    detector, batch = detector_of(), parts()
    variables, keys = detector.init(jax.random.key(0)), jax.random.split(jax.random.key(0), 8)
    batch["has_mask"] = np.zeros(8, bool)
    loss, _ = detector.loss(variables, batch, keys)
    assert float(loss) == 0


@pytest.mark.slow
def test_microbatches_do_not_change_results():
    batch, keys = parts(), jax.random.split(jax.random.key(0), 8)
    losses = []
    for count in (1, 4):
        detector = detector_of(train__accumulate=count)
        losses.append(float(detector.loss(detector.init(jax.random.key(0)), batch, keys)[0]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.slow
def test_it_learns_to_mark_squares():
    detector, batch = detector_of(), parts()
    variables, keys = detector.init(jax.random.key(0)), jax.random.split(jax.random.key(0), 8)
    tx = optax.adam(1e-2)
    params, state = variables["params"], None

    @jax.jit
    def step(params, state):
        def loss(params):
            return detector.loss({**variables, "params": params}, batch, keys)[0]

        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state)
        return optax.apply_updates(params, updates), state, value

    state = tx.init(params)
    for _ in range(150):
        params, state, value = step(params, state)
    test = parts(seed=1)
    maps = np.asarray(detector.score({**variables, "params": params}, test["image"]).anomaly_map)
    inside = maps[test["mask"] == 1].mean()
    assert float(value) < 0.2
    assert inside > maps[test["mask"] == 0].mean() + 2


def test_a_size_that_levels_do_not_divide_is_rejected():
    with pytest.raises(UserError, match=r"model\.network\.levels 3 needs multiples of 4"):
        detector_of(image_size=(30, 32))


@pytest.mark.slow
def test_logits_do_not_depend_on_the_rest_of_the_batch():
    options = unet.NetworkOptions(width=4, levels=2)
    params = unet.init_params(jax.random.key(0), options, 3)
    images = jnp.asarray(parts()["image"][:4], jnp.float32) / 127.5 - 1
    together, alone = unet.apply(params, images), unet.apply(params, images[:1])
    np.testing.assert_allclose(together[:1], alone, rtol=1e-4, atol=1e-5)
