"""Detectors that are fitted or start from statistics, against slow definitions of their maps."""

import dataclasses
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from tests.factory import tiny_config
from vtadl_jax.detectors.context_mdn import tempered
from vtadl_jax.detectors.position_gaussian import patch_statistics
from vtadl_jax.errors import UserError
from vtadl_jax.experiment import make_detector
from vtadl_jax.ops.color import normalise, opponents
from vtadl_jax.ops.filters import filter_bank_reference
from vtadl_jax.ops.mixture import mixture_log_prob_reference
from vtadl_jax.training.fitting import collect

NAMES = ("filter_mixture", "position_gaussian", "context_mdn", "image_mixture")


def config_of(name, **fields):
    defaults = {"data__channels": 1, "eval__map_sigma": 0.0}
    if name != "image_mixture":
        defaults["model__filters__stride"] = 8
    if name == "context_mdn":
        defaults["model__context__windows"] = (1, 2)
    return tiny_config(detector=name, **{**defaults, **fields})


def draw_images(count=12, seed=0):
    """Returns smooth images, so that filter responses vary, each with its own noise."""
    rng = np.random.default_rng(seed)
    waves = np.sin(np.arange(32)[:, None] / 4 + rng.uniform(0, 6, (count, 1, 1)))
    noise = rng.normal(size=(count, 32, 32))
    return np.uint8(np.clip(120 + 40 * waves + 12 * noise, 0, 255))[..., None]


def fitted(config, images):
    detector = make_detector(config)
    detector = dataclasses.replace(detector, score=jax.jit(detector.score))
    variables = detector.init(jax.random.key(0))
    gather = jax.jit(detector.fit.gather)
    rows = jax.device_get(gather(variables, images, jax.random.key(1)))
    gathered = collect(detector.fit, [rows])
    return detector, variables, detector.fit.solve(variables, gathered, np.random.default_rng(0))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_fitting_keeps_shapes_and_types_and_scores_are_finite(name):
    images = draw_images()
    detector, before, after = fitted(config_of(name), images)
    shapes = [jax.tree.map(lambda x: (x.shape, jnp.dtype(x.dtype)), v) for v in (before, after)]
    assert shapes[0] == shapes[1]
    scores = detector.score(after, images[:3])
    assert scores.anomaly_map.shape == (3, 32, 32)
    assert scores.terms.shape == (3, len(detector.score_terms))
    assert scores.recon is None
    assert np.isfinite(scores.terms).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_spot_has_the_largest_score_at_its_position(name):
    images = draw_images(40)
    detector, _, variables = fitted(config_of(name), images)
    if name == "context_mdn":
        variables = trained(detector, variables, images)
    spoilt = images[:2].copy()
    spoilt[1, 16:24, 8:16] = np.random.default_rng(5).integers(0, 255, (8, 8, 1))
    maps = detector.score(variables, spoilt).anomaly_map
    row, column = np.unravel_index(np.argmax(maps[1] - maps[0]), (32, 32))
    assert 10 <= row < 30
    assert 2 <= column < 22
    assert maps[1].max() > maps[0].max()


def trained(detector, variables, images, steps=60):
    keys = jax.random.split(jax.random.key(0), len(images))

    @jax.jit
    def step(params):
        def value(params):
            return detector.loss({**variables, "params": params}, {"image": images}, keys)[0]

        loss, grads = jax.value_and_grad(value)(params)
        return jax.tree.map(lambda p, g: p - 0.01 * jnp.clip(g, -1, 1), params, grads), loss

    params, losses = variables["params"], []
    for _ in range(steps):
        params, loss = step(params)
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    return {**variables, "params": params}


@pytest.mark.slow
def test_the_filter_mixture_matches_its_definition():
    images = draw_images()
    detector, _, variables = fitted(config_of("filter_mixture"), images)
    params, statistics = variables["params"], variables["stats"]
    responses = filter_bank_reference(images[..., 0] / 255, 8)
    y = (responses - statistics["mean"]) @ statistics["whitener"]
    covariance = np.linalg.inv(params["precision"] @ params["precision"].swapaxes(1, 2))
    want = -mixture_log_prob_reference(
        params["logits"], params["loc"], np.linalg.cholesky(covariance), jnp.float32(y)
    )
    got = detector.score(variables, images).terms[:, 1]
    np.testing.assert_allclose(got, want.mean((1, 2)), rtol=2e-2, atol=2e-2)


@pytest.mark.slow
def test_the_position_gaussian_matches_its_definition():
    images = draw_images(50)
    detector, _, variables = fitted(config_of("position_gaussian"), images)
    values = np.asarray(patch_statistics(images[..., 0] / 255.0, 8), np.float64)
    residual = values - values.mean(0)
    covariance = np.einsum("nhwi,nhwj->hwij", residual, residual) / len(images)
    pooled = covariance.mean((0, 1)) + 1e-6 * np.eye(4)
    nll = [
        -stats.multivariate_normal(
            values[:, i, j].mean(0), 0.9 * covariance[i, j] + 0.1 * pooled
        ).logpdf(values[:, i, j])
        for i in range(4)
        for j in range(4)
    ]
    got = detector.score(variables, images).terms[:, 1]
    np.testing.assert_allclose(got, np.mean(nll, 0), rtol=1e-2, atol=1e-2)


def test_statistics_of_a_patch():
    grey = np.zeros((1, 4, 4), np.float32)
    grey[0, :, 2:] = 1
    mean, spread, across, down = np.asarray(patch_statistics(grey, 4))[0, 0, 0]
    np.testing.assert_allclose([mean, spread, across, down], [0.5, 0.5, 1 / 3, 0], atol=1e-5)


