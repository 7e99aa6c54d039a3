"""The pyramidal auto-encoder against numbers computed from its description, and its options."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import golden_reconstruction as gold
from tests.factory import tiny_detector
from vtadl_jax.config import OptimizerOptions
from vtadl_jax.detectors.contract import Inputs
from vtadl_jax.detectors.pyramid_ae import CodesOptions, PyramidOptions, build
from vtadl_jax.errors import UserError
from vtadl_jax.networks import perceptual
from vtadl_jax.networks.named_layers import count_values
from vtadl_jax.training.optimizer import make_optimizer

STEM = "pyramid_ae_seed22"
SETS = [("main", ""), ("mnist", "mnist_")]
WEIGHTS = {"mse": 1.0, "ssim": 0.0, "perceptual": 1.0}
AUTHORS = PyramidOptions(codes=CodesOptions(norm_momentum=0.95))
STAGES = ("stem", "layer1", "layer2", "layer3", "layer4", "decoder_in")


def precision(dtype):
    return jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("which", "prefix"), SETS)
def test_scores_and_all_stages_match_the_golden_evaluation(which, prefix, dtype):
    golden, tolerance = gold.Golden(STEM, which, prefix), 1e-6 if dtype == "float64" else 1e-4
    with precision(dtype):
        network = build(AUTHORS, gold.inputs_of(golden, dtype))
        variables = golden.variables(network, dtype)
        images = jnp.asarray(golden.images, dtype)
        loss, (terms, total, kept, _) = jax.jit(
            lambda v, x: gold.run(network, v, x, WEIGHTS, False, dtype)
        )(variables, images)
    want = golden.numbers["eval"]
    assert float(loss) == pytest.approx(want["loss"], rel=tolerance)
    for name in ("mse", "perceptual"):
        np.testing.assert_allclose(terms[name], want["per_image"][name], rtol=tolerance)
    np.testing.assert_allclose(total, want["per_image"]["score"], rtol=tolerance)
    check_stages(golden, "eval", kept, tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("which", "prefix"), SETS)
def test_a_step_matches_the_golden_training(which, prefix, dtype):
    golden, tolerance = gold.Golden(STEM, which, prefix), 1e-6 if dtype == "float64" else 1e-4
    with precision(dtype):
        network = build(AUTHORS, gold.inputs_of(golden, dtype))
        variables = golden.variables(network, dtype)
        images = jnp.asarray(golden.images, dtype)

        step = gold.step_of(network, WEIGHTS, dtype)
        (loss, (terms, total, kept, stats)), grads = step(variables, variables["params"], images)
        tx = make_optimizer(OptimizerOptions(learning_rate=1e-4, weight_decay=1e-4), 1)
        updates, _ = tx.update(grads, tx.init(variables["params"]), variables["params"])
        (after, _), _ = step(variables, optax.apply_updates(variables["params"], updates), images)
    want = golden.numbers["train"]
    assert float(loss) == pytest.approx(want["loss"], rel=tolerance)
    np.testing.assert_allclose(total, want["per_image"]["score"], rtol=tolerance)
    np.testing.assert_allclose(terms["mse"], want["per_image"]["mse"], rtol=tolerance)
    check_stages(golden, "train", kept, tolerance)
    gold.check_gradients(golden, network, grads, 1e-6 if dtype == "float64" else 0.02)
    gold.check_running(golden, stats, tolerance)
    assert float(after) == pytest.approx(want["loss_after_adam_step"], rel=1e-3)


def check_stages(golden, mode, kept, tolerance):
    for name in STAGES:
        golden.check_array(f"{mode}_{name}", gold.nchw(kept[name]), tolerance)
    gold.check_recon(golden, mode, kept["recon"], tolerance)
    codes = np.stack([kept[f"code_{i}"] for i in range(4)], 1)
    golden.check_array(f"{mode}_latent", codes, tolerance)
    for i in range(4):
        golden.check_array(f"{mode}_pyramid_{i}", kept[f"pyramid_{i}"], tolerance)
    for name in sorted(n for n in kept if n.startswith("decoder") and n != "decoder_in"):
        if f"{golden.prefix}{mode}_{name}" in golden.arrays:
            golden.check_array(f"{mode}_{name}", gold.nchw(kept[name]), tolerance)


def network_of(side=32, scales=(1, 2, 3, 6), **options):
    return build(PyramidOptions(codes=CodesOptions(scales), **options), Inputs((side, side)))


@pytest.mark.parametrize(
    ("side", "total", "upsampling", "decoder"),
    [(120, 13_083_233, 1_058_176, 170_227), (28, 12_037_153, 67_456, 114_867)],
)
def test_it_has_the_published_number_of_values(side, total, upsampling, decoder):
    network = network_of(side)
    counts = {
        part: count_values({n: x for n, x in network.table.items() if n.startswith(part)})
        for part in ("pyramid", "encoder", "upsample", "decoder")
    }
    assert counts == {
        "pyramid": 525_822, "encoder": 152_496, "upsample": upsampling, "decoder": decoder,
    }  # fmt: skip
    assert count_values(network.backbone.table()) == 11_176_512
    assert count_values(network.table) + 11_176_512 == total
    assert count_values(perceptual.TABLE) == 75_648


@pytest.mark.parametrize(
    ("side", "scales", "channels"),
    [(28, (1,), 40), (28, (1, 2), 48), (120, (1, 2, 3, 4, 5, 6), 1280), (256, (1, 2, 3, 6), 4096)],
)
def test_the_decoder_starts_from_every_number_of_encoders(side, scales, channels):
    assert network_of(side, scales).table["decoder.0"].shape[2] == channels


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": (32, 48)}, r"image_size 32x48: .* use \(32, 32\)"),
        ({"image_size": (100, 100)}, r"image_size 100x100: .* use \(120, 120\)"),
        ({"train__accumulate": 2}, "accumulate 2: .* use 1"),
        (
            {"model__backbone__width": 1, "model__codes__scales": (1, 2, 3)},
            "width 1: the joined map has 56 values, which 8x8 does not divide",
        ),
        ({"model__codes__scales": (1, 999)}, r"scales \(1, 999\): the ResNet has 512 channels"),
        (
            {"model__loss__mse_weight": 0.0, "model__loss__perceptual_weight": 0.0},
            "all weights are 0",
        ),
    ],
)
def test_options_that_cannot_be_built_are_rejected(fields, message):
    with pytest.raises(UserError, match=message):
        tiny_detector("pyramid_ae", **fields)
