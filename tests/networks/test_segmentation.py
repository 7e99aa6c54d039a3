"""The segmentation networks: published counts, their authors' numbers, and files of weights."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.networks import segmentation_golden as golden
from vtadl_jax.errors import UserError
from vtadl_jax.networks.segmentation import NETWORKS
from vtadl_jax.networks.segmentation.layers import Forward, apply, init, key_of
from vtadl_jax.networks.segmentation.load import load
from vtadl_jax.networks.segmentation.vgg16 import PLACES, PLACES_NORMED, channels
from vtadl_jax.ops.pooling import flat_positions, max_pool_places
from vtadl_jax.ops.segmentation_losses import dice, pixel_cross_entropy

PUBLISHED = {  # table 7.1 of the thesis
    "fcn32s": 18_643_713,
    "unet_tiny": 3_352_257,
    "unet_plus_plus": 9_163_329,
    "unet2": 19_667_969,
    "segnet": 29_443_585,
}
NUM_ARRAYS = {  # of a state dict, counters included
    "fcn32s": 63,
    "unet_tiny": 128,
    "unet_plus_plus": 212,
    "unet2": 184,
    "segnet": 177,
}


def shapes_of(name):
    network = NETWORKS[name]()
    return network, *jax.eval_shape(functools.partial(init, network), jax.random.key(0))


def empty_file(name):
    """A state dict of zeros with everything that a network reads, in PyTorch's layouts."""
    arrays = {}
    for layer in NETWORKS[name]().layers:
        if layer.kind == "norm":
            for leaf in ("weight", "bias", "running_mean", "running_var"):
                arrays[f"{layer.name}.{leaf}"] = np.zeros(layer.outputs, np.float32)
            arrays[f"{layer.name}.num_batches_tracked"] = np.zeros((), np.int64)
            continue
        pair = (layer.outputs, layer.inputs)
        pair = pair if layer.kind == "conv" else pair[::-1]
        arrays[f"{layer.name}.weight"] = np.zeros((*pair, layer.size, layer.size), np.float32)
        arrays[f"{layer.name}.bias"] = np.zeros(layer.outputs, np.float32)
    return arrays


def test_every_network_is_tested_here():
    assert PUBLISHED.keys() == NETWORKS.keys() == NUM_ARRAYS.keys() == golden.THEIRS.keys()


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_are_as_many_as_published(name):
    _, params, stats = shapes_of(name)
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(params)) == PUBLISHED[name]
    assert len(empty_file(name)) == NUM_ARRAYS[name]
    assert stats.keys() <= params.keys()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_logit_a_pixel_at_sides_that_are_multiples(name):
    network, params, stats = shapes_of(name)
    sides = (network.multiple, 3 * network.multiple)
    for train in (False, True):
        run = functools.partial(apply, network, train=train, dtype=jnp.bfloat16)
        logits, new = jax.eval_shape(run, params, stats, jnp.zeros((2, *sides, 3)))
        assert logits.shape == (2, *sides)
        assert logits.dtype == jnp.float32
        assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, stats)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_repositorys_names_fill_every_weight(name):
    network, params, stats = shapes_of(name)
    found = load(network, params, stats, empty_file(name))
    assert jax.tree.map(np.shape, found) == jax.tree.map(np.shape, (params, stats))


def test_files_that_do_not_fit_are_told_by_array():
    network, params, stats = shapes_of("unet_tiny")
    arrays = empty_file("unet_tiny")
    for change, message in (
        ({"outc.conv.bias": None}, r"outc\.conv\.bias is missing"),
        ({"outc.conv.bias": np.zeros(2)}, r"outc\.conv\.bias is \[2\] instead of \[1\]"),
        ({"outc.conv.bias": np.full(1, np.nan)}, r"not finite"),
        ({"head.weight": np.zeros(1)}, r"has head\.weight, which this network does not have"),
        ({"features.0.weight": np.zeros(1)}, r"is a VGG16, and this network has no such"),
    ):
        changed = {k: v for k, v in {**arrays, **change}.items() if v is not None}
        with pytest.raises(UserError, match=message):
            load(network, params, stats, changed)
    with pytest.raises(UserError, match="which this network does not have"):
        load(network, params, stats, empty_file("unet2"))


