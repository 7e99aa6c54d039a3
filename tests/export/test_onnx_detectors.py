"""Every detector as an ONNX graph scores as in JAX, for numbers of images that were not traced."""

import jax
import numpy as np
import pytest

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")
onnx = pytest.importorskip("onnx", reason="needs the extra `onnx`")

from tests.export.test_onnx_primitives import session  # noqa: E402
from tests.networks.small_segmentation import shrink  # noqa: E402
from tests.test_contract import NO_STEPS, PRETRAINED, RUN, config_of  # noqa: E402
from vtadl_jax.experiment import make_detector  # noqa: E402
from vtadl_jax.export.onnx.model import to_onnx  # noqa: E402
from vtadl_jax.export.onnx.precision import in_half, in_int8, layers_of  # noqa: E402

ENCODERS = {
    "efficientnet_lite0": {"image_size": (32, 32)},
    "resnet18": {"image_size": (32, 32)},
    "dinov2_vits14_reg": {"image_size": (28, 28)},
}
CASES = [(name, name, {}) for name in RUN] + [
    (encoder, "position_gaussian", {**NO_STEPS, **PRETRAINED, **sizes, "model__features": encoder})
    for encoder, sizes in ENCODERS.items()
]


@pytest.fixture(autouse=True)
def _small_networks(monkeypatch):
    shrink(monkeypatch)


def pictures(config, count, seed=0):
    """Waves with noise, which a fit can learn."""
    height, width = config.image_size
    rows, columns = np.mgrid[:height, :width]
    base = (127 + 60 * np.sin(rows / 5) + 40 * np.cos(columns / 7))[..., None]
    noise = np.random.default_rng(seed).normal(0, 25, (count, height, width, config.data.channels))
    return np.clip(base + noise, 0, 255).astype(np.uint8)


def filled(tree):
    """Random weights where a file would give them."""
    rng = np.random.default_rng(0)

    def fill(leaf):
        leaf = np.asarray(leaf)
        if leaf.dtype != np.float32 or leaf.any():
            return leaf
        scale = 1 / np.sqrt(max(1, np.prod(leaf.shape[:-1])))
        return (scale * rng.standard_normal(leaf.shape)).astype(np.float32)

    return jax.tree.map(fill, tree)


def fitted(name, fields):
    """(config, detector, variables): initialized, and fitted if it is a method that is."""
    config = config_of(name, **fields)
    detector = make_detector(config)
    variables = {"frozen": {}, **jax.device_get(detector.init(jax.random.key(0)))}
    variables["frozen"] = filled(variables["frozen"])
    if detector.fit is not None:
        gather, rows = jax.jit(detector.fit.gather), None
        for seed in range(3):
            found = gather(variables, pictures(config, 8, seed), jax.random.key(1))
            rows = detector.fit.add(rows, jax.device_get(found))
        gathered = detector.fit.gathered(rows)
        variables = detector.fit.solve(variables, gathered, np.random.default_rng(0))
    return config, detector, variables


def named(detector):
    def function(images, variables, settable):
        scores = detector.score(variables, images)
        found = {"terms": scores.terms}
        return found if scores.anomaly_map is None else {**found, "map": scores.anomaly_map}

    return function


def relative(got, want):
    """The largest difference of a column of terms, or of maps, beside its largest value."""
    want = np.asarray(want)
    axes = tuple(range(want.ndim)) if want.ndim > 2 else 0
    size = np.maximum(np.abs(want).max(axes), 1e-9)
    return float((np.abs(got - want).max(axes) / size).max())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "fields"), [pytest.param(d, f, id=i) for i, d, f in CASES])
def test_a_detector_scores_as_in_jax(name, fields):
    config, detector, variables = fitted(name, fields)
    function = named(detector)
    shape = (*config.image_size, config.data.channels)
    model = to_onnx(function, shape, variables)
    onnx.checker.check_model(model)
    run, exact = session(model), jax.jit(function)
    images = pictures(config, 4, seed=9)
    want, apart = jax.device_get(exact(images, variables, {})), 0.0
    for count in (1, 4):
        got = run.run(sorted(want), {"images": images[:count]})
        for one, key in zip(got, sorted(want), strict=True):
            apart = max(apart, relative(one, want[key][:count]))
    print(f"export: {name} onnx {apart:.0e}")  # for the table of docs/export.md
    assert apart < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(("name", "encoder"), [("position_gaussian", "dinov2_vits14_reg")])
def test_layers_of_encoders_may_be_rounded(name, encoder):
    sizes = ENCODERS[encoder]
    config, detector, variables = fitted(
        name, {**NO_STEPS, **PRETRAINED, **sizes, "model__features": encoder}
    )
    shape = (*config.image_size, config.data.channels)
    model = to_onnx(named(detector), shape, variables)
    layers = layers_of(model)
    assert {node.name.rpartition("/")[0] for node in layers} == {"networks/frozen_vit"}
    images = pictures(config, 4, seed=9)
    exact = session(model).run(["terms"], {"images": images})[0]
    small, number = in_int8(model, list(pictures(config, 6)))
    assert number == len(layers)
    assert small.ByteSize() < 0.3 * model.ByteSize()
    assert relative(session(small).run(["terms"], {"images": images})[0], exact) < 0.1
    size = model.ByteSize()
    assert in_half(model) == len(layers)
    assert model.ByteSize() < 0.6 * size
    assert relative(session(model).run(["terms"], {"images": images})[0], exact) < 5e-3
