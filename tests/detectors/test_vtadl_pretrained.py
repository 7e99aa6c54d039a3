"""VT-ADL over a small pretrained encoder: what is frozen, what training steps change."""

import jax
import numpy as np
import pytest

from tests.detectors.fits import draw_images
from tests.factory import tiny_config, tiny_detector, with_fields
from tests.networks.encoder_files import CASES, arrays_of
from vtadl_jax.errors import UserError
from vtadl_jax.evaluation.trained_run import load_run
from vtadl_jax.networks import features
from vtadl_jax.run import run

CASE = CASES["dinov2"]
FIELDS = {"model__features": "tiny", "model__encoder__blocks": (0, 2), "model__token_dim": 8}


@pytest.fixture(autouse=True)
def _tiny_encoder(monkeypatch):
    monkeypatch.setitem(features.VITS, "tiny", CASE.vit)
    monkeypatch.setitem(features.EXTRACTORS, "tiny", features._vit)


def make(fine_tune, **fields):
    """(detector, variables) after the fit to a few images."""
    detector = tiny_detector(
        "vtadl_pretrained", **FIELDS, model__fine_tune=fine_tune, data__channels=3, **fields
    )
    assert detector.pretrained_required
    variables = detector.load_pretrained(detector.init(jax.random.key(0)), arrays_of(CASE))
    images = np.repeat(draw_images(4), 3, -1)
    rows = jax.device_get(detector.fit.gather(variables, images, jax.random.key(1)))
    return detector, detector.fit.solve(variables, rows, np.random.default_rng(0)), images


def gradient(detector, variables, images):
    keys = jax.random.split(jax.random.key(2), len(images))

    def loss(params):
        return detector.loss({**variables, "params": params}, {"image": images}, keys)

    return jax.jit(jax.grad(loss, has_aux=True))(variables["params"])


def largest(tree):
    return max(float(np.abs(x).max()) for x in jax.tree.leaves(tree))


@pytest.mark.slow
def test_a_frozen_encoder_is_no_parameter():
    detector, variables, images = make(False)
    assert set(variables["params"]) == {"network"}
    assert variables["frozen"]["blocks"]["qkv"]["kernel"].shape[0] == 3
    _, (terms, stats) = gradient(detector, variables, images)
    assert set(terms) == {"nll", "mse", "dissimilarity"}
    scores = jax.jit(detector.score)({**variables, "stats": stats}, images)
    assert scores.anomaly_map.shape == (4, 32, 32)
    assert scores.recon.shape == images.shape
    assert np.isfinite(scores.anomaly_map).all()


@pytest.mark.slow
def test_tokens_are_white_over_the_images_of_the_fit():
    detector, variables, images = make(False)
    whitening = variables["stats"]["whitening"]
    assert whitening["whitener"].shape == (CASE.vit.width, 8)
    rows = detector.fit.gather(variables, images, jax.random.key(1))
    tokens = features.whiten(whitening, np.asarray(rows).reshape(-1, CASE.vit.width))
    np.testing.assert_allclose(tokens.mean(0), 0, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("reconstructs", [True, False])
def test_only_the_reconstruction_fine_tunes_the_encoder(reconstructs):
    weights = {} if reconstructs else {"model__loss__mse_weight": 0.0}
    weights |= {} if reconstructs else {"model__loss__ssim_weight": 0.0}
    detector, variables, images = make(True, **weights)
    assert variables["frozen"] == {}
    grads, _ = gradient(detector, variables, images)
    assert (largest(grads["encoder"]) > 0) == reconstructs


@pytest.mark.slow
@pytest.mark.parametrize("fine_tune", [False, True])
def test_a_run_resumes_and_a_frozen_encoder_stays_as_it_was(fine_tune, dataset, tmp_path):
    np.savez(tmp_path / "tiny.npz", **arrays_of(CASE))
    config = tiny_config(
        dataset,
        "vtadl_pretrained",
        **FIELDS,
        model__fine_tune=fine_tune,
        data__channels=3,
        optimizer__schedule="constant",
        init_from=str(tmp_path / "tiny.npz"),
    )
    run(with_fields(config, num_train_steps=2), tmp_path / "parts")
    run(config, tmp_path / "parts")
    run(config, tmp_path / "whole")
    parts, whole = (load_run(tmp_path / name).variables for name in ("parts", "whole"))
    jax.tree.map(np.testing.assert_array_equal, parts, whole)
    _, before, _ = make(fine_tune)
    if fine_tune:
        old, new = (v["params"]["encoder"]["blocks"]["qkv"]["kernel"] for v in (before, whole))
        assert float(np.abs(np.asarray(old) - np.asarray(new)).max()) > 1e-4
    else:
        jax.tree.map(np.testing.assert_array_equal, before["frozen"], whole["frozen"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model__features": "filters", "model__fine_tune": True}, r"model\.fine_tune True"),
        ({**FIELDS, "model__mdn__feature_dim": 9}, r"model\.mdn\.feature_dim 9: use 1 to 8"),
        ({**FIELDS, "model__mdn__conditional": True}, r"model\.mdn\.conditional True: online EM"),
    ],
)
def test_options_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        tiny_detector("vtadl_pretrained", **fields)
