"""PIADE against numbers of its authors' modules and of the thesis' description, and its options."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import golden as golden_numbers
from tests import golden_reconstruction as gold
from tests.factory import tiny_detector
from vtadl_jax.config import OptimizerOptions
from vtadl_jax.detectors.contract import Inputs
from vtadl_jax.detectors.piade import PiadeOptions, RoutingOptions, build
from vtadl_jax.detectors.rgb_reconstruction import compare
from vtadl_jax.errors import UserError
from vtadl_jax.networks.named_layers import count_values
from vtadl_jax.networks.pyramid import adaptive_average_pool
from vtadl_jax.training.optimizer import make_optimizer

STEM = "piade_seed21"
# (set, prefix of its arrays, options, weight decay)
OPTIONS = {"routing": RoutingOptions(stop_gradient=True), "norm_momentum": 0.95}
SETS = [
    ("main", "", PiadeOptions(version="official", **OPTIONS), 1e-3),
    ("thesis", "thesis_", PiadeOptions(**OPTIONS), 1e-4),
]
WEIGHTS = {"mse": 1.0, "ssim": 1.0, "perceptual": 1.0}
MAPS = ("stem", "se1", "se2", "se3", "se4", "se5", "decoder0", "decoder1", "decoder2")
# SSIM is computed in float32 whatever the rest is; it is a sum of both signs near zero.
SSIM_FLOOR = 2e-7


def precision(dtype):
    return jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext()


def check_terms(terms, total, loss, want, tolerance):
    assert float(loss) == pytest.approx(want["loss"], rel=tolerance, abs=SSIM_FLOOR)
    for name in ("mse", "perceptual"):
        np.testing.assert_allclose(terms[name], want["per_image"][name], rtol=tolerance)
    similarity = 1 - np.asarray(terms["dissimilarity"])
    np.testing.assert_allclose(
        similarity, want["per_image"]["ssim"], rtol=tolerance, atol=SSIM_FLOOR
    )
    np.testing.assert_allclose(total, want["per_image"]["score"], rtol=tolerance, atol=SSIM_FLOOR)


def check_stages(golden, mode, kept, tolerance):
    for name in MAPS:
        golden.check_array(f"{mode}_{name}", gold.nchw(kept[name]), tolerance)
    gold.check_recon(golden, mode, kept["recon"], tolerance)
    for i, level in enumerate("abcd"):
        golden.check_array(f"{mode}_pyramid_{level}", gold.nchw(kept[f"pyramid_{i}"]), tolerance)
    for name in ("caps", "c", "vectors", "upsample"):
        golden.check_array(f"{mode}_{name}", kept[name], tolerance)
    np.testing.assert_array_equal(
        np.asarray(kept["index"]), golden.arrays[f"{golden.prefix}{mode}_index"].ravel()
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("which", "prefix", "options", "decay"), SETS)
def test_scores_and_all_stages_match_the_golden_evaluation(which, prefix, options, decay, dtype):
    golden, tolerance = gold.Golden(STEM, which, prefix), 1e-6 if dtype == "float64" else 1e-4
    with precision(dtype):
        network = build(options, gold.inputs_of(golden, dtype))
        variables = golden.variables(network, dtype)
        images = jnp.asarray(golden.images, dtype)
        loss, (terms, total, kept, _) = jax.jit(
            lambda v, x: gold.run(network, v, x, WEIGHTS, False, dtype)
        )(variables, images)
    check_terms(terms, total, loss, golden.numbers["eval"], tolerance)
    check_stages(golden, "eval", kept, tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("which", "prefix", "options", "decay"), SETS)
def test_a_step_matches_the_golden_training(which, prefix, options, decay, dtype):
    golden, tolerance = gold.Golden(STEM, which, prefix), 1e-6 if dtype == "float64" else 1e-4
    with precision(dtype):
        network = build(options, gold.inputs_of(golden, dtype))
        variables = golden.variables(network, dtype)
        images = jnp.asarray(golden.images, dtype)

        step = gold.step_of(network, WEIGHTS, dtype)
        (loss, (terms, total, kept, stats)), grads = step(variables, variables["params"], images)
        tx = make_optimizer(OptimizerOptions(learning_rate=1e-3, weight_decay=decay), 1)
        updates, _ = tx.update(grads, tx.init(variables["params"]), variables["params"])
        (after, _), _ = step(variables, optax.apply_updates(variables["params"], updates), images)
    check_terms(terms, total, loss, golden.numbers["train"], tolerance)
    check_stages(golden, "train", kept, tolerance)
    # That of SSIM is float32 in both.
    gold.check_gradients(golden, network, grads, 1e-4 if dtype == "float64" else 0.02)
    gold.check_running(golden, stats, tolerance)
    assert float(after) == pytest.approx(golden.numbers["train"]["loss_after_adam_step"], rel=1e-3)


@pytest.mark.slow
def test_the_three_losses_match_the_golden_losses():
    golden = gold.Golden(STEM, "main")
    other = 0.9 * np.roll(golden.images, (1, 2), (1, 2)) + 0.05
    network = build(SETS[0][2], Inputs((120, 120)))
    vgg = golden.variables(network, "float32")["frozen"]["vgg"]
    terms, _ = compare(vgg, golden.images, jnp.asarray(other), WEIGHTS, "float32")
    want = golden_numbers.facts(STEM)["losses"]
    np.testing.assert_allclose(terms["mse"], want["mse"], rtol=1e-5)
    np.testing.assert_allclose(1 - terms["dissimilarity"], want["ssim"], rtol=1e-5)
    np.testing.assert_allclose(terms["perceptual"], want["perceptual"], rtol=1e-5)


@pytest.mark.parametrize(
    ("side", "version", "total"),
    [(120, "official", 36_961_459), (120, "thesis", 29_236_403), (32, "thesis", 13_427_059)],
)
def test_it_has_the_published_number_of_values(side, version, total):
    network = build(PiadeOptions(version=version), Inputs((side, side)))
    assert count_values(network.table) + count_values(network.backbone.table()) == total


def vector_gradients(stop_gradient, version="thesis"):
    """The largest gradient of each vector's matrices in a step."""
    routing = RoutingOptions(stop_gradient=stop_gradient, dim=8)
    network = build(
        PiadeOptions(version, routing=routing, backbone=gold.small_backbone(), squeeze=False),
        Inputs((32, 32)),
    )
    variables = network.init(jax.random.key(0))
    images = jax.random.uniform(jax.random.key(1), (4, 32, 32, 3))

    def value(params):
        forward = network.forward({**variables, "params": params}, jnp.float32, True)
        return jnp.square(images - network.reconstruct(forward, images)).mean()

    grads = jax.jit(jax.grad(value))(variables["params"])
    return jnp.abs(grads["caps"]["kernel"]).max((1, 2, 3))


