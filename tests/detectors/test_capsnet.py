"""The CapsNet detector: its loss against the definition, devices, options, a set of one class."""

import gzip

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from tests.factory import tiny_config
from tests.training.steps import make_step
from vtadl_jax.detectors.capsnet import (
    SCORE_TERMS,
    CapsNetLossOptions,
    margin_loss,
    mean_of_normal,
    score_terms,
)
from vtadl_jax.errors import UserError
from vtadl_jax.experiment import load, make_detector
from vtadl_jax.run import run
from vtadl_jax.runtime import sharding

SIZES = {
    "model__network__kernel_size": 5,
    "model__network__width": 8,
    "model__network__capsule_types": 2,
    "model__network__capsule_dim": 4,
    "model__network__output_dim": 4,
    "model__network__hidden": (8,),
}
LABEL = np.array([0, 0, 1, 0, 0, 1, 0, 0], np.int32)


def config_of(**fields):
    return tiny_config(detector="capsnet", **{**SIZES, **fields})


def test_the_margin_loss_matches_the_definition():
    vectors = np.random.default_rng(0).normal(size=(5, 2, 3)) / 2
    label = np.array([0, 1, 0, 1, 1])
    options = CapsNetLossOptions(present_margin=0.8, absent_margin=0.2, absent_weight=0.3)
    want = []
    for image, true in zip(vectors, label, strict=True):
        length = np.linalg.norm(image, axis=-1)
        present, absent = max(0, 0.8 - length[true]), max(0, length[1 - true] - 0.2)
        want.append(present**2 + 0.3 * absent**2)
    np.testing.assert_allclose(margin_loss(vectors, label, options), want, rtol=1e-5)


def test_the_terms_are_the_score_its_parts_and_the_plain_decision():
    vectors = np.zeros((2, 2, 3), np.float32)
    vectors[0, 0, 1], vectors[0, 1, 2] = 0.8, -0.6  # normal by the longer one, suspect by AS
    vectors[1, 0, 0], vectors[1, 1, 0] = 0.1, 0.7
    terms = score_terms(vectors, jnp.array([0.05, 0.25]))
    want = [[-0.15, -0.2, 0.05, 0], [0.85, 0.6, 0.25, 1]]
    np.testing.assert_allclose(terms, want, rtol=1e-5)
    assert len(SCORE_TERMS) == terms.shape[1]


@pytest.mark.parametrize("label", [LABEL, 0 * LABEL, 1 - 0 * LABEL], ids=["some", "all", "none"])
def test_the_mean_over_normal_images_is_that_of_the_whole_batch(label):
    values = np.arange(8, dtype=np.float32)
    want = values[label == 0].mean() if (label == 0).any() else 0
    assert mean_of_normal(values, jnp.asarray(label)) == pytest.approx(want)

    def share(values, label):
        return jax.lax.pmean(mean_of_normal(values, label, "data"), "data")

    mesh, rows = sharding.make_mesh(4, 1), PartitionSpec("data")
    mapped = jax.shard_map(share, mesh=mesh, in_specs=(rows, rows), out_specs=PartitionSpec())
    assert jax.jit(mapped)(values, label) == pytest.approx(want)


@pytest.mark.slow
def test_eight_devices_and_microbatches_compute_what_one_device_does():
    runs = []
    for devices, fsdp, fields in (
        (1, 1, {}),
        (8, 1, {}),
        (8, 1, {"train__parallel": "pmap"}),
        (2, 4, {}),
        (1, 1, {"train__accumulate": 4}),
    ):
        config = config_of(model__loss__reconstruct_normal_only=True, **fields)
        state, step, batch = make_step(config, devices, fsdp=fsdp, label=LABEL)
        for _ in range(2):
            state, metrics = step(state, batch)
        metrics = {name: float(value) for name, value in metrics.items()}
        runs.append((metrics, jax.device_get(state.params)))
    (metrics, params), *others = runs
    assert metrics.keys() == {"loss", "margin", "mse", "grad_norm"}
    for other_metrics, other_params in others:
        assert other_metrics == pytest.approx(metrics, rel=1e-4)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), other_params, params)


