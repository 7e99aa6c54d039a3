"""SPADE as its definition and its published program; which images are kept; options."""

import jax
import numpy as np
import pytest

from tests import golden
from tests.detectors.fits import draw_images, fit, small_features
from tests.factory import tiny_config, tiny_detector
from tests.networks.contnet_files import SMALL as SMALL_CONTNET
from tests.networks.contnet_files import state_dict as contnet_state_dict
from tests.networks.resnet_files import SMALL, state_dict
from tests.networks.test_efficientnet import plain_levels
from tests.networks.test_efficientnet import state_dict as efficientnet_state_dict
from vtadl_jax.detectors.spade import add_images
from vtadl_jax.errors import UserError
from vtadl_jax.experiment import make_detector
from vtadl_jax.networks import frozen_resnet
from vtadl_jax.networks.feature_options import ContnetOptions, FeatureOptions
from vtadl_jax.networks.frozen_resnet import RESNETS
from vtadl_jax.networks.pyramids import make_pyramid
from vtadl_jax.ops.gallery_search import level_distances, level_distances_reference, nearest_images
from vtadl_jax.ops.resize import upsample_maps
from vtadl_jax.training.setup import check_pretrained, read_pretrained

NAME, STEM = "spade", "spade_seed32"
FIELDS = {"model__gallery__images": 12, "model__gallery__neighbours": 3}


def fitted(images, batches=(), **fields):
    return fit(NAME, images, batches, **{**FIELDS, **fields})


@pytest.mark.parametrize("published", [False, True])
def test_scores_and_maps_are_those_of_the_definition(published):
    images, new = draw_images(9, (48, 48)), draw_images(2, (48, 48), seed=7)
    detector, variables = fitted(
        images, (4, 5), eval__map_sigma=1.0, model__gallery__published=published
    )
    train, test = small_features(images), small_features(new)
    vectors = test.mean((1, 2)), train.mean((1, 2))
    distances = np.sqrt(np.square(vectors[0][:, None] - vectors[1]).sum(-1))
    nearest = np.argsort(distances, 1)[:, :3]
    found = [
        level_distances_reference(t, train[i], published)
        for t, i in zip(test, nearest, strict=True)
    ]
    scores = detector.score(variables, new)
    want = np.sort(distances, 1)[:, :3].mean(1)
    np.testing.assert_allclose(scores.terms[:, 0], want, rtol=1e-4)
    maps = np.asarray(upsample_maps(np.stack(found), (48, 48), 1.0))
    np.testing.assert_allclose(scores.anomaly_map, maps, rtol=1e-3)
    np.testing.assert_allclose(scores.terms[:, 1], maps.max((1, 2)), rtol=1e-3)


def test_fewer_images_than_places_are_no_neighbours_twice():
    images = draw_images(4)
    few, many = (fitted(images, model__gallery__images=n) for n in (4, 12))
    assert few[1]["stats"]["count"] == many[1]["stats"]["count"] == 4
    new = draw_images(2, seed=7)
    got, want = (detector.score(variables, new) for detector, variables in (many, few))
    np.testing.assert_allclose(got.terms, want.terms, rtol=1e-5)
    np.testing.assert_allclose(got.anomaly_map, want.anomaly_map, rtol=1e-5, atol=1e-6)


def test_of_more_images_random_ones_are_kept_and_a_line_says_so(capsys):
    _, variables = fitted(draw_images(20), (7, 13))
    told = capsys.readouterr().err
    assert "12 of 20 images are kept, drawn at random; --config.model.gallery.images=20 " in told
    kept = variables["stats"]["vectors"]
    vectors = small_features(draw_images(20)).mean((1, 2))
    index = np.abs(kept[:, None] - vectors).max(-1).argmin(1)
    np.testing.assert_allclose(kept, vectors[index], rtol=1e-4, atol=1e-6)
    assert len(set(index.tolist())) == 12
    assert index.max() >= 12


def test_each_image_has_the_same_chance_to_be_kept():
    counts = np.zeros(8)
    for seed in range(400):
        found = add_images(None, {"x": np.zeros((0, 1))}, 3)
        found["rng"] = np.random.default_rng(seed)
        for part in np.split(np.arange(8.0)[:, None], [2, 5]):
            found = add_images(found, {"x": part}, 3)
        counts[found["rows"]["x"][:, 0].astype(int)] += 1
    assert counts.sum() == 1200
    assert (np.abs(counts - 150) < 50).all()