@pytest.mark.slow
def test_a_vector_that_is_never_decoded_learns_by_the_full_gradient_only():
    first, second = vector_gradients(stop_gradient=True)
    assert first > 0
    assert second == 0
    assert min(vector_gradients(stop_gradient=False)) > 0


@pytest.mark.parametrize(("size_in", "size_out"), [(8, 8), (15, 8), (2, 8), (7, 3), (4, 1)])
def test_adaptive_pooling_is_the_mean_over_each_cell(size_in, size_out):
    x = np.random.default_rng(0).standard_normal((2, size_in, size_in, 3)).astype(np.float32)
    starts = [i * size_in // size_out for i in range(size_out)]
    ends = [-(-(i + 1) * size_in // size_out) for i in range(size_out)]
    want = [
        [x[:, a:b, c:d].mean((1, 2)) for c, d in zip(starts, ends, strict=True)]
        for a, b in zip(starts, ends, strict=True)
    ]
    found = adaptive_average_pool(jnp.asarray(x), size_out)
    np.testing.assert_allclose(found, np.stack([np.stack(r, 1) for r in want], 1), atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": (30, 30)}, r"image_size 30x30: .* use \((28, 28|32, 32)\)"),
        ({"model__backbone__width": 12}, "width 12: the pyramid has 1020 values, .* multiple of 8"),
        ({"model__backbone__blocks": (1, 2)}, r"blocks \(1, 2\)"),
        ({"model__version": "paper"}, "version 'paper'"),
    ],
)
def test_options_that_cannot_be_built_are_rejected(fields, message):
    with pytest.raises(UserError, match=message):
        tiny_detector("piade", **fields)