def vgg16(normed=False):
    """ImageNet's VGG16 in torchvision's names; each array holds one number of its own."""
    arrays = {"classifier.0.weight": np.zeros(1, np.float32)}
    for i, (place, (inputs, outputs)) in enumerate(
        zip(PLACES_NORMED if normed else PLACES, channels(), strict=True), 1
    ):
        arrays[f"features.{place}.weight"] = np.full((outputs, inputs, 3, 3), i, np.float32)
        arrays[f"features.{place}.bias"] = np.full(outputs, i + 0.5, np.float32)
        if normed:
            for leaf in ("weight", "bias", "running_mean", "running_var"):
                arrays[f"features.{place + 1}.{leaf}"] = np.full(outputs, -i, np.float32)
    return arrays


@pytest.mark.parametrize(
    ("name", "normed"), [("fcn32s", False), ("segnet", False), ("segnet", True)]
)
def test_an_imagenet_vgg16_starts_the_encoder_in_its_order(name, normed):
    network, params, stats = shapes_of(name)
    found, running = load(network, params, stats, vgg16(normed))
    for i, layer in enumerate(network.vgg, 1):
        assert found[key_of(layer)]["kernel"].min() == found[key_of(layer)]["kernel"].max() == i
        assert found[key_of(layer)]["bias"][0] == i + 0.5
    for i, layer in enumerate(network.vgg_norms, 1):
        expected = -i if normed else params[key_of(layer)]["scale"]
        assert found[key_of(layer)]["scale"] is expected or found[key_of(layer)]["scale"][0] == -i
        assert normed == (running[key_of(layer)] is not stats[key_of(layer)])
    rest = params.keys() - {key_of(n) for n in (*network.vgg, *network.vgg_norms)}
    assert all(found[key] is params[key] for key in rest)


def test_a_vgg16_with_batch_norms_does_not_start_an_encoder_without():
    with pytest.raises(UserError, match="give one without them"):
        load(*shapes_of("fcn32s"), vgg16(normed=True))


class Recording(Forward):
    """A pass that remembers what each norm returned."""

    def norm(self, name, x):
        seen = super().norm(name, x)
        self.updates[f"seen {name}"] = seen
        return seen


def layers_of(name, dtype):
    """Evaluation logits and norms' outputs, compiled as one program."""
    network, params, stats = golden.loaded(name, dtype)
    images, _ = golden.batch(dtype)

    @jax.jit
    def run(params, stats):
        forward = Recording(params, stats, dtype=dtype)
        logits = network.apply(forward, images)[..., 0]
        return logits, forward.updates

    return run(params, stats)


@pytest.mark.parametrize(
    "name", [n if n == "unet_tiny" else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS]
)
def test_logits_in_float32_are_those_of_the_authors_code(name):
    golden.skip_without_golden()
    logits, _ = layers_of(name, np.float32)
    np.testing.assert_allclose(logits, golden.numbers(name)["eval_logits"][:, 0], atol=1e-4)