def test_normalised_images_are_invariant_to_light():
    grey = np.random.default_rng(0).uniform(0.3, 0.5, (2, 16, 16)).astype(np.float32)
    got, want = normalise(jnp.asarray(1.8 * grey)), normalise(jnp.asarray(grey))
    assert np.abs(got - want).max() < 0.1 * np.abs(want).max()


@pytest.mark.parametrize("name", NAMES[:3])
def test_a_stride_must_divide_the_image(name):
    with pytest.raises(UserError, match=r"model\.filters\.stride 5"):
        make_detector(config_of(name, model__filters__stride=5))


def test_rings_must_exclude_the_position():
    with pytest.raises(UserError, match="radii"):
        make_detector(config_of("context_mdn", model__context__radii=(0,)))


@pytest.mark.parametrize(
    ("windows", "message"),
    [
        ((), "from 1 to the 4 places"),
        ((2, 1), "from 1 to the 4 places"),
        ((0, 2), "use 1 or more"),
        ((1, 8), "from 1 to the 4 places"),
    ],
)
def test_windows_grow_and_fit_the_grid(windows, message):
    with pytest.raises(UserError, match=rf"windows \({str(windows)[1:-1]}\): .*{message}"):
        make_detector(config_of("context_mdn", model__context__windows=windows))


@pytest.mark.slow
@pytest.mark.parametrize("half_counted_at", [8.0, 1e6])
def test_the_map_is_the_smallest_windows_surprise_and_the_others_excess(
    monkeypatch, half_counted_at
):
    module = importlib.import_module("vtadl_jax.detectors.context_mdn")
    monkeypatch.setattr(module, "HALF_COUNTED_AT", half_counted_at)
    images = draw_images(20)
    scores = {}
    for windows in ((1,), (2,), (1, 2)):
        config = config_of("context_mdn", model__context__windows=windows)
        detector, _, variables = fitted(config, images)
        for size in variables["params"].values():  # expectation 0 and the same deviation everywhere
            size["expected"]["kernel"] = jnp.zeros_like(size["expected"]["kernel"])
        scores[windows] = detector.score(variables, images[:2])
    alone = np.asarray(scores[1,].anomaly_map)
    large = np.asarray(scores[1, 2].anomaly_map) - alone
    assert np.abs(large).max() > 0
    np.testing.assert_allclose(scores[1,].terms[:, 2], scores[1, 2].terms[:, 2], rtol=1e-5)
    excess = np.asarray(scores[2,].anomaly_map) / (np.log(2) + 0.5)
    if half_counted_at == 1e6:  # no compression
        np.testing.assert_allclose(large, 2 * excess, rtol=1e-3, atol=1e-3)
    else:  # this test compresses after the interpolation, the program before it
        counted = 2 * np.asarray(tempered(excess))
        assert np.abs(counted - 2 * excess).max() > 1
        np.testing.assert_allclose(large, counted, rtol=5e-3, atol=1e-3)


def test_large_excesses_of_large_windows_are_compressed():
    excess = np.linspace(-20, 500, 10_000, dtype=np.float32)
    counted = np.asarray(tempered(excess))
    assert (np.diff(counted) > 0).all()
    np.testing.assert_array_equal(counted[excess <= 0], excess[excess <= 0])
    np.testing.assert_allclose(tempered(0.05), 0.05, rtol=1e-2)
    np.testing.assert_allclose(tempered(np.expm1(3.0) * 8), 24, rtol=1e-6)


@pytest.mark.slow
def test_noise_on_the_context_is_in_training_only():
    images = draw_images()
    losses = {}
    for noise in (0.0, 0.3):
        config = config_of("context_mdn", model__mdn__noise_std=noise)
        detector, _, variables = fitted(config, images)
        keys = jax.random.split(jax.random.key(0), len(images))
        value = detector.loss(variables, {"image": images}, keys)[0]
        again = detector.loss(variables, {"image": images}, keys)[0]
        assert value == again
        losses[noise] = float(value), np.asarray(detector.score(variables, images).terms)
    assert losses[0.0][0] != losses[0.3][0]
    np.testing.assert_array_equal(losses[0.0][1], losses[0.3][1])


@pytest.mark.slow
def test_a_stain_of_equal_brightness_is_seen_by_its_colour():
    grey = draw_images(40)
    images = np.repeat(grey, 3, -1)
    spoilt = images[:2].copy()
    spot = spoilt[1, 16:24, 8:16].astype(np.float64)
    spoilt[1, 16:24, 8:16] = np.rint(spot + np.array([30, 0, -30 * 0.299 / 0.114])).clip(0, 255)
    change = {}
    for color in (False, True):
        fields = {"data__channels": 3, "model__filters__color": color}
        detector, _, variables = fitted(config_of("context_mdn", **fields), images)
        variables = trained(detector, variables, images)
        maps = np.asarray(detector.score(variables, np.stack([images[1], spoilt[1]])).anomaly_map)
        change[color] = np.abs(maps[1] - maps[0])
    assert change[True].max() > 10 * change[False].max()
    row, column = np.unravel_index(np.argmax(change[True]), (32, 32))
    assert 12 <= row < 28
    assert 4 <= column < 20


def test_colours_are_invariant_to_light_and_grey_has_none():
    images = np.random.default_rng(0).integers(60, 120, (2, 16, 16, 3)).astype(np.uint8)
    for before, after in zip(opponents(images), opponents(2 * images), strict=True):
        assert np.abs(after - before).max() < 0.3 * np.abs(before).max()
    for found in opponents(np.repeat(images[..., :1], 3, -1)):
        np.testing.assert_allclose(found, 0, atol=1e-6)