def test_too_few_images_are_refused():
    with pytest.raises(UserError, match=r"neighbours 3: there are 2 training images: use 2 or"):
        fitted(draw_images(2))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model__gallery__images": 2}, r"neighbours 3: the gallery keeps 2 images: use 2 or less"),
        ({"model__gallery__published": True}, r"3 neighbours of 4 × 4 places are 48 vectors"),
        ({"model__gallery__memory": 0}, "use 1 to 65536"),
        (
            {"model__features": "resnet18", "image_size": (512, 512)}
            | {"model__gallery__images": 4000},
            r"an image take 7\.3 MB, 27\.4 GiB in all, more than 4: use 584 or less",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(fields, message):
    small = {"model__features": "filters", **FIELDS}
    with pytest.raises(UserError, match=message):
        make_detector(tiny_config(detector=NAME, **{**small, **fields}))


def test_without_a_file_the_remedy_is_told_and_a_whole_one_fits(monkeypatch):
    config = tiny_config(detector=NAME)
    with pytest.raises(UserError, match=r"give --config\.init_from=FILE \(docs/weights\.md\)"):
        read_pretrained(config, make_detector(config))
    monkeypatch.setitem(RESNETS, "resnet18", SMALL["basic"])
    detector = tiny_detector(NAME, model__features="resnet18", **FIELDS)
    check_pretrained(detector, state_dict(SMALL["basic"].whole()), "FILE")
    with pytest.raises(UserError, match=r"layer4\.0\.conv1\.weight is missing"):
        check_pretrained(detector, state_dict(SMALL["basic"]), "FILE")


@pytest.mark.parametrize(
    ("name", "levels", "width"),
    [
        ("wide_resnet50_2", ((56, 56, 256), (28, 28, 512), (14, 14, 1024)), 2048),
        ("resnet18", ((56, 56, 64), (28, 28, 128), (14, 14, 256)), 512),
        ("efficientnet_lite0", ((56, 56, 24), (28, 28, 40), (14, 14, 112)), 112),
        ("contnet_b", ((14, 14, 256), (7, 7, 512)), 1024),
        ("dinov2_vits14", ((16, 16, 384),), 384),
        ("filters", ((28, 28, 20),), 20),
    ],
)
def test_pyramids_have_their_levels(name, levels, width):
    made = make_pyramid(FeatureOptions(features=name), (224, 224), 3)
    assert (made.levels, made.width) == (levels, width)
    images = jax.ShapeDtypeStruct((2, 224, 224, 3), np.uint8)
    vector, maps = jax.eval_shape(made.outputs, jax.eval_shape(made.frozen), images)
    assert vector.shape == (2, width)
    assert [x.shape for x in maps] == [(2, *level) for level in levels]


def test_the_wide_network_holds_the_published_number_of_values():
    layers = frozen_resnet.weight_shapes(RESNETS["wide_resnet50_2"].whole()).values()
    norms = 2 * sum(shape[-1] for shape in layers)
    assert sum(int(np.prod(shape)) for shape in layers) + norms + 2049 * 1000 == 68_883_240


@pytest.mark.slow
def test_efficientnet_s_levels_are_those_of_its_file():
    made = make_pyramid(FeatureOptions(features="efficientnet_lite0"), (32, 48), 1)
    arrays = efficientnet_state_dict()
    images = np.random.default_rng(0).integers(0, 256, (1, 32, 48, 1), np.uint8)
    vector, maps = jax.jit(made.outputs)(made.load(arrays), images)
    for got, want in zip(maps, plain_levels(arrays, images), strict=True):
        np.testing.assert_allclose(got, want.transpose(0, 2, 3, 1), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(vector, np.asarray(maps[-1]).mean((1, 2)), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_contnet_s_vector_is_the_mean_of_its_last_stage():
    options = ContnetOptions(
        ("layer1", "layer2"), SMALL_CONTNET.width, SMALL_CONTNET.blocks, SMALL_CONTNET.mlp_dims
    )
    made = make_pyramid(FeatureOptions(features="contnet_b", contnet=options), (224, 224), 3)
    images = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), np.uint8)
    vector, maps = jax.jit(made.outputs)(made.load(contnet_state_dict(SMALL_CONTNET)), images)
    assert vector.shape == (1, 128)
    assert [x.shape for x in maps] == [(1, 28, 28, 16), (1, 14, 14, 32)]


@pytest.mark.slow
def test_the_published_method_has_the_golden_numbers():
    features, numbers = golden.feature_parameters(STEM), golden.numbers(STEM)
    resnet = RESNETS["wide_resnet50_2"].whole()
    weights = frozen_resnet.load(features.state_dict(STEM), "wide_resnet50_2", whole=True)

    @jax.jit
    def stages(weights, pixels):
        return frozen_resnet.stages_of_pixels(weights, pixels, resnet)

    found = {}
    for name, images in features.spade_inputs().items():
        pixels = features.normalise(images).transpose(0, 2, 3, 1)
        parts = [stages(weights, pixels[i : i + 2]) for i in range(0, len(pixels), 2)]
        found[name] = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
    slices = {"layer1": (16, 8), "layer2": (32, 4), "layer3": (32, 3), "layer4": (64, 2)}
    for (name, (channels, places)), array in zip(slices.items(), found["test"], strict=True):
        few = array.transpose(0, 3, 1, 2)[:, ::channels, ::places, ::places]
        np.testing.assert_allclose(few, numbers[f"test_{name}"], rtol=1e-4, atol=5e-5)
    vectors = {name: arrays[3].mean((1, 2)) for name, arrays in found.items()}
    distances, index = nearest_images(vectors["test"], vectors["train"], 8, 5)
    np.testing.assert_array_equal(index, numbers["topk"])
    np.testing.assert_allclose(distances.mean(-1), numbers["image_score"], rtol=1e-4)

    search = jax.jit(level_distances, static_argnums=(2, 3))
    for form in ("clean", "code"):
        levels = []
        for train, test in zip(found["train"][:3], found["test"][:3], strict=True):
            galleries = (train[i] for i in np.asarray(index))
            pairs = zip(test, galleries, strict=True)
            levels.append(np.stack([search(t, g, 2**26, form == "code") for t, g in pairs]))
        if form == "clean":
            np.testing.assert_allclose(levels[0][:, ::2, ::2], numbers["clean_layer1"], rtol=1e-4)
            np.testing.assert_allclose(levels[1], numbers["clean_layer2"], rtol=1e-4)
        np.testing.assert_allclose(levels[2], numbers[f"{form}_layer3"], rtol=1e-4)
        maps = np.mean([upsample_maps(level, (224, 224), 4.0) for level in levels], 0)
        np.testing.assert_allclose(maps[:, ::8, ::8], numbers[f"{form}_map"], rtol=1e-4)
        if form == "clean":
            np.testing.assert_allclose(maps.max((1, 2)), numbers["clean_map_max"], rtol=1e-4)
            row, column = np.unravel_index(maps[1].argmax(), (224, 224))
            assert (row, column) == (115, 59)
