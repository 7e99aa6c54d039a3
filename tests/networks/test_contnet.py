"""ConTNet: features as of its definition and of its authors' program; files that do not fit."""

import dataclasses

import jax
import numpy as np
import pytest

from tests import golden
from tests.networks.contnet_files import SMALL, VARIANT, reference, state_dict
from vtadl_jax.errors import UserError
from vtadl_jax.networks import contnet, contnet_load
from vtadl_jax.networks.contnet_layout import ContNet, net_of, taps_of, weight_shapes
from vtadl_jax.networks.feature_options import ContnetOptions
from vtadl_jax.networks.features import FeatureOptions, make_features

STEM = "contnet_b_seed31"
STAGES = ("layer1", "layer2", "layer3", "layer4")
# Of the golden arrays: [:, ::channels, ::places, ::places].
SLICES = {
    "stem": (8, 8), "l1b0": (8, 8), "layer1": (8, 5), "layer2": (8, 3), "l3b4": (8, 3),
    "layer3": (8, 2), "l4b1": (8, 2), "layer4": (16, 2),
}  # fmt: skip


def run(arrays, pixels, net, layers, dtype):
    """The stem's and the layers' outputs, [B, C, h, w]; pixels: [B, 3, H, W], standardized."""
    weights = contnet_load.load(arrays, net, dtype=dtype)
    taps = taps_of(net, layers)

    @jax.jit
    def outputs(weights, pixels):
        stem = contnet.stem(weights, pixels, dtype)
        return [stem, *contnet.tapped(weights, pixels, net, taps, dtype)]

    found = outputs(weights, pixels.transpose(0, 2, 3, 1).astype(dtype))
    return [np.asarray(x).transpose(0, 3, 1, 2) for x in found]


def standardized(images):
    return np.asarray(contnet.standardized(images)).transpose(0, 3, 1, 2)


@pytest.mark.slow
@pytest.mark.parametrize("net", [SMALL, VARIANT], ids=["plain", "variant"])
def test_every_stage_is_that_of_the_definition(net):
    arrays = state_dict(net)
    pixels = np.random.default_rng(1).normal(size=(1, 3, 224, 224)).astype(np.float32)
    _, *got = run(arrays, pixels, net, STAGES, np.float32)
    for found, want in zip(got, reference(arrays, pixels, net), strict=True):
        np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-6), ("float32", 1e-4)])
def test_the_authors_network_has_the_golden_numbers(dtype, tolerance):
    features = golden.feature_parameters(STEM)
    numbers = golden.numbers(STEM)
    pixels = features.normalise(features.contnet_inputs()["probe"])
    layers = ("layer1.0", "layer1", "layer2", "layer3.4", "layer3", "layer4.1", "layer4")
    with jax.enable_x64(dtype == "float64"):
        got = run(features.state_dict(STEM), pixels, ContNet(), layers, dtype)
    for (name, (channels, places)), array in zip(SLICES.items(), got, strict=True):
        few = array[:, ::channels, ::places, ::places]
        np.testing.assert_allclose(few, numbers[name], rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.slow
def test_the_variants_of_the_authors_network_have_the_golden_numbers():
    features, numbers = golden.feature_parameters(STEM), golden.numbers(STEM)
    arrays = features.state_dict(STEM, "ti_relative_prenorm_avgdown")
    net = dataclasses.replace(contnet_load.layout_of(arrays), pre_norm=True)
    assert net == ContNet(48, (1, 1, 1, 1), (196, 392, 768, 768), True, True, True)
    pixels = features.normalise(features.contnet_inputs()["probe"])
    with jax.enable_x64(True):
        _, *got = run(arrays, pixels, net, STAGES, "float64")
    for name, array in zip(STAGES, got, strict=True):
        channels, places = SLICES[name]
        few = array[:, ::channels, ::places, ::places]
        np.testing.assert_allclose(few, numbers[f"v_{name}"], rtol=1e-6, atol=1e-6, err_msg=name)


def test_the_published_sizes_hold_the_published_number_of_values():
    shapes = weight_shapes(ContNet()).values()
    values = sum(int(np.prod(shape)) for leaves in shapes for shape in leaves.values())
    assert values + 1025 * 1000 == 36_043_112  # the classifier's


@pytest.mark.parametrize(
    ("layers", "grid", "width"),
    [
        (("layer2", "layer3"), 14, 768),
        (("layer3", "layer4"), 7, 1536),
        (("layer3.4", "layer4"), 14, 1280),
        (("layer1.0",), 56, 64),
    ],
)
def test_readings_have_their_grids_and_widths(layers, grid, width):
    options = FeatureOptions(features="contnet_b", contnet=ContnetOptions(layers=layers))
    made = make_features(options, 100, (224, 448), 3)
    assert (made.grid, made.width, made.dim) == ((grid, 2 * grid), width, min(width, 100))
    empty = jax.eval_shape(made.frozen)
    images = jax.ShapeDtypeStruct((2, 224, 448, 1), np.uint8)
    out = jax.eval_shape(made.responses, empty, images)
    assert out.shape == (2, *made.grid, width)


def test_a_coarser_output_is_repeated_and_grey_stands_for_three_channels():
    images = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 1), np.uint8)
    arrays, taps = state_dict(SMALL), taps_of(SMALL, ("layer1.0", "layer2"))
    weights = contnet_load.load(arrays, SMALL, depth=2)
    assert {name.split(".")[0] for name in weights} == {"stem", "layer1", "layer2"}
    got = jax.jit(lambda w, x: contnet.image_features(w, x, SMALL, taps))(weights, images)
    fine, coarse = reference(arrays, standardized(images.repeat(3, -1)), SMALL)[:2]
    want = np.concatenate([fine, coarse.repeat(2, 2).repeat(2, 3)], 1)
    np.testing.assert_allclose(got, want.transpose(0, 2, 3, 1), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_products_in_bfloat16_are_close():
    images = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), np.uint8)
    taps, weights = taps_of(SMALL, ("layer2",)), contnet_load.load(state_dict(SMALL), SMALL)
    want, got = (
        np.asarray(
            jax.jit(contnet.image_features, static_argnums=(2, 3, 4))(
                weights, images, SMALL, taps, dtype
            )
        )
        for dtype in ("float32", "bfloat16")
    )
    assert got.dtype == np.float32
    assert 0 < np.abs(got - want).mean() < 0.05 * np.abs(want).mean()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": ("layer5",)}, r"'layer5': use stages, .* from 'layer1\.0' to 'layer4\.2'"),
        ({"layers": ()}, "name one or more"),
        ({"layers": ("layer1", "layer1")}, "each once"),
        ({"width": 63}, "width 63: use an even number"),
    ],
)
def test_options_that_do_not_fit_are_refused(fields, message):
    options = FeatureOptions(features="contnet_b", contnet=ContnetOptions(**fields))
    with pytest.raises(UserError, match=message):
        make_features(options, 100, (224, 224), 3)


