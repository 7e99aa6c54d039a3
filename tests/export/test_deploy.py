"""The deployed function: pixels, maps, scores and decisions as those of the host."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from vtadl_jax.data.transforms import Geometry
from vtadl_jax.detectors.contract import Detector, Scores
from vtadl_jax.errors import UserError
from vtadl_jax.evaluation.calibration import calibrate
from vtadl_jax.evaluation.novelty import describe
from vtadl_jax.evaluation.regions import find_regions
from vtadl_jax.export.deploy import deployed
from vtadl_jax.export.settings import decide, describe_pixels, settings_of

GEOMETRIES = [
    Geometry((32, 24)),
    Geometry((32, 24), (40, 30)),
    Geometry((32, 24), None, "pad"),
    Geometry((32, 24), (40, 40), "crop"),
    Geometry((17, 24), None, "crop"),
]
SIDES = [(32, 24), (50, 31), (20, 77), (9, 9)]


def echo_detector():
    """A detector whose map and terms are the pixels that it sees."""

    def score(_, images):
        grey = images[..., 0].astype(jnp.float32)
        return Scores(jnp.stack([grey.max((1, 2)), -grey.mean((1, 2))], -1), grey)

    return Detector(lambda key: {}, score, ("largest", "dark"), (1.0, -0.5))


def images_of(height, width, count=2):
    shape = (count, height, width, 3)
    return np.random.default_rng(height + width).integers(0, 256, shape, np.uint8)


def calibration_of(seed=0, count=12, **changes):
    rng = np.random.default_rng(seed)
    terms = rng.normal(size=(count, 2)) * (5, 0.02) + (3e4, 7)  # a mean that hides the spread
    given = {"weights": (1.0, -0.5), "descriptions": describe(images_of(32, 24, count))}
    return calibrate(("largest", "dark"), terms, rng.normal(size=99), **{**given, **changes}), terms


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=["stretch", "cut", "pad", "crop", "wide"])
def test_the_network_sees_the_hosts_pixels_and_maps_come_back_as_the_hosts(geometry):
    settings = settings_of(calibration_of()[0])
    function = jax.jit(deployed(echo_detector(), geometry))
    for sides in SIDES:
        images = images_of(*sides)
        found = function({}, settings, images)
        seen = np.stack([geometry.image(image) for image in images])
        np.testing.assert_array_equal(found["terms"][:, 0], seen[..., 0].max((1, 2)))
        expected = [geometry.invert(each, sides) for each in seen[..., 0].astype(np.float32)]
        np.testing.assert_allclose(found["anomaly_map"], expected, atol=2e-4)


@pytest.mark.parametrize("geometry", GEOMETRIES[2:4], ids=["pad", "crop"])
def test_one_program_takes_images_of_all_sizes(geometry):
    settings = settings_of(calibration_of()[0])
    function = jax.jit(deployed(echo_detector(), geometry))
    b, h, w = export.symbolic_shape("b, h, w")
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), settings)
    images = jax.ShapeDtypeStruct((b, h, w, 3), np.uint8)
    program = export.export(function)({}, shapes, images)
    for sides in SIDES[1:3]:
        images = images_of(*sides)
        found, expected = program.call({}, settings, images), function({}, settings, images)
        for name, value in expected.items():
            if not name.startswith("region_"):  # equal peaks change places by rounding
                np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("sides", [(32, 24), (5, 40), (100, 3)])
def test_descriptions_equal_those_of_the_host(channels, sides):
    images = images_of(*sides)[..., :channels]
    found = jax.jit(describe_pixels)(images)
    np.testing.assert_allclose(found, describe(images), rtol=1e-5, atol=2e-6)


def test_scores_and_p_values_equal_those_of_the_host():
    calibration, terms = calibration_of()
    descriptions = describe(images_of(32, 24, 12))
    descriptions[3] += 9  # far outside the range
    terms[5] += (40, -3)
    found = decide(settings_of(calibration), terms.astype(np.float32), descriptions)
    exact = terms.astype(np.float32).astype(np.float64)
    scores = calibration.image_scores(exact, descriptions)
    np.testing.assert_allclose(found["score"], scores, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(found["p_value"], calibration.p_values(scores), atol=1 / 12)
    defective = (scores >= calibration.image_threshold) | calibration.unlike(descriptions)
    np.testing.assert_array_equal(found["defective"], defective)
    assert defective[3]
    assert defective[5]


def test_a_threshold_of_the_user_decides_and_leaves_scores_alone():
    calibration, terms = calibration_of()
    descriptions = describe(images_of(32, 24, 12))
    usual = decide(settings_of(calibration), terms, descriptions)
    strict = decide(settings_of(calibration, -1e6), terms, descriptions)
    np.testing.assert_array_equal(usual["score"], strict["score"])
    assert np.asarray(strict["defective"]).all()


def test_runs_without_kept_scores_and_range_have_neither_p_value_nor_range():
    calibration, terms = calibration_of(descriptions=None, calibrated_by="copies")
    found = decide(settings_of(calibration), terms, np.zeros((12, 71)))
    assert np.isnan(found["p_value"]).all()
    assert not np.asarray(found["outside"]).any()


def test_the_regions_are_the_first_of_the_hosts():
    geometry, calibration = Geometry((32, 24)), calibration_of()[0]
    settings = {**settings_of(calibration), "pixel_threshold": np.float32(160)}
    images = images_of(50, 31, 3)
    images[2] = 0
    found = jax.device_get(jax.jit(deployed(echo_detector(), geometry, 16))({}, settings, images))
    for i in range(3):
        expected = find_regions(found["anomaly_map"][i], 160)
        assert found["num_regions"][i] == len(expected)
        for k, region in enumerate(expected[:16]):
            assert tuple(found["region_boxes"][i, k].tolist()) == region.box
            assert tuple(found["region_peaks_at"][i, k].tolist()) == region.peak_at
            assert found["region_areas"][i, k] == region.area
            assert found["region_peaks"][i, k] == np.float32(region.peak)
            assert found["region_means"][i, k] == pytest.approx(region.mean, rel=1e-5)
    assert found["num_regions"][0] > 1
    assert not found["num_regions"][2]
    assert not found["region_areas"][2].any()


def test_regions_of_a_method_without_maps_are_refused():
    def score(_, images):
        return Scores(images.mean((1, 2))[:, :2])

    detector = Detector(lambda key: {}, score, ("largest", "dark"), (1.0, -0.5))
    function, settings = deployed(detector, Geometry((8, 8)), 4), settings_of(calibration_of()[0])
    with pytest.raises(UserError, match="--regions 4: this method scores whole images"):
        function({}, settings, images_of(8, 8))
