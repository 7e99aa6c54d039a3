"""EfficientNet-lite0: features against a plain network of the file's layers; rejected files."""

import jax
import numpy as np
import pytest

from tests.factory import tiny_config
from tests.networks.encoder_references import efficientnet_levels
from vtadl_jax.errors import UserError
from vtadl_jax.experiment import make_detector
from vtadl_jax.networks import efficientnet
from vtadl_jax.networks.efficientnet import (
    LITE0,
    LITES,
    blocks_of,
    image_features,
    num_features,
    taps_of,
    weight_shapes,
)
from vtadl_jax.training.assembly import assemble
from vtadl_jax.training.setup import read_pretrained


def state_dict(seed=0, name=LITE0):
    """Returns random layers under the names and in the layouts of the published file."""
    rng, arrays = np.random.default_rng(seed), {}

    def add(convolution, norm, shape):
        fan_in = np.prod(shape[1:])
        arrays[f"{convolution}.weight"] = rng.normal(0, (2 / fan_in) ** 0.5, shape)
        width = shape[0]
        arrays[f"{norm}.weight"] = rng.uniform(0.5, 1.5, width)
        arrays[f"{norm}.bias"] = rng.normal(0, 0.2, width)
        arrays[f"{norm}.running_mean"] = rng.normal(0, 0.2, width)
        arrays[f"{norm}.running_var"] = rng.uniform(0.5, 1.5, width)
        arrays[f"{norm}.num_batches_tracked"] = np.array(3)

    add("_conv_stem", "_bn0", (32, 3, 3, 3))
    for i, block in enumerate(blocks_of(name)):
        inner, root = block.width_in * block.expansion, f"_blocks.{i}."
        if block.expansion > 1:
            add(root + "_expand_conv", root + "_bn0", (inner, block.width_in, 1, 1))
        add(root + "_depthwise_conv", root + "_bn1", (inner, 1, block.size, block.size))
        add(root + "_project_conv", root + "_bn2", (block.width, inner, 1, 1))
    arrays["_fc.bias"] = np.zeros(7)  # of the classifier, which is ignored
    return {k: np.asarray(v, np.int64 if v.ndim == 0 else np.float32) for k, v in arrays.items()}


def plain_levels(arrays, images):
    """Returns the outputs that are read, layer by layer as in PyTorch, [B, C, H, W]."""

    def layer(x, convolution, norm, stride=1, relu=True):
        kernel = arrays[f"{convolution}.weight"]
        groups = x.shape[1] if kernel.shape[1] == 1 and "depthwise" in convolution else 1
        x = jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), "SAME", feature_group_count=groups
        )
        scale, bias, mean, variance = (
            arrays[f"{norm}.{leaf}"][:, None, None]
            for leaf in ("weight", "bias", "running_mean", "running_var")
        )
        x = (x - mean) / np.sqrt(variance + 1e-3) * scale + bias
        return np.clip(x, 0, 6) if relu else x

    x = np.repeat((images.astype(np.float32) - 127) / 128, 3, -1).transpose(0, 3, 1, 2)
    x = layer(x, "_conv_stem", "_bn0", 2)
    levels = []
    for i, block in enumerate(blocks_of()):
        before, root = x, f"_blocks.{i}."
        if block.expansion > 1:
            x = layer(x, root + "_expand_conv", root + "_bn0")
        x = layer(x, root + "_depthwise_conv", root + "_bn1", block.stride)
        x = layer(x, root + "_project_conv", root + "_bn2", relu=False)
        if block.stride == 1 and block.width_in == block.width:
            x = x + before
        if i in taps_of():
            levels.append(np.asarray(x))
    return levels


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "lite0.npz"
    np.savez(path, **state_dict())
    return path


@pytest.mark.slow
def test_features_are_those_of_the_files_own_layers():
    images = np.random.default_rng(1).integers(0, 256, (2, 32, 48, 1)).astype(np.uint8)
    got = np.asarray(jax.jit(image_features)(efficientnet.load(state_dict()), images))
    assert got.shape == (2, 4, 6, 176)
    fine, middle, coarse = (
        level.transpose(0, 2, 3, 1) for level in plain_levels(state_dict(), images)
    )
    fine = fine.reshape(2, 4, 2, 6, 2, 24).mean((2, 4))
    np.testing.assert_allclose(got[..., :24], fine, atol=2e-4)
    np.testing.assert_allclose(got[..., 24:64], middle, atol=2e-4)
    # Half-pixel centres: the corner keeps its value, the next one is a quarter of the way on.
    np.testing.assert_allclose(got[:, 0, 0, 64:], coarse[:, 0, 0], atol=2e-4)
    between = 0.75 * coarse[:, 0, 0] + 0.25 * coarse[:, 0, 1]
    np.testing.assert_allclose(got[:, 0, 1, 64:], between, atol=2e-4)


def config_of(**fields):
    defaults = {"model__features": "efficientnet_lite0", "data__channels": 1}
    fields = {**defaults, "model__context__windows": (1, 2), **fields}
    return tiny_config(detector="context_mdn", **fields)


