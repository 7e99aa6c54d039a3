"""Experts are fitted as they are alone, whether they need rows or accumulate moments."""

import jax
import numpy as np
import pytest

from tests.detectors.fits import draw_images
from tests.factory import tiny_detector
from vtadl_jax.detectors.contract import Inputs
from vtadl_jax.detectors.expert_options import ExpertsOptions, make_experts
from vtadl_jax.detectors.experts import places_within, score_moments, standard_score
from vtadl_jax.detectors.position_gaussian import position_gaussian
from vtadl_jax.detectors.subspace import SubspaceOptions
from vtadl_jax.errors import UserError
from vtadl_jax.training.fitting import collect

SMALL = {"data__channels": 1}
MIXTURE = {"mdn__num_components": 2, "mdn__feature_dim": 3, "filters__sigmas": (1, 2)}


def fitted(detector, variables, images):
    rows = [
        jax.device_get(detector.fit.gather(variables, part, jax.random.key(1)))
        for part in (images[:5], images[5:])
    ]
    return detector.fit.solve(variables, collect(detector.fit, rows), np.random.default_rng(0))


@pytest.mark.slow
def test_an_expert_that_accumulates_moments_is_fitted_beside_one_that_needs_rows():
    images = draw_images(8)
    fields = {f"model__filter_mixture__{name}": value for name, value in MIXTURE.items()}
    use = ("position_gaussian", "filter_mixture")
    both = tiny_detector("experts", model__use=use, **SMALL, **fields)
    together = fitted(both, both.init(jax.random.key(0)), images)
    alone = tiny_detector("position_gaussian", **SMALL)
    want = fitted(alone, alone.init(jax.random.key(0)), images)
    for name, value in want["params"].items():
        np.testing.assert_array_equal(together["stats"]["fitted"]["position_gaussian"][name], value)
    mixture = together["stats"]["filter_mixture"]
    assert np.isfinite(mixture["whitener"]).all()
    assert np.shape(mixture["whitener"]) == (10, 3)


TRAINED = ("filter_mixture", "context_mdn")
TINY_CONTEXT = {
    "model__context_mdn__filters__sigmas": (1, 2),
    "model__context_mdn__context__windows": (1,),
    "model__context_mdn__mdn__hidden": 8,
    "model__context_mdn__mdn__num_components": 2,
    "model__context_mdn__mdn__feature_dim": 3,
    **{f"model__filter_mixture__{name}": value for name, value in MIXTURE.items()},
}


def test_steps_train_the_experts_that_are_trained_and_no_other():
    detector = tiny_detector("experts", model__use=TRAINED, **SMALL, **TINY_CONTEXT)
    variables = detector.init(jax.random.key(0))
    assert set(variables["params"]) == {"context_mdn"}
    assert set(variables["stats"]["fitted"]) == {"filter_mixture"}
    assert detector.steps_required
    batch = {"image": draw_images(2)}
    keys = jax.random.split(jax.random.key(1), 2)

    def loss(params):
        return detector.loss({**variables, "params": params}, batch, keys)

    (_, (terms, stats)), grads = jax.value_and_grad(loss, has_aux=True)(variables["params"])
    assert set(terms) == {"context_mdn_nll", "context_mdn_calibration"}
    assert jax.tree.structure(stats) == jax.tree.structure(variables["stats"])
    assert max(float(np.abs(g).max()) for g in jax.tree.leaves(grads)) > 0


def test_places_are_within_their_mask_and_cover_it():
    masks = np.zeros((2, 6, 7), bool)
    masks[0, 2, 3:5] = masks[0, 5, 6] = True
    masks[1] = True
    places = np.asarray(places_within(masks, 300, jax.random.key(0)))
    assert set(places[0].tolist()) == set(np.flatnonzero(masks[0]).tolist())
    assert len(set(places[1].tolist())) > 30
    nothing = np.asarray(places_within(np.zeros((1, 6, 7), bool), 5, jax.random.key(0)))
    assert ((nothing >= 0) & (nothing < 42)).all()


def test_the_score_of_good_images_has_mean_0_and_deviation_1():
    terms = np.random.default_rng(0).normal(3, [1.0, 50.0, 2.0], (400, 3)).astype(np.float32)
    weights = (1.0, 1.0, -1.0)
    scores = np.asarray(standard_score(terms, score_moments(terms, weights), weights))
    assert abs(scores.mean()) < 1e-4
    assert scores.std(ddof=1) == pytest.approx(1, abs=1e-4)


def test_experts_on_filters_see_reduced_images_and_give_maps_of_full_size():
    options = ExpertsOptions(use=("position_gaussian",), filter_side=32)
    inputs = Inputs((64, 96), channels=1, map_sigma=2.0)
    detector = make_experts(options, inputs)["position_gaussian"]
    alone = position_gaussian(options.position_gaussian, Inputs((32, 64), 1, map_sigma=1.0))
    variables = {"frozen": {}, **alone.init(jax.random.key(0))}
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 1), np.uint8)
    found = detector.score(variables, images)
    assert found.anomaly_map.shape == (2, 64, 96)
    rows = detector.fit.gather(variables, images, jax.random.key(0))
    want = alone.fit.gather(variables, np.zeros((2, 32, 64, 1), np.uint8), jax.random.key(0))
    assert jax.tree.map(np.shape, rows) == jax.tree.map(np.shape, want)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use": ("filter_mixtur",)}, r"model.use 'filter_mixtur': did you mean filter_mixture"),
        ({"use": ("subspace", "subspace")}, r"each once"),
        ({"filter_side": 30}, r"model.filter_side 30: use a multiple of 32, as 32"),
        (
            {"subspace": SubspaceOptions("resnet18")},
            r"model.subspace.features 'resnet18': not read",
        ),
        (
            {"use": ("encoder", "subspace"), "subspace": SubspaceOptions("resnet18")},
            r"use one for all",
        ),
    ],
)
def test_wrong_options_are_one_line(options, message):
    with pytest.raises(UserError, match=message):
        make_experts(ExpertsOptions(**options), Inputs((64, 64)))
