"""The network's parts: parameter counts, supported shapes, dependencies between parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.factory import build_of, tiny_config, tiny_detector, with_fields
from vtadl_jax.detectors.contract import Inputs
from vtadl_jax.detectors.vtadl import build, build_decoder
from vtadl_jax.errors import UserError
from vtadl_jax.experiment import base, make_detector, parse
from vtadl_jax.networks.decoder import plan_decoder


def keys_for(images, seed=1):
    return jax.random.split(jax.random.key(seed), len(images))


def shapes_of(config):
    """Returns the variables' shapes without computing them."""
    network = build_of(build, config)
    images = jnp.zeros((1, *config.image_size, config.data.channels))
    return jax.eval_shape(lambda: network.init(jax.random.key(0), images))


def gradient(detector, variables, images):
    """Returns (gradient by the parameters, (terms, new stats)) of the loss."""

    def loss(params):
        return detector.loss({**variables, "params": params}, {"image": images}, keys_for(images))

    return jax.jit(jax.grad(loss, has_aux=True))(variables["params"])


def count(tree):
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


@pytest.mark.slow
def test_parameter_counts_of_the_paper_configuration():
    params = shapes_of(parse(base("vtadl")))["params"]
    width, depth, mlp, patch = 512, 6, 1024, 64 * 64 * 3
    block = 2 * 2 * width + 4 * width**2 + width + 2 * width * mlp + mlp + width
    encoder = (patch + 1) * width + 65 * width + width + depth * block
    assert count(params["encoder"]) == encoder == 18_933_248
    up = 8 * 8 * 8 * 64 + 4 * 4 * (64 * 64 + 64 * 32 + 32 * 16 + 16 * 3) + 3
    norms = 2 * (64 + 64 + 32 + 16)
    vector = (64 * width + 1) * 512
    assert count(params["decoder"]) == vector + up + norms == 16_918_115
    k, d = 150, 16
    heads = k * (1 + 2 * d + d * (d - 1) // 2)
    assert heads == 22_950
    assert count(params["mixture"]) == (width + 1) * heads + width * d == 11_781_542


@pytest.mark.parametrize(
    ("fields", "rows"),
    [
        ({"covariance": "diag"}, 1 + 2 * 16),
        ({"covariance": "full", "feature_dim": 4}, 1 + 2 * 4 + 6),
    ],
)
def test_parameter_counts_of_other_mixtures(fields, rows):
    config = with_fields(
        parse(base("vtadl")), **{f"model__mdn__{name}": value for name, value in fields.items()}
    )
    mixture = shapes_of(config)["params"]["mixture"]
    d = config.model.mdn.feature_dim
    assert count(mixture) == (512 + 1) * 150 * rows + 512 * d
    config = with_fields(config, model__mdn__conditional=False)
    assert count(shapes_of(config)["params"]["mixture"]) == 150 * rows + 512 * d


@pytest.mark.slow
def test_layers_are_scanned_so_that_the_program_does_not_grow_with_depth():
    def lines(depth):
        config = tiny_config(model__vit__depth=depth)
        detector, variables = make_detector(config), shapes_of(config)
        images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.uint8)
        return len(jax.jit(detector.score).lower(variables, images).as_text().splitlines())

    assert lines(2) == lines(12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "patch"),
    [
        ((28, 28), 7),
        ((32, 32), 8),
        ((64, 96), 16),
        ((96, 32), 32),
        ((48, 80), 16),
        ((512, 256), 64),
        ((128, 1024), 64),
    ],
)
def test_every_image_size_is_reconstructed(size, patch):
    config = tiny_config(
        image_size=size, model__vit__patch_size=patch, model__decoder__vector_dim=512
    )
    detector, variables = make_detector(config), shapes_of(config)
    images = jax.ShapeDtypeStruct((2, *size, 3), jnp.uint8)
    scores = jax.eval_shape(detector.score, variables, images)
    assert scores.recon.shape == (2, *size, 3)
    assert scores.anomaly_map.shape == (2, *size)
    assert scores.terms.shape == (2, 3)


@pytest.mark.parametrize(
    ("size", "base", "channels", "strides"),
    [
        ((512, 512), (8, 8), 8, (4, 2, 2, 2, 2)),
        ((256, 256), (8, 8), 8, (2, 2, 2, 2, 2)),
        ((28, 28), (7, 7), 10, (2, 2, 1, 1, 1)),
        ((256, 512), (8, 16), 4, (2, 2, 2, 2, 2)),
        ((96, 96), (6, 6), 14, (2, 2, 2, 2, 1)),
    ],
)
def test_decoder_plan(size, base, channels, strides):
    plan = plan_decoder(size, 512)
    assert (plan.base, plan.channels, plan.strides) == (base, channels, strides)
    assert np.prod(strides) * np.array(base) == pytest.approx(size)


