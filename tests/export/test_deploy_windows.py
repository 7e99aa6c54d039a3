"""The deployed function by windows is as the predictor: a small detector, images of many sizes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from numpy.testing import assert_allclose

from vtadl_jax.config_data import WindowOptions
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.detectors.contract import Detector, Scores
from vtadl_jax.evaluation.calibration import calibrate
from vtadl_jax.evaluation.predictor import Predictor
from vtadl_jax.evaluation.window_scales import WindowScale
from vtadl_jax.export.deploy_windows import deployed_windows
from vtadl_jax.export.settings import settings_of

SIDE = 16


def detector() -> Detector:
    """Terms and maps of the pixels alone, which any small difference changes."""

    def score(variables, images):
        grey = images[..., 0].astype(jnp.float32) * variables["stats"]["gain"]
        terms = jnp.stack([grey.max((1, 2)), grey.mean((1, 2))], -1)
        return Scores(terms, grey)

    return Detector(lambda key: {}, score, ("top", "level"), (1.0, -1.0))


def prepared(**fields):
    options = WindowOptions(side=SIDE * 2, map_stride=4, **fields)
    table = {"knots": tuple(np.linspace(0, 200, 11).tolist()), "rate": 0.01}
    tails = table if len(options.scales) > 1 else {}
    scales = tuple(
        WindowScale(factor, (200.0 + number, 120.0), (30.0 - number, 12.0), **tails)
        for number, factor in enumerate(options.scales)
    )
    rng = np.random.default_rng(0)
    calibration = calibrate(
        ("top", "level"),
        rng.normal(200, 9, (30, 2)),
        rng.uniform(0, 255, 999),
        weights=(1.0, -1.0),
        windows=scales,
    )
    variables = {"params": {}, "stats": {"gain": jnp.float32(0.9)}, "frozen": {}}
    geometry = Geometry((SIDE, SIDE))
    one = Predictor(
        detector(), variables, geometry, calibration, channels=1, batch_size=3, windows=options
    )
    return one, deployed_windows(detector(), geometry, options, 3), variables, calibration


def check(found, predictor, image) -> None:
    wanted = predictor(image)
    assert_allclose(found["score"][0], wanted.score, rtol=1e-4)
    assert found["anomaly_map"].shape == (1, *image.shape)
    assert_allclose(found["anomaly_map"][0], wanted.anomaly_map, rtol=1e-3, atol=2e-2)
    terms = dict(zip(("top", "level"), np.asarray(found["terms"][0]).tolist(), strict=True))
    assert terms == pytest.approx(wanted.terms, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{}, {"scales": (0.5, 1.0), "overlap": 0.3}])
def test_a_program_for_any_size_is_as_the_predictor(fields):
    predictor, function, variables, calibration = prepared(**fields)
    settings = settings_of(calibration)
    shape = export.symbolic_shape("1, h, w, 1")
    images = jax.ShapeDtypeStruct(shape, np.uint8)
    program = export.export(jax.jit(function))(variables, settings, images)
    rng = np.random.default_rng(1)
    for size in ((70, 101), (16, 40), (9, 5)):
        image = rng.integers(0, 256, size, np.uint8)
        found = program.call(variables, settings, image[None, ..., None])
        check(found, predictor, image)


def test_a_program_for_one_size_takes_several_images_at_once():
    predictor, function, variables, calibration = prepared(scales=(1.0, 0.25))
    images = np.random.default_rng(2).integers(0, 256, (2, 83, 60), np.uint8)
    found = jax.jit(function)(variables, settings_of(calibration), images[..., None])
    for i, image in enumerate(images):
        check(jax.tree.map(lambda x, i=i: x[i : i + 1], found), predictor, image)


def test_a_calibration_of_other_scales_is_refused():
    predictor, *_ = prepared()
    other = dataclasses.replace(predictor.calibration, windows=())
    with pytest.raises(Exception, match="not of windows at the scales"):
        Predictor(
            detector(),
            {},
            Geometry((SIDE, SIDE)),
            other,
            windows=WindowOptions(side=32, map_stride=4),
        )