def test_image_sides_are_multiples_of_224_and_others_do_not_read_the_group():
    with pytest.raises(UserError, match=r"multiples of 224: use \(224, 224\)"):
        make_features(FeatureOptions(features="contnet_b"), 100, (256, 256), 3)
    other = FeatureOptions(features="resnet18", contnet=ContnetOptions(relative=True))
    with pytest.raises(UserError, match=r"model\.contnet\.relative True: not read"):
        make_features(other, 100, (224, 224), 3)


def test_a_training_checkpoints_names_are_read():
    arrays = {f"module.{name}": array for name, array in state_dict(SMALL).items()}
    want = contnet_load.load(state_dict(SMALL), SMALL)
    jax.tree.map(np.testing.assert_array_equal, contnet_load.load(arrays, SMALL), want)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("layer2.ConTBlock0.ste1.norm1.bias"), "norm1.bias is missing: give the"),
        (lambda a: a.update({"extra.weight": np.zeros(2)}), "extra.weight has no counterpart here"),
        (
            lambda a: a.update({"layer3.ConTBlock0.ste2.attn.proj.weight": np.zeros((3, 3))}),
            r"layer3.ConTBlock0.ste2.attn.proj.weight is \[3, 3\], not of this layout",
        ),
        (lambda a: a["layer4.ConTBlock0.bn.weight"].fill(np.nan), "not finite"),
        (lambda a: a.pop("layer0.conv.conv.weight"), "holds no ConTNet"),
    ],
)
def test_a_file_that_is_not_whole_is_refused(change, message):
    arrays = state_dict(SMALL)
    change(arrays)
    with pytest.raises(UserError, match=message):
        contnet_load.load(arrays, SMALL)


def test_a_file_of_another_layout_names_the_options_that_fit():
    with pytest.raises(UserError) as error:
        contnet_load.load(state_dict(VARIANT), ContNet())
    assert str(error.value) == (
        "holds a ConTNet of another layout than width 64, blocks (3, 4, 6, 3), mlp_dims (256, 512, "
        "1024, 1024), relative False, average_down False: use --config.model.contnet.width=8 "
        "--config.model.contnet.blocks=1,1,1,1 --config.model.contnet.mlp_dims=12,16,20,24 "
        "--config.model.contnet.relative=True --config.model.contnet.average_down=True"
    )
    options = ContnetOptions(
        width=8, blocks=(1,) * 4, mlp_dims=(12, 16, 20, 24), relative=True, average_down=True
    )
    contnet_load.load(state_dict(VARIANT), net_of(options))
