"""Elastic weight consolidation: penalty and Fisher information against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.factory import tiny_config, tiny_detector
from vtadl_jax.detectors.consolidation import (
    consolidated,
    fisher_diagonal,
    penalty,
    with_start,
    without_start,
)
from vtadl_jax.detectors.contract import Detector, Scores
from vtadl_jax.errors import UserError
from vtadl_jax.experiment import make_detector


def line_detector():
    """One weight for each of two numbers of an image: loss = mean of (w · x − 1)²."""

    def init(key):
        return {"params": {"w": jnp.array([0.5, -1.0])}, "stats": {}, "frozen": {}}

    def loss(variables, batch, keys, parallel=None):
        x = batch["image"].reshape(len(batch["image"]), 2).astype(jnp.float32)
        error = jnp.square(x @ variables["params"]["w"] - 1).mean()
        return error, ({"error": error}, variables["stats"])

    def score(variables, images):
        assert variables["frozen"] == {}
        return Scores(images.reshape(len(images), 2).astype(jnp.float32))

    return Detector(init, score, ("a", "b"), (1.0, 1.0), loss)


IMAGES = np.array([[1, 2], [3, 0], [0, 5], [2, 2], [9, 9]], np.uint8).reshape(5, 1, 2, 1)


def test_the_information_is_the_mean_squared_gradient_of_each_image():
    detector = line_detector()
    variables = detector.init(jax.random.key(0))
    w, squares = np.array([0.5, -1.0]), []
    for x in IMAGES[:4].reshape(4, 2).astype(float):
        squares.append(np.square(2 * (w @ x - 1) * x))
    # The last row is padding.
    batches = [
        {"image": IMAGES[:3], "valid": np.ones(3, bool)},
        {"image": IMAGES[[3, 4, 4]], "valid": np.array([True, False, False])},
    ]
    found = fisher_diagonal(detector, variables, batches, jax.random.key(1))
    np.testing.assert_allclose(found["w"], np.mean(squares, 0), rtol=1e-6)


def test_the_penalty_is_a_sum_over_weights():
    rng = np.random.default_rng(0)
    now, start, fisher = (
        {"a": rng.normal(size=(2, 3)).astype(np.float32), "b": {"c": np.float32(rng.normal())}}
        for _ in range(3)
    )
    want = 0.0
    for name in ("a", "c"):
        n, s, f = (np.ravel(t[name] if name in t else t["b"][name]) for t in (now, start, fisher))
        want += sum(3.5 / 2 * f[i] * (n[i] - s[i]) ** 2 for i in range(len(n)))
    assert float(penalty(now, start, fisher, 3.5)) == pytest.approx(want, rel=1e-5)
    assert float(penalty(now, now, fisher, 3.5)) == 0


def test_the_loss_has_the_penalty_and_the_score_has_not():
    detector = consolidated(line_detector(), 10.0)
    plain = line_detector().init(jax.random.key(0))
    fisher = {"w": jnp.array([1.0, 0.0])}
    variables = with_start(plain, {"w": jnp.array([0.0, 7.0])}, fisher)
    keys = jax.random.split(jax.random.key(0), 4)
    total, (terms, _) = detector.loss(variables, {"image": IMAGES[:4]}, keys)
    assert float(terms["consolidation"]) == pytest.approx(10 / 2 * 0.25)
    assert float(total) == pytest.approx(float(terms["error"] + terms["consolidation"]))
    detector.score(variables, IMAGES)  # it asserts that old weights are not handed on
    assert without_start(variables) == plain
    shapes = [jax.tree.map(jnp.shape, v) for v in (detector.init(jax.random.key(0)), variables)]
    assert shapes[0] == shapes[1]


def test_of_equal_weights_one_that_matters_stays_and_the_other_moves():
    detector = consolidated(line_detector(), 100.0)
    plain = line_detector().init(jax.random.key(0))
    variables = with_start(plain, plain["params"], {"w": jnp.array([1.0, 0.0])})
    batch, keys = {"image": IMAGES[:1]}, jax.random.split(jax.random.key(0), 1)

    @jax.jit
    def descend(params):
        grads = jax.grad(lambda p: detector.loss({**variables, "params": p}, batch, keys)[0])(
            params
        )
        return jax.tree.map(lambda p, g: p - 0.005 * g, params, grads)

    params = plain["params"]
    for _ in range(200):
        params = descend(params)
    moved = np.abs(np.asarray(params["w"]) - [0.5, -1.0])
    assert moved[0] < 0.01 < 1 < moved[1]


@pytest.mark.slow
def test_a_real_method_has_information_everywhere():
    detector = tiny_detector("autoencoder", model__latent_dim=8)
    variables = detector.init(jax.random.key(0))
    images = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), dtype=np.uint8)
    found = fisher_diagonal(detector, variables, [{"image": images}], jax.random.key(0))
    for leaf in jax.tree.leaves(found):
        assert np.isfinite(leaf).all()
        assert (leaf >= 0).all()
    assert any((leaf > 0).all() for leaf in jax.tree.leaves(found))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"detector": "autoencoder", "model__latent_dim": 8}, "start_from is empty"),
        (
            {"detector": "position_gaussian", "start_from": "x", "num_train_steps": 0}
            | {"num_epochs": 0},
            "takes no steps",
        ),
    ],
)
def test_a_penalty_without_old_weights_is_refused(fields, reason):
    with pytest.raises(UserError, match=reason):
        make_detector(tiny_config(start_penalty=1.0, **fields))
