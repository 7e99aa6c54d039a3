"""Mahalanobis distances at each position: as defined, as the published numbers; options."""

import dataclasses

import jax
import numpy as np
import pytest

from tests import golden
from tests.detectors.fits import draw_images, fit, small_features
from tests.factory import tiny_config, tiny_detector
from tests.networks.contnet_files import SMALL, state_dict
from vtadl_jax.errors import UserError
from vtadl_jax.experiment import make_detector
from vtadl_jax.networks import contnet, contnet_load
from vtadl_jax.networks.contnet_layout import ContNet, taps_of
from vtadl_jax.networks.features import FilterOptions
from vtadl_jax.networks.image_gaussian import fit_gaussians, mahalanobis, mahalanobis_reference
from vtadl_jax.ops.resize import upsample_maps
from vtadl_jax.training.setup import check_pretrained, read_pretrained

NAME, STEM, EPSILON = "contnet_gaussian", "contnet_b_seed31", 0.01
READINGS = {
    "A": ("layer2", "layer3"),
    "B": ("layer3", "layer4"),
    "C": ("layer3.4", "layer4"),
}
CONTNET = {
    "model__features": "contnet_b",
    "model__filters": FilterOptions(),
    "image_size": (224, 224),
}


@pytest.mark.parametrize("count", [2, 9, 25])
def test_distance_map_and_score_are_those_of_the_definition(count):
    images, new = draw_images(count), draw_images(3, seed=7)
    detector, variables = fit(NAME, images, model__gaussian__columns=30, eval__map_sigma=1.0)
    train, test = (small_features(x).reshape(len(x), 16, -1) for x in (images, new))
    want = mahalanobis_reference(test, train, EPSILON)
    scores = detector.score(variables, new)
    np.testing.assert_allclose(scores.terms[:, 1], want.mean(1), rtol=1e-3)
    maps = np.asarray(upsample_maps(want.reshape(3, 4, 4), (32, 32), 1.0))
    np.testing.assert_allclose(scores.anomaly_map, maps, rtol=1e-3)
    np.testing.assert_allclose(scores.terms[:, 0], maps.max((1, 2)), rtol=1e-3)


def test_more_images_than_columns_are_told_with_what_is_left_out(capsys):
    fit(NAME, draw_images(9), model__gaussian__columns=8)
    assert capsys.readouterr().err == ""  # eight directions hold all of nine images
    fit(NAME, draw_images(9), model__gaussian__columns=4)
    told = capsys.readouterr().err
    assert "9 images: the 4 largest directions of each covariance are kept, " in told
    assert "left out where it is most; --config.model.gaussian.columns=9 keeps all" in told


def test_one_image_is_refused():
    with pytest.raises(UserError, match="1 training image: a covariance needs 2 or more"):
        fit(NAME, draw_images(1))


def test_gaussians_that_are_too_large_are_refused_with_a_size_that_fits():
    large = {"model__features": "resnet50", "image_size": (512, 512)}
    with pytest.raises(UserError, match=r"columns 400: .* 64 × 64 positions of 1536 .* use 153 or"):
        make_detector(tiny_config(detector=NAME, **large))
    make_detector(tiny_config(detector=NAME, model__gaussian__columns=153, **large))


def test_without_a_file_the_remedy_is_told_and_one_of_the_layout_fits():
    config = tiny_config(detector=NAME, **CONTNET)
    with pytest.raises(UserError, match=r"give --config\.init_from=FILE \(docs/weights\.md\)"):
        read_pretrained(config, make_detector(config))
    small = dataclasses.asdict(SMALL) | {"layers": ("layer2", "layer3")}
    fields = {f"model__contnet__{name}": value for name, value in small.items()}
    detector = tiny_detector(NAME, **CONTNET, **fields)
    check_pretrained(detector, state_dict(SMALL), "FILE")
    with pytest.raises(UserError, match=r"init_from FILE: .*use --config\.model\.contnet\.width=8"):
        check_pretrained(tiny_detector(NAME, **CONTNET), state_dict(SMALL), "FILE")


@pytest.mark.slow
def test_the_published_method_has_the_golden_numbers():
    features, numbers = golden.feature_parameters(STEM), golden.numbers(STEM)
    net, layers = ContNet(), ("layer2", "layer3.4", "layer3", "layer4")
    weights, taps = contnet_load.load(features.state_dict(STEM), net), taps_of(net, layers)
    outputs = jax.jit(lambda w, x: contnet.tapped(w, x, net, taps))

    def embedded(images, pair):
        fine, coarse = (images[layers.index(name)] for name in pair)
        factor = fine.shape[1] // coarse.shape[1]
        joined = [fine, coarse.repeat(factor, 1).repeat(factor, 2)]
        return np.concatenate(joined, -1).reshape(len(fine), -1, sum(x.shape[-1] for x in joined))

    found = {}
    for name in ("train", "test"):
        pixels = features.normalise(features.contnet_inputs()[name]).transpose(0, 2, 3, 1)
        parts = [outputs(weights, pixels[i : i + 2]) for i in range(0, len(pixels), 2)]
        found[name] = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
    for reading, pair in READINGS.items():
        fitted = fit_gaussians(embedded(found["train"], pair), 12, EPSILON)
        stats = {key: getattr(fitted, key) for key in ("mean", "spread", "solver")}
        distances = np.asarray(mahalanobis(embedded(found["test"], pair), stats, EPSILON))
        want = numbers[f"g{reading}_dist"]
        np.testing.assert_allclose(distances.reshape(want.shape), want, rtol=1e-4)
        maps = np.asarray(upsample_maps(distances.reshape(want.shape), (224, 224), 4.0))
        np.testing.assert_allclose(maps[:, ::8, ::8], numbers[f"g{reading}_map"], rtol=1e-4)
        np.testing.assert_allclose(maps.max((1, 2)), numbers[f"g{reading}_score"], rtol=1e-4)