@pytest.mark.slow
def test_a_detector_starts_with_the_weights_and_fitting_keeps_them(file):
    config = config_of(init_from=str(file))
    detector = make_detector(config)
    arrays = read_pretrained(config, detector)
    variables = assemble(config, 1, detector, arrays).make_state().variables
    images = np.random.default_rng(1).integers(0, 256, (4, 32, 32, 1)).astype(np.uint8)
    gathered = jax.device_get(detector.fit.gather(variables, images, jax.random.key(1)))
    assert gathered["window_1"].shape == (4, 16, 176)
    fitted = detector.fit.solve(variables, gathered, np.random.default_rng(0))
    weights = efficientnet.load(state_dict())
    assert weights.keys() == weight_shapes().keys() == fitted["frozen"].keys()
    for name, layer in fitted["frozen"].items():
        np.testing.assert_array_equal(layer["kernel"], weights[name]["kernel"])
    assert np.isfinite(detector.score(fitted, images).terms).all()


def to_timm(arrays, name):
    """The same layers under timm's names."""
    found = {}
    for old, array in arrays.items():
        head, _, rest = old.partition(".")
        if head != "_blocks":
            new = {"_conv_stem": "conv_stem", "_bn0": "bn1"}.get(head, "classifier")
            found[f"{new}.{rest}"] = array
            continue
        number, part, leaf = rest.split(".")
        block = blocks_of(name)[int(number)]
        names = ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2")
        timm = ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3")
        if block.expansion == 1:
            timm = ("", "", "conv_dw", "bn1", "conv_pw", "bn2")
        new = timm[names.index(part)]
        found[f"blocks.{block.stage}.{block.number}.{new}.{leaf}"] = array
    return found


@pytest.mark.parametrize("name", LITES)
def test_timms_names_are_read_too(name):
    arrays = state_dict(name=name)
    want = efficientnet.load(arrays, name)
    assert {n: layer["kernel"].shape for n, layer in want.items()} == weight_shapes(name)
    jax.tree.map(
        np.testing.assert_array_equal, want, efficientnet.load(to_timm(arrays, name), name)
    )


def test_larger_variants_have_their_widths_and_depths():
    assert [num_features(name) for name in LITES] == [176, 176, 192]
    assert [len(blocks_of(name)) for name in LITES] == [11, 15, 15]
    assert [taps_of(name) for name in LITES] == [(2, 4, 10), (3, 6, 14), (3, 6, 14)]
    for name in LITES:
        images = jax.ShapeDtypeStruct((2, 32, 48, 3), np.uint8)
        weights = jax.eval_shape(lambda name=name: efficientnet.empty_weights(name))
        out = jax.eval_shape(lambda w, x, name=name: image_features(w, x, name), weights, images)
        assert out.shape == (2, 4, 6, num_features(name))


@pytest.mark.parametrize("rename", [lambda arrays, name: arrays, to_timm])
def test_another_variants_file_names_the_one_that_fits(rename):
    for wrong, right in (("lite0", "lite1"), ("lite2", "lite1"), ("lite1", "lite0")):
        name = f"efficientnet_{right}"
        with pytest.raises(UserError, match=rf"is not EfficientNet-{wrong} .*features={name}$"):
            efficientnet.load(rename(state_dict(name=name), name), f"efficientnet_{wrong}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("_blocks.3._bn1.running_var"), "_blocks.3._bn1.running_var is missing"),
        (
            lambda a: a.update({"_blocks.2._project_conv.weight": np.zeros((7, 144, 1, 1))}),
            r"_blocks.2._project_conv.weight is \[7, 144, 1, 1\]",
        ),
        (lambda a: a["_conv_stem.weight"].fill(np.nan), "not finite"),
    ],
)
def test_another_networks_file_is_rejected(change, message):
    arrays = state_dict()
    change(arrays)
    with pytest.raises(UserError, match=message):
        efficientnet.load(arrays)


def test_weights_must_be_given_and_sides_must_fit():
    config = config_of()
    with pytest.raises(UserError, match=r"needs pretrained weights: give --config\.init_from=FILE"):
        read_pretrained(config, make_detector(config))
    with pytest.raises(UserError, match=r"image_size \(24, 32\).*multiples of 16"):
        make_detector(config_of(image_size=(24, 32)))
    with pytest.raises(UserError, match=r"model\.features 'filter': .*use one of"):
        make_detector(config_of(model__features="filter"))


@pytest.mark.slow
@pytest.mark.parametrize("name", LITES)
def test_levels_are_those_of_timm(name):
    for package in ("torch", "timm"):
        pytest.importorskip(package, reason=f"{package} is not installed (extra bench)")
    arrays = state_dict(name=name)
    images = np.random.default_rng(1).integers(0, 256, (1, 32, 48, 3)).astype(np.uint8)
    weights = efficientnet.load(arrays, name)
    got = np.asarray(jax.jit(lambda w, x: image_features(w, x, name))(weights, images))
    fine, middle, coarse = efficientnet_levels(name, images, to_timm(arrays, name))
    fine = fine.reshape(1, 4, 2, 6, 2, -1).mean((2, 4))
    ends = np.cumsum([fine.shape[-1], middle.shape[-1]])
    np.testing.assert_allclose(got[..., : ends[0]], fine, atol=2e-4)
    np.testing.assert_allclose(got[..., ends[0] : ends[1]], middle, atol=2e-4)
    np.testing.assert_allclose(got[:, 0, 0, ends[1] :], coarse[:, 0, 0], atol=2e-4)