# Stored name → our norm of which it is the output, or its ReLU.
INNER = {
    "fcn32s": {"up1": "bn1", "up5": "bn5"},
    "unet_tiny": {"enc0": "inc.conv.conv.4", "bottom": "down4.mpconv.1.conv.4",
                  "dec1": "up1.conv.conv.4", "dec4": "up4.conv.conv.4"},
    "unet_plus_plus": {f"x{i}": f"conv{i[0]}_{i[1]}.bn2" for i in ("00", "40", "31", "02", "04")},
    "unet2": {"enc0": "inc.conv.conv.4", "bottom": "down4.mpconv.1.conv.4", "p4": "P4.conv.4",
              "dec1": "up1.conv.conv.4", "dec4": "up4.conv.conv.4"},
    "segnet": {n: n for n in ("bn12", "bn53", "bn53d", "bn12d")},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_inner_layers_in_float64_are_those_of_the_authors_code(name):
    golden.skip_without_golden()
    with jax.enable_x64(True):
        logits, seen = layers_of(name, np.float64)
    numbers = golden.numbers(name)
    np.testing.assert_allclose(logits, numbers["eval_logits"][:, 0], atol=1e-6)
    for stored, ours in INNER[name].items():
        x = np.asarray(seen[f"seen {ours}"]).transpose(0, 3, 1, 2)
        x = x[:, :: x.shape[1] // 8, :: max(x.shape[2] // 4, 1), :: max(x.shape[3] // 4, 1)]
        expected = numbers[f"eval_{stored}"]
        relu = name != "segnet" and name != "fcn32s"  # there the norm's own output was stored
        np.testing.assert_allclose(np.maximum(x, 0) if relu else x, expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(np.float64, 1e-5), (np.float32, 1e-3)], ids=("float64", "float32")
)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_training_step_is_that_of_the_authors_code(name, dtype, tolerance):
    golden.skip_without_golden()
    facts, numbers = golden.facts(name), golden.numbers(name)
    with jax.enable_x64(dtype == np.float64):
        network, params, stats = golden.loaded(name, dtype)
        images, truth = golden.batch(dtype)

        def loss(params):
            logits, new = apply(network, params, stats, images, train=True, dtype=dtype)
            terms = {
                "bce": pixel_cross_entropy(logits, truth).mean(),
                "dice": (1 - dice(logits, truth, 1e-5)).mean(),
                "dice_whole_batch_smooth1": 1 - dice(logits, truth, 1.0, (0, 1, 2)),
            }
            return 0.5 * terms["bce"] + terms["dice"], (logits, new, terms)

        (_, (logits, new, terms)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    close = 1e-6 if dtype == np.float64 else 1e-4
    np.testing.assert_allclose(logits[:, ::2, ::2], numbers["train_logits"][:, 0], atol=close)
    for term, value in terms.items():
        assert float(value) == pytest.approx(facts["train_losses"][term], rel=close), term
    if name == "segnet" and dtype == np.float32:
        tolerance = 5e-3  # rounding moves some maxima to another pixel
    for array, expected in facts["grad_norms"].items():
        layer, _, leaf = array.rpartition(".")
        group = grads[key_of(layer)]
        found = group["bias"] if leaf == "bias" else group.get("kernel", group.get("scale"))
        if expected == 0:  # of biases before a norm
            assert not np.asarray(found).any()
        else:
            length = float(np.linalg.norm(np.asarray(found, np.float64)))
            assert length == pytest.approx(expected, rel=tolerance), array
    for layer, (mean, var) in facts["running_sums_after_one_training_forward"].items():
        assert np.asarray(new[key_of(layer)]["mean"]).sum() == pytest.approx(mean, abs=1e-4)
        assert np.asarray(new[key_of(layer)]["var"]).sum() == pytest.approx(var, rel=1e-5)


@pytest.mark.slow
def test_the_places_of_segnets_maxima_are_those_of_the_authors_code(monkeypatch):
    golden.skip_without_golden()
    from vtadl_jax.networks.segmentation import segnet

    kept = []

    def pool(x):
        kept.append(flat_positions(max_pool_places(x)[1]))
        return max_pool_places(x)

    monkeypatch.setattr(segnet, "max_pool_places", pool)
    with jax.enable_x64(True):
        network, params, stats = golden.loaded("segnet", np.float64)
        images, _ = golden.batch(np.float64)

        @jax.jit
        def run(params):
            kept.clear()
            apply(network, params, stats, images, dtype=np.float64)
            return list(kept)

        found = run(params)
    for stage, positions in enumerate(found, 1):
        positions = np.asarray(positions).transpose(0, 3, 1, 2)[:, ::16]
        positions = positions if stage == 5 else positions[:, :, ::2, ::2]
        np.testing.assert_array_equal(positions, golden.numbers("segnet")[f"index{stage}"])


def test_running_statistics_keep_the_unbiased_variance():
    x = np.random.default_rng(0).normal(size=(2, 2, 2, 32)).astype(np.float32)
    name = "inc.conv.conv.1"
    key = key_of(name)
    params = {key: {"scale": jnp.ones(32), "bias": jnp.zeros(32)}}
    stats = {key: {"mean": jnp.zeros(32), "var": jnp.ones(32)}}
    forward = Forward(params, stats, train=True)
    out = forward.norm(name, x)
    np.testing.assert_allclose(np.var(out, (0, 1, 2)), 1, rtol=1e-4)
    expected = 0.9 + 0.1 * np.var(x, (0, 1, 2), ddof=1)
    np.testing.assert_allclose(forward.updates[key]["var"], expected, rtol=1e-5)
