"""The segmentation detector: its loss, what it learns from, devices, and rejected options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.detectors.test_unet import parts
from tests.factory import tiny_config
from tests.networks.small_segmentation import shrink
from tests.networks.test_segmentation import vgg16
from tests.training.steps import IMAGES, make_step
from vtadl_jax.detectors.segmentation import SegmentationLossOptions, loss_terms, total_of
from vtadl_jax.errors import UserError
from vtadl_jax.experiment import load, make_detector
from vtadl_jax.networks.segmentation.pixels import PIXELS, normalize_pixels
from vtadl_jax.training.assembly import load_pretrained

MASKS = {"mask": parts()["mask"], "has_mask": np.ones(8, bool)}


def config_of(**fields):
    return tiny_config(detector="segmentation", **fields)


def logits_and_masks():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 4, 5)).astype(np.float32)
    masks = (rng.uniform(size=(3, 4, 5)) > 0.6).astype(np.float32)
    return logits, masks, np.array([1, 0, 1], np.float32)


def test_the_loss_is_half_cross_entropy_and_dice_of_known_images():
    logits, masks, known = logits_and_masks()
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    each = -np.where(masks > 0, np.log(p), np.log(1 - p)).mean((1, 2))
    overlap = (2 * (p * masks).sum((1, 2)) + 1e-5) / ((p + masks).sum((1, 2)) + 1e-5)
    terms = loss_terms(logits, masks, known, "sum")
    expected = {"bce": (known * each).mean(), "dice_loss": (known * (1 - overlap)).mean()}
    for name, value in expected.items():
        assert float(terms[name]) == pytest.approx(value, rel=1e-5)
    total = float(total_of(terms, SegmentationLossOptions()))
    assert total == pytest.approx(0.5 * expected["bce"] + expected["dice_loss"], rel=1e-5)


def test_the_adaptive_loss_changes_from_cross_entropy_to_dice_of_the_batch():
    logits, masks, known = logits_and_masks()
    options = SegmentationLossOptions(form="adaptive")
    p, y = 1 / (1 + np.exp(-logits[known > 0])), masks[known > 0]
    whole = 1 - (2 * (p * y).sum() + 1) / ((p + y).sum() + 1)
    terms = loss_terms(logits, masks, known, "adaptive")
    assert float(terms["dice_loss"]) == pytest.approx(whole, rel=1e-5)
    assert float(total_of(terms, options)) == float(terms["bce"])
    sure = np.where(masks > 0, 9, -9).astype(np.float32)
    terms = loss_terms(sure, masks, known, "adaptive")
    assert float(total_of(terms, options)) == float(terms["dice_loss"])
    dice_loss = jax.jit(lambda x: loss_terms(x, masks, known, "adaptive")["dice_loss"])
    grad = jax.grad(dice_loss)(logits)
    assert np.isfinite(grad).all()
    assert not grad[1].any()


def test_pixels_are_normalized_as_in_the_repositories():
    image = np.array([[[[10, 100, 200]]]], np.uint8)
    rgb = np.array([10, 100, 200]) / 255
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = {
        "imagenet": (rgb - mean) / deviation,
        "unit": rgb,
        "fcn": rgb[::-1] - np.array([103.939, 116.779, 123.68]) / 255,
        "nested_unet": (rgb[::-1] - mean) / deviation / 255,
    }
    assert expected.keys() == PIXELS.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(normalize_pixels(image, name)[0, 0, 0], values, atol=1e-6)
    grey = normalize_pixels(image[..., :1], "unit")
    np.testing.assert_allclose(grey[0, 0, 0], [10 / 255] * 3, atol=1e-7)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": (40, 33)}, r"needs multiples of 16: use --config\.image_size=32,32"),
        (
            {"model__network": "segnet", "image_size": (48, 32)},
            r"'segnet' needs multiples of 32: use --config\.image_size=64,32",
        ),
        ({"train__accumulate": 2}, r"train\.accumulate 2: batch norm needs the whole batch"),
        ({"model__drawn__share": 0.3}, r"model\.drawn is not read with model\.defects 'masks'"),
        ({"model__network": "unet3"}, r"model\.network 'unet3': use 'fcn32s' or"),
        (
            {"model__loss__form": "adaptive", "model__loss__dice_weight": 2.0},
            "are not read with model.loss.form 'adaptive'",
        ),
        (
            {"model__loss__form": "adaptive", "train__parallel": "pmap"},
            r"use --config\.train\.parallel=jit",
        ),
        (
            {"model__loss__bce_weight": 0.0, "model__loss__dice_weight": 0.0},
            r"model\.loss: both weights are 0",
        ),
        (
            {"model__defects": "drawn", "model__drawn__smallest": 0.5},
            r"model\.drawn\.smallest 0\.5 is above model\.drawn\.largest 0\.2",
        ),
    ],
)
def test_options_that_do_not_fit_are_rejected(fields, message):
    with pytest.raises(UserError, match=message):
        make_detector(config_of(**fields))


def test_masks_are_read_only_where_defects_are_not_drawn():
    assert make_detector(config_of()).needs == {"mask"}
    assert not make_detector(config_of(model__defects="drawn")).needs


@pytest.mark.parametrize("argument", ["", ":drawn", ":magnetic_tile", ":drawn-magnetic_tile"])
def test_the_config_folds_or_draws(argument):
    config, name = load(f"configs/segmentation.py{argument}")
    drawn = "drawn" in argument
    assert name == ("segmentation-drawn" if drawn else "segmentation")
    assert config.model.defects == ("drawn" if drawn else "masks")
    assert (config.data.folds, config.data.balanced_batches) == ((0, False) if drawn else (5, True))
    assert config.data.category == ("magnetic_tile" if "tile" in argument else "")
    assert config.data.group_gap == (150 if argument == ":magnetic_tile" else 0)


@pytest.mark.parametrize("network", ["fcn32s", "segnet"])
def test_a_vgg16_starts_a_detector(network):
    detector = make_detector(config_of(model__network=network))
    variables = jax.eval_shape(detector.init, jax.random.key(0))
    found = load_pretrained(detector, variables, vgg16(), "vgg16.pth")
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, variables)
    tiny = make_detector(config_of())
    with pytest.raises(UserError, match=r"init_from vgg16\.pth: is a VGG16, and this network has"):
        load_pretrained(tiny, jax.eval_shape(tiny.init, jax.random.key(0)), vgg16(), "vgg16.pth")


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["jit", "pmap"])
def test_eight_devices_compute_what_one_does(monkeypatch, parallel):
    """Batch norm's moments are of the whole batch, however it is spread."""
    shrink(monkeypatch)
    config = config_of(train__parallel=parallel)
    found = []
    for devices in (1, 8):
        state, step, batch = make_step(config, devices, **MASKS)
        state, metrics = step(state, batch)
        found.append(jax.device_get((metrics, state.stats, state.params)))
    (one, stats, params), (eight, stats_eight, _) = found
    for name in one:
        assert float(eight[name]) == pytest.approx(float(one[name]), rel=1e-4), name
    for a, b in zip(jax.tree.leaves(stats), jax.tree.leaves(stats_eight), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    before_norms = [layer["bias"] for name, layer in params.items() if name.endswith("conv_0")]
    assert before_norms
    assert not any(bias.any() for bias in before_norms)  # no gradient, so no step


@pytest.mark.slow
@pytest.mark.parametrize("defects", ["masks", "drawn"])
def test_it_learns_to_mark_squares(monkeypatch, defects):
    """Of masks, and of drawn defects alone."""
    shrink(monkeypatch)
    options = {"learning_rate": 1e-2, "weight_decay": 0.0}
    config = config_of(
        model__defects=defects,
        eval__map_sigma=1.0,
        **{f"optimizer__{name}": value for name, value in options.items()},
    )
    given = parts()
    good = np.random.default_rng(5).integers(90, 110, IMAGES.shape, np.uint8)
    images = given["image"] if defects == "masks" else good
    batch = {"image": images, **(MASKS if defects == "masks" else {})}
    state, step, batch = make_step(config, **batch)
    for _ in range(100):
        state, _ = step(state, batch)
    test = parts(seed=1)
    detector = make_detector(config)
    maps = np.asarray(jax.jit(detector.score)(state.variables, test["image"]).anomaly_map)
    inside, outside = (maps[test["mask"] == value].mean() for value in (1, 0))
    assert inside > outside + 2