def test_labels_and_the_switch_change_the_loss():
    batch = {"image": np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)}
    losses = []
    for label, normal_only in ((LABEL, False), (1 - LABEL, False), (LABEL, True)):
        detector = make_detector(config_of(model__loss__reconstruct_normal_only=normal_only))
        variables = detector.init(jax.random.key(0))
        keys = jax.random.split(jax.random.key(0), 8)
        loss, (terms, _) = jax.jit(detector.loss)(variables, {**batch, "label": label}, keys)
        losses.append(float(loss))
        weight = 0.0005 * 32 * 32 * 3
        assert float(loss) == pytest.approx(float(terms["margin"] + weight * terms["mse"]))
    assert len(set(losses)) == 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": (8, 32)}, r"image_size \(8, 32\): model.network.kernel_size 5 needs sides"),
        ({"model__mean": (0.1, 0.2, 0.3), "data__channels": 1}, r"model.mean .* 1 channel\(s\)"),
        ({"model__std": (0.1, 0.2, 0.3), "data__channels": 1}, r"model.std .* one value"),
    ],
)
def test_options_that_cannot_be_built_are_rejected(fields, message):
    with pytest.raises(UserError, match=message):
        make_detector(config_of(**fields))


def test_configs_are_those_of_the_thesis():
    for name, source, category in (
        ("mnist-all", "mnist", "all"),
        ("fashion_mnist-t-shirt", "fashion_mnist", "t-shirt"),
        ("cifar10-ship", "cifar10", "ship"),
    ):
        config, _ = load(f"configs/capsnet.py:{name}")
        assert (config.data.source, config.data.category) == (source, category)
        assert (config.batch_size, config.num_epochs) == (32, 10)
        assert len(config.model.mean) == config.data.channels
        make_detector(config)


def write_idx(folder, images, labels, stem):
    """Writes a set in MNIST's files."""
    for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
        header = bytes((0, 0, 8, array.ndim))
        header += b"".join(side.to_bytes(4, "big") for side in array.shape)
        (folder / f"{stem}-{kind}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture
def digits(tmp_path):
    """Images of ten classes, a bar for each, in MNIST's files: 20 and 8 of each class."""
    rng = np.random.default_rng(0)
    for stem, count in (("train", 200), ("t10k", 80)):
        labels = np.arange(count, dtype=np.uint8) % 10
        images = rng.integers(0, 40, (count, 28, 28), np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[2 * label + 4 : 2 * label + 7] = 220
        write_idx(tmp_path, images, labels, stem)
    return tmp_path


@pytest.mark.slow
def test_a_run_on_one_class_learns_from_few_anomalies(digits, tmp_path, capsys):
    sizes = [f"--config.{name.replace('__', '.')}={value}" for name, value in SIZES.items()]
    overrides = [
        f"--config.data.root={digits}",
        *sizes,
        "--config.data.test_limit=6",
        "--config.data.anomaly_fraction=0.2",
        "--config.num_train_steps=60",
        "--config.batch_size=8",
        "--config.optimizer.learning_rate=0.01",
        "--config.mesh.data=1",
    ]
    config, _ = load("configs/capsnet.py:mnist-3", overrides)
    results = run(config, tmp_path / "run")
    told = capsys.readouterr().err
    assert (
        "note: trained on 20 normal and 4 anomalous images, tested on 6 of 8 normal and 6 of 72 "
        "anomalous ones, drawn by seed 0"
    ) in told
    assert (results["num_test_images"], results["num_anomalous"]) == (12, 6)
    assert results["image_auroc_by_term"].keys() == set(SCORE_TERMS)
    assert results["image_auroc"] > 0.9
    assert 0.5 <= results["image_accuracy"] <= 1
