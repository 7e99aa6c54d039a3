"""Frozen ResNets: features as of torchvision; the shapes of its files; wrong files."""

import jax
import numpy as np
import pytest

from tests.networks import encoder_references
from tests.networks.encoder_files import images_of
from tests.networks.encoder_references import CHANNELS, RESNET_SIZES
from tests.networks.resnet_files import SMALL, state_dict
from vtadl_jax.errors import UserError
from vtadl_jax.networks import frozen_resnet
from vtadl_jax.networks.features import FeatureOptions, ResnetOptions, make_features
from vtadl_jax.networks.frozen_resnet import (
    PATCHCORE,
    RESNETS,
    Reading,
    image_features,
    stages,
    weight_shapes,
)


@pytest.fixture(scope="module", autouse=True)
def _small_networks_have_names():
    with pytest.MonkeyPatch.context() as patch:
        for name, resnet in SMALL.items():
            patch.setitem(RESNETS, name, resnet)
        yield


def needs(*packages):
    for package in packages:
        pytest.importorskip(package, reason=f"{package} is not installed (extra bench)")


def features(name, images, arrays=None, dtype="float32"):
    resnet = RESNETS[name]
    weights = frozen_resnet.load(state_dict(resnet) if arrays is None else arrays, name)
    return np.asarray(jax.jit(lambda w, x: image_features(w, x, resnet, dtype))(weights, images))


@pytest.mark.parametrize("name", SMALL)
def test_features_are_those_of_torchvision(name):
    golden = np.load(encoder_references.GOLDEN)
    for i, size in enumerate(RESNET_SIZES):
        got = features(name, images_of(size))
        assert got.shape == (1, size[0] // 8, size[1] // 8, PATCHCORE.width(RESNETS[name]))
        want = golden[f"resnet_{name}/{i}"]
        np.testing.assert_allclose(got[..., ::CHANNELS], want, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["basic", "bottleneck", "resnet18", "wide_resnet50_2"])
def test_all_channels_are_those_of_torchvision_today(name):
    needs("torch", "torchvision")
    arrays = state_dict(RESNETS[name])
    for size in RESNET_SIZES:
        want = encoder_references.resnet_features(RESNETS[name], images_of(size), arrays)
        got = features(name, images_of(size), arrays)
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4 * np.abs(want).max())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "wide_resnet50_2"])
def test_names_and_shapes_are_those_of_torchvisions_and_timms_files(name):
    needs("torch", "torchvision", "timm")
    import timm
    import torch
    import torchvision

    for make in (getattr(torchvision.models, name), lambda: timm.create_model(name)):
        with torch.device("meta"):
            shapes = {n: tuple(v.shape) for n, v in make().state_dict().items()}
        for layer, shape in weight_shapes(RESNETS[name]).items():
            rows, columns, before, width = shape
            assert shapes[f"{layer}.weight"] == (width, before, rows, columns)


def test_grey_images_stand_for_three_equal_channels():
    grey = images_of((32, 32), 1)
    got, want = (features("basic", x) for x in (grey, np.repeat(grey, 3, -1)))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_products_in_bfloat16_are_close():
    images = images_of((32, 32))
    want, got = features("basic", images), features("basic", images, dtype="bfloat16")
    assert got.dtype == np.float32
    assert 0 < np.abs(got - want).mean() < 0.05 * np.abs(want).mean()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("layer2.0.bn1.running_var"), r"layer2\.0\.bn1\.running_var is missing"),
        (
            lambda a: a.update({"layer1.0.conv2.weight": np.zeros((64, 7, 3, 3))}),
            r"layer1\.0\.conv2\.weight is \[64, 7, 3, 3\]",
        ),
        (lambda a: a["conv1.weight"].fill(np.nan), "not finite"),
        (lambda a: a.update({"layer3.1.conv1.weight": np.zeros(1)}), "is of a deeper network"),
    ],
)
def test_another_networks_file_is_refused(change, message):
    arrays = state_dict(SMALL["basic"])
    change(arrays)
    with pytest.raises(UserError, match=rf"is not basic \(.*{message}.*give the state dict"):
        frozen_resnet.load(arrays, "basic")


def test_another_networks_file_names_the_one_that_fits():
    with pytest.raises(UserError, match=r"use --config\.model\.features=bottleneck$"):
        frozen_resnet.load(state_dict(SMALL["bottleneck"]), "basic")


@pytest.mark.parametrize(
    ("name", "width"), [("resnet18", 384), ("resnet50", 1536), ("wide_resnet50_2", 1536)]
)
def test_an_extractor_has_the_shapes_that_it_loads(name, width):
    made = make_features(FeatureOptions(features=name), 20, (64, 96), 3)
    assert (made.grid, made.width, made.dim) == ((8, 12), width, 20)
    empty = jax.eval_shape(made.frozen)
    out = jax.eval_shape(made.responses, empty, jax.ShapeDtypeStruct((2, 64, 96, 3), np.uint8))
    assert out.shape == (2, 8, 12, width)
    with pytest.raises(UserError, match=r"multiples of 16: use \(64, 96\)"):
        make_features(FeatureOptions(features=name), 20, (64, 100), 3)


def test_padims_features_are_three_stages_enlarged_by_repetition():
    images, resnet = images_of((32, 48)), RESNETS["basic"]
    weights = frozen_resnet.load(state_dict(resnet), "basic")
    reading = Reading((1, 2, 3), pool=False, resize="nearest")
    found, got = jax.device_get(
        jax.jit(lambda w, x: (stages(w, x, resnet), image_features(w, x, resnet, reading=reading)))(
            weights, images
        )
    )
    assert got.shape == (1, 8, 12, reading.width(resnet))
    for row, column in np.ndindex(8, 12):
        parts = [x[0, row // 2**i, column // 2**i] for i, x in enumerate(found)]
        np.testing.assert_allclose(got[0, row, column], np.concatenate(parts), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("read", "grid", "width"), [((1,), (16, 24), 64), ((3,), (4, 6), 256)])
def test_the_grid_is_that_of_the_first_stage_that_is_read(read, grid, width):
    options = FeatureOptions(features="resnet18", resnet=ResnetOptions(stages=read))
    made = make_features(options, 2000, (64, 96), 3)
    assert (made.grid, made.width) == (grid, width)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet18", ResnetOptions(stages=(3, 1)), r"model\.resnet\.stages \(3, 1\): give growing"),
        ("filters", ResnetOptions(pool=False), r"model\.resnet\.pool False: not read with"),
    ],
)
def test_stages_that_do_not_fit_are_refused(name, options, message):
    with pytest.raises(UserError, match=message):
        make_features(FeatureOptions(features=name, resnet=options), 20, (64, 64), 3)
