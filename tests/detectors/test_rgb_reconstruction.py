"""What pyramid_ae and piade share: devices, torchvision's files, frozen networks, grey images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.factory import tiny_config
from tests.golden_reconstruction import AXES, LEAVES
from tests.training.steps import make_step
from vtadl_jax.detectors.contract import Inputs
from vtadl_jax.detectors.pyramid_ae import CodesOptions, PyramidOptions, build
from vtadl_jax.errors import UserError
from vtadl_jax.experiment import make_detector
from vtadl_jax.networks import perceptual
from vtadl_jax.networks.named_layers import Layer, count_values, init
from vtadl_jax.networks.resnet import BackboneOptions, Resnet
from vtadl_jax.training.setup import read_pretrained
from vtadl_jax.weights.files import write_arrays

SMALL = {"model__backbone__width": 8, "model__backbone__blocks": (1, 1, 1, 1)}
BACKBONE = Resnet(8, (1, 1, 1, 1))


def state_dict(table, prefix, seed=0):
    """Random arrays of a table's layers in PyTorch's layouts and names."""
    rng, arrays = np.random.default_rng(seed), {}
    for name, layer in table.items():
        theirs = name.removeprefix(prefix)
        leaves = LEAVES if layer.kind == "norm" else {"weight": "kernel"}
        for leaf in leaves:
            arrays[f"{theirs}.{leaf}"] = rng.uniform(0.5, 1.5, layer.shape).astype(np.float32)
        if layer.kind != "norm":
            kernel = arrays[f"{theirs}.weight"]
            arrays[f"{theirs}.weight"] = kernel.transpose(np.argsort(AXES["conv"]))
            if layer.bias:
                arrays[f"{theirs}.bias"] = rng.uniform(0, 1, layer.shape[-1:]).astype(np.float32)
    return arrays


RESNET = state_dict(BACKBONE.table(), "resnet.") | {"fc.bias": np.zeros(7, np.float32)}
VGG = state_dict(perceptual.TABLE, "vgg.") | {"classifier.6.bias": np.zeros(7, np.float32)}


@pytest.fixture
def files(tmp_path):
    pytest.importorskip("safetensors")
    found = tmp_path / "resnet.safetensors", tmp_path / "vgg.safetensors"
    for path, arrays in zip(found, (RESNET, VGG), strict=True):
        write_arrays(path, arrays)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pyramid_ae", "piade"])
def test_eight_devices_compute_what_one_device_does(name):
    runs = []
    for devices, fsdp, parallel in ((1, 1, "jit"), (8, 1, "jit"), (8, 1, "pmap"), (2, 4, "jit")):
        config = tiny_config(detector=name, **SMALL, train__parallel=parallel)
        state, step, batch = make_step(config, devices, fsdp=fsdp)
        state, metrics = step(state, batch)
        runs.append(({n: float(v) for n, v in metrics.items()}, jax.device_get(state.stats)))
    (metrics, stats), *others = runs
    for other_metrics, other_stats in others:
        assert other_metrics == pytest.approx(metrics, rel=1e-3)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), other_stats, stats
        )


def test_both_files_are_read_and_nothing_is_random(files, capsys):
    config = tiny_config(detector="pyramid_ae", **SMALL, init_from=",".join(map(str, files)))
    detector = make_detector(config)
    arrays = read_pretrained(config, detector)
    assert "random" not in capsys.readouterr().err
    variables = jax.eval_shape(detector.init, jax.random.key(0))
    loaded = detector.load_pretrained(variables, arrays)
    assert jax.tree.map(jnp.shape, loaded) == jax.tree.map(lambda x: x.shape, variables)
    kernel = RESNET["layer2.0.conv1.weight"]
    found = loaded["params"]["resnet.layer2.0.conv1"]["kernel"]
    np.testing.assert_array_equal(found, kernel.transpose(2, 3, 1, 0))
    found = loaded["stats"]["resnet.layer2.0.downsample.1"]["var"]
    np.testing.assert_array_equal(found, RESNET["layer2.0.downsample.1.running_var"])
    found = loaded["frozen"]["vgg"]["vgg.features.3"]["bias"]
    np.testing.assert_array_equal(found, VGG["features.3.bias"])


@pytest.mark.parametrize(
    ("given", "fields", "message"),
    [
        ((), {}, "a ResNet of width 8 and the loss's VGG-11 have random weights"),
        ((0,), {}, "the loss's VGG-11 has random weights"),
        ((1,), {}, "a ResNet of width 8 has random weights"),
        ((), {"model__loss__perceptual_weight": 0.0}, "a ResNet of width 8 has random weights"),
    ],
)
def test_a_new_run_says_what_is_random(files, capsys, given, fields, message):
    paths = ",".join(str(files[i]) for i in given)
    config = tiny_config(detector="pyramid_ae", **SMALL, **fields, init_from=paths)
    read_pretrained(config, make_detector(config))
    assert f"warning: {message}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arrays", "fields", "message"),
    [
        ({"a": np.zeros(1)}, {}, r"holds neither conv1\.weight of a ResNet .* nor features\.0"),
        (VGG, {"model__loss__perceptual_weight": 0.0}, "VGG-11, which is not read .* leave it out"),
        (RESNET, {"model__backbone__width": 16}, r"conv1\.weight is \[8, 3, 7, 7\], a shape of an"),
        ({"conv1.weight": RESNET["conv1.weight"]}, {}, r"bn1\.weight is missing"),
        (
            RESNET | {"bn1.bias": np.full(8, np.nan, np.float32)},
            {},
            r"bn1\.bias has values that are not finite",
        ),
    ],
)
def test_files_that_do_not_fit_are_named(arrays, fields, message):
    detector = make_detector(tiny_config(detector="pyramid_ae", **{**SMALL, **fields}))
    variables = jax.eval_shape(detector.init, jax.random.key(0))
    with pytest.raises(UserError, match=message):
        detector.load_pretrained(variables, arrays)


def test_the_same_network_twice_is_refused(files):
    path = files[0]
    config = tiny_config(detector="pyramid_ae", **SMALL, init_from=f"{path},{path}")
    with pytest.raises(UserError, match=r"\(of \d+ names\) is in another of the files"):
        read_pretrained(config, make_detector(config))


@pytest.mark.slow
def test_a_frozen_resnet_keeps_its_weights_and_statistics():
    config = tiny_config(detector="pyramid_ae", **SMALL, model__backbone__trained=False)
    detector = make_detector(config)
    state, step, batch = make_step(config)
    assert not any(name.startswith("resnet.") for name in (*state.params, *state.stats))
    before = jax.device_get(state.frozen)
    loaded = detector.load_pretrained(state.variables, RESNET)["frozen"]["backbone"]
    assert jax.tree.map(np.shape, loaded) == jax.tree.map(np.shape, before["backbone"])
    state, metrics = step(state, batch)
    assert metrics["grad_norm"] > 0
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.frozen), before)


@pytest.mark.slow
def test_grey_images_are_seen_as_rgb_of_equal_channels():
    grey = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 1), np.uint8)
    scores = []
    for channels in (1, 3):
        detector = make_detector(
            tiny_config(detector="pyramid_ae", **SMALL, data__channels=channels)
        )
        variables = detector.init(jax.random.key(0))
        images = np.broadcast_to(grey, (2, 32, 32, channels))
        scores.append(jax.jit(detector.score)(variables, images))
    np.testing.assert_allclose(scores[0].terms, scores[1].terms, rtol=1e-5)
    assert scores[0].recon.shape == (2, 32, 32, 1)


def test_a_batch_of_one_image_is_refused():
    network = build(
        PyramidOptions(BackboneOptions(8, (1, 1, 1, 1)), CodesOptions((1,))), Inputs((32, 32))
    )
    variables = jax.eval_shape(network.init, jax.random.key(0))

    def value(variables, images):
        return network.reconstruct(network.forward(variables, jnp.float32, True), images)

    with pytest.raises(UserError, match=r"batch_size 1: .* use 2 or more"):
        jax.eval_shape(value, variables, jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32))


@pytest.mark.parametrize(
    ("kind", "shape", "matrix"),
    [
        ("conv", (3, 3, 4, 8), lambda k: k.reshape(-1, 8)),
        ("conv", (1, 1, 4, 8), lambda k: k.reshape(-1, 8).T),
        ("dense", (6, 3), lambda k: k),
        ("up", (3, 3, 5, 4), lambda k: k.transpose(0, 1, 3, 2).reshape(-1, 5)),
    ],
)
def test_orthogonal_kernels_are_orthonormal_on_the_shorter_side(kind, shape, matrix):
    params, _ = init(jax.random.key(0), {"a": Layer(kind, shape)}, "orthogonal")
    m = np.asarray(matrix(params["a"]["kernel"]))
    np.testing.assert_allclose(m.T @ m, np.eye(m.shape[1]), atol=1e-5)
    assert not params["a"]["bias"].any()


@pytest.mark.parametrize(
    ("scheme", "kind", "deviation"),
    [("uniform", "conv", 1 / (3 * 9 * 16)), ("uniform", "up", 1 / (3 * 9 * 32)),
     ("he", "conv", 2 / (9 * 32))],
)  # fmt: skip
def test_other_schemes_have_the_spread_of_pytorchs(scheme, kind, deviation):
    table = {"a": Layer(kind, (3, 3, 16, 32)), "n": Layer("norm", (4,))}
    params, stats = init(jax.random.key(0), table, scheme)
    kernel = np.asarray(params["a"]["kernel"])
    assert kernel.var() == pytest.approx(deviation, rel=0.1)
    assert np.abs(kernel.mean()) < 0.1 * deviation**0.5
    bound = np.abs(kernel).max()
    assert scheme == "he" or bound < (3 * deviation) ** 0.5
    assert bool(np.any(params["a"]["bias"])) == (scheme == "uniform")
    assert count_values(table) == 9 * 16 * 32 + 32 + 8
    assert stats["n"]["var"].tolist() == [1] * 4