def test_decoder_plan_rejects_sides_without_a_power_of_two():
    with pytest.raises(UserError, match=r"image_size 225x225.*vector_dim"):
        plan_decoder((225, 225), 512)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("image_size", (30, 32), "30 is not divisible by model.vit.patch_size 8: use 24"),
        (
            "model__vit__num_heads",
            3,
            "model.vit.width 16 is not divisible by model.vit.num_heads 3",
        ),
        ("model__mdn__covariance", "spherical", "use 'full' or 'diag'"),
        ("model__mdn__feature_dim", 17, "use 1 to model.vit.width = 16"),
        ("model__mdn__num_components", 0, "use 1 or more"),
        ("model__mdn__scale_floor", 0.0, "use more than 0"),
        ("model__decoder__sees", "patches", "use 'vector' or 'mean' or 'tokens'"),
        ("model__decoder__features", (8, 8), "widths of the 4 hidden layers"),
        (
            "detector",
            "vtald",
            "known are autoencoder, .*context_mdn, .*, vtadl",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_rejected(field, value, message):
    with pytest.raises(UserError, match=message):
        tiny_detector(**{field: value})


@pytest.fixture(scope="module")
def tiny():
    detector = tiny_detector()
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    return detector, detector.init(jax.random.key(0)), images


@pytest.mark.slow
def test_scoring_is_deterministic_and_independent_of_the_batch(tiny):
    detector, variables, images = tiny
    together = jax.jit(detector.score)(variables, images)
    alone = jax.jit(detector.score)(variables, images[2:3])
    np.testing.assert_allclose(together.terms[2], alone.terms[0], rtol=1e-4)
    np.testing.assert_allclose(together.anomaly_map[2], alone.anomaly_map[0], rtol=1e-4)
    assert together.anomaly_map.dtype == np.float32
    assert together.recon.dtype == np.uint8


@pytest.mark.slow
def test_noise_acts_in_training_only_and_on_the_density_only(tiny):
    detector, variables, images = tiny
    loss = jax.jit(detector.loss)
    terms = [loss(variables, {"image": images}, keys_for(images, seed))[1][0] for seed in (0, 0, 1)]
    assert terms[0]["nll"] == terms[1]["nll"] != terms[2]["nll"]
    assert terms[0]["mse"] == terms[2]["mse"]


def test_training_updates_batch_statistics_towards_the_batch(tiny):
    detector, variables, images = tiny
    _, (_, new) = jax.jit(detector.loss)(variables, {"image": images}, keys_for(images))
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), variables["stats"], new)
    assert all(jax.tree.leaves(moved))


@pytest.mark.slow
def test_stop_gradient_keeps_the_density_out_of_the_encoder():
    weights = {"model__loss__mse_weight": 0.0, "model__loss__ssim_weight": 0.0}
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)

    def encoder_gradient(stop):
        detector = tiny_detector(model__mdn__stop_gradient=stop, **weights)
        grads, _ = gradient(detector, detector.init(jax.random.key(0)), images)
        return max(float(abs(g).max()) for g in jax.tree.leaves(grads["encoder"]))

    assert encoder_gradient(True) == 0
    assert encoder_gradient(False) > 0


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{"dtype": "bfloat16"}, {"model__vit__remat": True}])
def test_compute_options_change_the_numbers_little(tiny, fields):
    detector, variables, images = tiny
    other = tiny_detector(**fields)
    args = (variables, {"image": images}, keys_for(images))
    want, got = (float(jax.jit(d.loss)(*args)[0]) for d in (detector, other))
    assert got == pytest.approx(want, rel=2e-2 if "dtype" in fields else 1e-5)


def reconstruct(sees, tokens):
    """Returns tokens of a 32×32 image, patches of 8, and a decoder of the tiny config, alone."""
    model = tiny_config(model__decoder__sees=sees).model
    decoder = build_decoder(model.decoder, model.vit.patch_size, Inputs((32, 32)))
    variables = decoder.init(jax.random.key(0), tokens, False)
    return decoder.apply(variables, tokens, False)


def test_a_token_decoder_makes_each_patch_from_its_own_token():
    tokens = np.random.default_rng(0).normal(size=(1, 16, 16)).astype(np.float32)
    other = tokens.copy()
    other[0, 6] += 1  # the second row's third
    changed = np.any(reconstruct("tokens", tokens) != reconstruct("tokens", other), (0, 3))
    rows, columns = np.nonzero(np.asarray(changed))
    assert set(rows) == set(range(8, 16))
    assert set(columns) == set(range(16, 24))


@pytest.mark.slow
def test_a_mean_decoder_ignores_the_order_of_tokens():
    tokens = np.random.default_rng(0).normal(size=(2, 16, 16)).astype(np.float32)
    turned = {sees: reconstruct(sees, tokens[:, ::-1]) for sees in ("mean", "vector")}
    np.testing.assert_allclose(turned["mean"], reconstruct("mean", tokens), atol=1e-5)
    assert np.abs(turned["vector"] - reconstruct("vector", tokens)).max() > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("sees", ["mean", "tokens"])
def test_other_decoders_train(sees):
    detector = tiny_detector(model__decoder__sees=sees)
    variables = detector.init(jax.random.key(0))
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    grads, (_, new) = gradient(detector, variables, images)
    assert jax.tree.structure(new) == jax.tree.structure(variables["stats"])
    assert all(np.any(g != 0) for g in jax.tree.leaves(grads["decoder"]))
