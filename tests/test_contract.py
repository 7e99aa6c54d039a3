"""Every detector keeps the contract: init, fit or step, score, save, resume, predict.

A detector that is not in `CASES` fails here: give it sizes that compile in seconds.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from PIL import Image

from tests.factory import as_decided, tiny_config, with_fields
from tests.networks.small_segmentation import shrink
from vtadl_jax.detectors import DETECTORS
from vtadl_jax.detectors.contract import Batch
from vtadl_jax.errors import UserError
from vtadl_jax.evaluation.predictor import Predictor
from vtadl_jax.evaluation.trained_run import load_run
from vtadl_jax.experiment import base, make_detector, parse, term_weights
from vtadl_jax.export.saved import save_run
from vtadl_jax.export.stablehlo import export_run
from vtadl_jax.networks.features import FeatureOptions, FilterOptions
from vtadl_jax.ops.platform import on_platform
from vtadl_jax.options import fields_of
from vtadl_jax.run import run

NO_STEPS = {"num_train_steps": 0, "num_epochs": 0}
FITTED = {**NO_STEPS, "model__filters__sigmas": (1, 2)}
CASES = {
    "vtadl": {},
    "vtadl_pretrained": {"model__filters__sigmas": (1, 2)},
    "official": None,  # exists at 512² only: tests/detectors/test_official.py
    "autoencoder": {"model__latent_dim": 8},
    "pyramid_ae": {
        "model__backbone__width": 8,
        "model__backbone__blocks": (1, 1, 1, 1),
        "model__codes__scales": (1, 2),
    },
    "piade": {"model__backbone__width": 8, "model__backbone__blocks": (1, 1, 1, 1)},
    "filter_mixture": FITTED,
    "position_gaussian": NO_STEPS,
    "contnet_gaussian": {**FITTED, "model__features": "filters", "model__gaussian__columns": 8},
    "image_mixture": NO_STEPS,
    "context_mdn": {
        "model__filters__sigmas": (1, 2),
        "model__context__windows": (1, 2),
        "model__context__radii": (1,),
    },
    "patch_memory": {**FITTED, "model__memory__size": 16},
    "spade": {
        **FITTED,
        "model__features": "filters",
        "model__gallery__images": 18,
        "model__gallery__neighbours": 3,
    },
    "subspace": {**FITTED, "model__subspace__dim": 6},
    "feature_reconstruction": {
        "model__filters__sigmas": (1, 2),
        "model__network__width": 8,
        "model__network__hidden": 8,
        "model__network__num_heads": 2,
    },
    "experts": {
        **NO_STEPS,
        "model__filter_mixture__filters__sigmas": (1, 2),
        "model__filter_mixture__mdn__num_components": 2,
        "model__filter_mixture__mdn__feature_dim": 3,
        "model__patch_memory__filters__sigmas": (1, 2),
        "model__patch_memory__memory__size": 16,
    },
    "unet": {
        "data__anomaly_fraction": 0.2,
        "model__network__width": 4,
        "model__network__levels": 2,
    },
    "capsnet": {
        "data__anomaly_fraction": 0.2,
        "model__network__kernel_size": 5,
        "model__network__width": 8,
        "model__network__capsule_types": 2,
        "model__network__capsule_dim": 4,
        "model__network__output_dim": 4,
        "model__network__hidden": (8,),
    },
    "segmentation": {"data__folds": 2, "data__balanced_batches": True},
}
WITHOUT_LOSS = ("contnet_gaussian", "experts", "patch_memory", "spade", "subspace")
RUN = [name for name, fields in CASES.items() if fields is not None]
WITH_FEATURES = [n for n, method in DETECTORS.items() if issubclass(method.options, FeatureOptions)]
PRETRAINED = {"model__features": "efficientnet_lite0", "model__filters": FilterOptions()}
TRAINED = [name for name in RUN if "num_train_steps" not in CASES[name]]


@pytest.fixture(autouse=True)
def _small_networks(monkeypatch):
    shrink(monkeypatch)  # the segmentation networks have published sizes only


def config_of(name, root="", **fields):
    # A schedule that depends on the number of steps would make each number a program of its own.
    shared = {"eval__num_pictures": 1, "optimizer__schedule": "constant"}
    return tiny_config(root, detector=name, **{**shared, **CASES[name], **fields})


def images(config, count=2):
    shape = (count, *config.image_size, config.data.channels)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def batch_of(detector, config) -> Batch:
    """Two images, the second with a defect, and no more than the detector needs."""
    batch = {"image": images(config)}
    if "label" in detector.needs:
        batch["label"] = np.array([0, 1], np.int32)
    if "mask" in detector.needs:
        batch["mask"] = np.zeros((2, *config.image_size), np.uint8)
        batch["mask"][1, 4:9, 4:9] = 1
        batch["has_mask"] = np.array([True, True])
    return batch


def test_every_detector_is_tested_here():
    assert CASES.keys() == DETECTORS.keys()


@pytest.mark.parametrize("name", sorted(DETECTORS))
def test_options_are_described_with_ranges_that_their_defaults_keep(name):
    config = parse(base(name).to_dict())
    assert isinstance(config.model, DETECTORS[name].options)
    hash(config.model)  # frozen all through, so that it can be a static argument
    for field, value, role in fields_of(config.model):
        assert role.help, f"{field} has no description"
        assert role.allows(value), f"{field} {value!r} is not in its own range {role.range}"


@pytest.mark.parametrize("name", sorted(DETECTORS))
def test_a_field_that_a_detector_does_not_read_is_refused_by_name(name):
    values = base(name).to_dict()
    values["model"]["no_such_field"] = 1
    with pytest.raises(UserError, match=r"unknown field model\.no_such_field"):
        parse(values)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN)
def test_variables_are_three_trees_and_scores_have_their_names(name):
    config = config_of(name)
    detector = make_detector(config)
    variables = detector.init(jax.random.key(0))
    assert variables.keys() <= {"params", "stats", "frozen"}
    assert {"params", "stats"} <= variables.keys()
    scores = jax.jit(detector.score)({"frozen": {}, **variables}, images(config))
    assert scores.terms.shape == (2, len(detector.score_terms))
    assert scores.terms.dtype == jnp.float32
    assert len(term_weights(config, detector)) == len(detector.score_terms)
    if scores.anomaly_map is not None:
        assert scores.anomaly_map.shape == (2, *config.image_size)
        assert scores.anomaly_map.dtype == jnp.float32
    if scores.recon is not None:
        assert scores.recon.shape == (2, *config.image_size, config.data.channels)
        assert scores.recon.dtype == jnp.uint8


@pytest.mark.parametrize(
    ("name", "fields"),
    [*((name, {}) for name in RUN), *((name, PRETRAINED) for name in WITH_FEATURES)],
)
def test_frozen_variables_require_a_file(name, fields):
    detector = make_detector(config_of(name, **fields))
    frozen = jax.eval_shape(detector.init, jax.random.key(0)).get("frozen", {})
    # A detector whose frozen weights may be random tells it.
    from_file = bool(jax.tree.leaves(frozen)) and detector.pretrained_notes is None
    assert detector.pretrained_required == from_file


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", RUN)
def test_every_detector_takes_grey_and_colour(name, channels):
    config = config_of(name, data__channels=channels)
    detector = make_detector(config)
    variables = {"frozen": {}, **jax.eval_shape(detector.init, jax.random.key(0))}
    scores = jax.eval_shape(detector.score, variables, images(config))
    assert scores.recon is None or scores.recon.shape == (2, *config.image_size, channels)
    if detector.loss is not None:
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(1), 2))
        jax.eval_shape(detector.loss, variables, batch_of(detector, config), keys)


@pytest.mark.parametrize("name", RUN)
def test_a_detector_trains_or_fits(name):
    detector = make_detector(config_of(name))
    assert detector.loss is not None or detector.fit is not None
    if detector.loss is None:
        assert not detector.needs  # nothing else reads labels or masks


@pytest.mark.parametrize("name", [n for n in RUN if n not in WITHOUT_LOSS])
def test_the_loss_has_gradients_and_leaves_shapes_alone(name):
    config = config_of(name)
    detector = make_detector(config)
    variables = {"frozen": {}, **detector.init(jax.random.key(0))}
    batch, keys = batch_of(detector, config), jax.random.split(jax.random.key(1), 2)

    @jax.jit
    def step(variables, batch):  # as arguments: constants would be computed while it compiles
        def loss(params):
            return detector.loss({**variables, "params": params}, batch, keys)

        return jax.value_and_grad(loss, has_aux=True)(variables["params"])

    (loss, (terms, stats)), grads = step(variables, batch)
    assert jnp.isfinite(loss)
    assert terms
    assert all(jnp.ndim(value) == 0 for value in terms.values())
    assert jax.tree.map(jnp.shape, stats) == jax.tree.map(jnp.shape, variables["stats"])
    assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(grads))
    assert any(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(grads))


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN)
def test_a_run_trains_saves_resumes_and_predicts(name, dataset, tmp_path):
    config, parts = config_of(name, dataset, mesh__data=1), tmp_path / "parts"
    if name in TRAINED:
        run(with_fields(config, num_train_steps=2), parts)
        results = run(config, parts)
        assert results["step"] == config.num_train_steps
        run(config, tmp_path / "whole")
        found, whole = (load_run(tmp_path / n).variables for n in ("parts", "whole"))
        jax.tree.map(np.testing.assert_array_equal, found, whole)
    else:
        results = run(config, parts)
        again = run(config, parts)  # nothing left to do but to evaluate
        assert again["image_auroc"] == results["image_auroc"]
    assert results["num_test_images"] > 0
    assert (parts / "report.html").is_file()
    stored = load_run(parts).config
    assert stored == as_decided(config, stored)
    predictor = Predictor.from_workdir(parts)
    given = [*images(config, 2), images(config, 1)[0, :-5]]
    predictions = predictor(given)
    assert np.isfinite([prediction.score for prediction in predictions]).all()
    run_, calibration = load_run(parts), predictor.calibration
    save_run(run_, calibration, tmp_path / "saved")
    assert_same(Predictor.from_file(tmp_path / "saved")(given), predictions, 0)
    export_run(run_, calibration, tmp_path / "program", ["cpu"])
    opened = Predictor.from_file(tmp_path / "program", batch_size=3)
    assert_same(opened(given), predictions, 1e-4, f"{name} stablehlo")


def assert_same(found, expected, tolerance, told=""):
    """told: printed with the largest difference, for the table of docs/export.md."""
    if told:
        pairs = [(a.score, b.score) for a, b in zip(found, expected, strict=True)]
        print(f"export: {told} {max(abs(a - b) / max(abs(b), 1) for a, b in pairs):.0e}")
    for a, b in zip(found, expected, strict=True):
        assert a.score == pytest.approx(b.score, rel=tolerance, abs=tolerance)
        assert a.is_defective == b.is_defective
        assert (a.anomaly_map is None) == (b.anomaly_map is None)


# A method of each kind that treats what is not inspected in a way of its own.
INSPECTED = ("filter_mixture", "patch_memory", "subspace", "vtadl", "experts", "unet", "capsnet")


@pytest.mark.slow
@pytest.mark.parametrize("name", INSPECTED)
def test_what_is_not_inspected_has_no_part_in_scores_maps_and_programs(name, dataset, tmp_path):
    area = np.zeros((32, 32), bool)
    area[5:27, 3:25] = True
    area[8:14, 12:20] = False
    Image.fromarray(np.uint8(255 * area)).save(tmp_path / "mask.png")
    config = config_of(name, dataset, mesh__data=1, data__regions=str(tmp_path / "mask.png"))
    run(config, tmp_path / "run")
    predictor, given = Predictor.from_workdir(tmp_path / "run"), images(config, 2)
    other = np.where(area[..., None], given, 255 - given)
    predictions = predictor(list(given))
    assert_same(predictor(list(other)), predictions, 0)
    for prediction in predictions:
        if prediction.anomaly_map is not None:
            inside = prediction.anomaly_map[area]
            assert prediction.anomaly_map[~area].max() <= inside.min()
    found = load_run(tmp_path / "run")
    export_run(found, predictor.calibration, tmp_path / "program", ["cpu"])
    opened = Predictor.from_file(tmp_path / "program", batch_size=2)
    assert_same(opened(list(other)), predictions, 1e-4)


@pytest.mark.parametrize("name", RUN)
def test_scores_can_be_traced_for_any_number_of_images(name):
    config = config_of(name)
    detector = make_detector(config)
    variables = jax.eval_shape(detector.init, jax.random.key(0))
    shape = (*export.symbolic_shape("b"), *config.image_size, config.data.channels)
    score = on_platform("cpu", detector.score)
    found = jax.eval_shape(score, variables, jax.ShapeDtypeStruct(shape, np.uint8))
    assert found.terms.shape == (shape[0], len(detector.score_terms))
