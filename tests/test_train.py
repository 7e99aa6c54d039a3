"""The compiled step: learning, optimiser, noise, devices, resume, divergence."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.factory import tiny_config, tiny_dataset
from vtadl_jax import main, plan, sharding, train
from vtadl_jax.checkpoint import Checkpoints
from vtadl_jax.errors import TrainingDiverged, UserError
from vtadl_jax.models import make_detector
from vtadl_jax.ops.augment import NO_AUGMENTATION, Augmentation
from vtadl_jax.optimizer import learning_rate_schedule, make_optimizer

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)


def setup(config, devices=1, augmentation=NO_AUGMENTATION, fsdp=1):
    """State on a mesh, the step compiled for it, and a batch."""
    detector, mesh = make_detector(config), sharding.make_mesh(devices, fsdp)
    tx = make_optimizer(config.optimizer, 100)
    ema = config.optimizer.ema_decay
    state = train.create_state(detector, tx, config.seed, ema)
    share_update = sharding.shares_update(config.train)
    state = sharding.put_state(mesh, state, share_update)
    batch = sharding.put_batch(mesh, {"image": IMAGES})
    step = train.make_train_step(
        detector,
        tx,
        mesh,
        state,
        ema_decay=ema,
        augmentation=augmentation,
        parallel=config.train.parallel,
        share_update=share_update,
    )
    return state, train.compile_train_step(step, state, batch), batch


def test_loss_falls_on_a_repeated_batch():
    state, step, batch = setup(tiny_config(optimizer__learning_rate=3e-3))
    losses = []
    for _ in range(30):
        state, metrics = step(state, batch)
        losses.append(jax.device_get(metrics))
    assert int(state.step) == 30
    for term in ("loss", "nll", "mse"):
        assert np.mean([m[term] for m in losses[-5:]]) < np.mean([m[term] for m in losses[:5]])


def test_eight_devices_compute_what_one_does():
    config = tiny_config(model__mdn__noise_std=0.2)
    (one, step_one, batch_one), (eight, step_eight, batch_eight) = (
        setup(config, devices) for devices in (1, 8)
    )
    for _ in range(2):
        one, metrics_one = step_one(one, batch_one)
        eight, metrics_eight = step_eight(eight, batch_eight)
    assert len(batch_eight["image"].sharding.device_set) == 8
    for name in metrics_one:
        assert float(metrics_eight[name]) == pytest.approx(float(metrics_one[name]), rel=1e-4)
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(eight.params), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)


def test_augmented_images_are_the_same_on_one_device_and_on_eight():
    turned = Augmentation(flip_vertical=True, rotation_degrees=20.0, brightness=0.2)
    runs = [(1, turned), (8, turned), (1, NO_AUGMENTATION)]
    mse = []
    for devices, augmentation in runs:
        state, step, batch = setup(tiny_config(), devices, augmentation)
        mse.append(float(step(state, batch)[1]["mse"]))
    assert mse[0] == pytest.approx(mse[1], rel=1e-4)
    assert mse[0] != pytest.approx(mse[2], rel=1e-4)


def test_the_step_donates_its_state_and_repeats_exactly():
    runs = []
    for _ in range(2):
        state, step, batch = setup(tiny_config())
        first = state.params["mixture"]["loc"]["kernel"]
        state, metrics = step(state, batch)
        assert first.is_deleted()
        runs.append(float(metrics["loss"]))
    assert runs[0] == runs[1]


def test_ema_follows_the_parameters():
    state, step, batch = setup(tiny_config(optimizer__ema_decay=0.9))
    before = np.asarray(state.params["decoder"]["vector"]["kernel"])
    state, _ = step(state, batch)
    now = np.asarray(state.params["decoder"]["vector"]["kernel"])
    average = state.variables["params"]["decoder"]["vector"]["kernel"]
    np.testing.assert_allclose(average, 0.9 * before + 0.1 * now, rtol=1e-5, atol=1e-7)


def test_weight_decay_is_l2_in_the_gradient_as_in_torch():
    """Ten steps of torch.optim.Adam(lr=0.1, weight_decay=0.5), written from its documentation."""
    config = tiny_config(optimizer__learning_rate=0.1, optimizer__weight_decay=0.5).optimizer
    tx = make_optimizer(config, 10)
    theta, m, v = np.array([1.0, -2.0]), 0.0, 0.0
    params = jnp.asarray(theta)
    state = tx.init(params)
    for t in range(1, 11):
        g = np.cos(theta) + 0.5 * theta
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        theta = theta - 0.1 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        updates, state = tx.update(jnp.cos(params), state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params, theta, rtol=1e-4, atol=2e-5)


def test_schedules():
    config = tiny_config(
        optimizer__learning_rate=2.0, optimizer__warmup_steps=10, optimizer__schedule="cosine"
    ).optimizer
    schedule = learning_rate_schedule(config, 110)
    np.testing.assert_allclose(
        [schedule(s) for s in (0, 5, 10, 60, 110)], [0, 1, 2, 1, 0], atol=1e-6
    )
    with pytest.raises(UserError, match="'linear'"):
        learning_rate_schedule(tiny_config(optimizer__schedule="linear").optimizer, 10)


def test_batches_that_do_not_divide_over_the_devices_are_refused():
    mesh = sharding.make_mesh(8)
    with pytest.raises(UserError, match="12 is not divisible by 8 data-parallel devices: use 16"):
        sharding.check_batch("batch_size", 12, mesh)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return tiny_dataset(tmp_path_factory.mktemp("data") / "parts")


def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(dataset, tmp_path):
    def final(workdir, *lengths):
        for steps in lengths:
            main.run(tiny_config(dataset, num_train_steps=steps, mesh__data=1), workdir)
        config = tiny_config(dataset)
        detector = make_detector(config)
        tx = make_optimizer(config.optimizer, 6)
        state = Checkpoints(workdir).restore(train.create_state(detector, tx, 0)).state
        assert int(state.step) == 6
        return state

    whole, parts = final(tmp_path / "whole", 6), final(tmp_path / "parts", 3, 6)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_nan_stops_the_run_and_names_step_term_and_checkpoint(dataset, tmp_path, monkeypatch):
    real = plan.make_detector

    def broken(config):
        detector = real(config)

        def loss(params, batch_stats, images, keys, layout):
            total, (terms, stats) = detector.loss(params, batch_stats, images, keys, layout)
            # The sixth step's noise key, so the NaN comes in the middle of the run.
            sixth = jax.random.fold_in(jax.random.split(jax.random.key(0))[1], 5)
            bad = keys[0] == jax.random.fold_in(sixth, 0)
            return total, ({**terms, "mse": jnp.where(bad, jnp.nan, terms["mse"])}, stats)

        return type(detector)(detector.init, loss, detector.score, detector.score_terms)

    monkeypatch.setattr(plan, "make_detector", broken)
    config = tiny_config(dataset, num_train_steps=20, mesh__data=1)
    with pytest.raises(
        TrainingDiverged, match=r"step 6: mse is nan: .* is step 4 in .*checkpoints"
    ):
        main.run(config, tmp_path / "run")
    assert not (tmp_path / "run" / "results.json").exists()


def test_one_run_compiles_one_train_step(dataset, tmp_path):
    with jax.log_compiles(), pytest.MonkeyPatch.context() as patch:
        traces = []
        patch.setattr(
            train, "train_step",
            functools.wraps(train.train_step)(
                lambda *a, real=train.train_step, **k: (traces.append(1), real(*a, **k))[1]
            ),
        )  # fmt: skip
        main.run(tiny_config(dataset, mesh__data=1, eval_every_steps=2), tmp_path / "run")
    assert len(traces) == 1
