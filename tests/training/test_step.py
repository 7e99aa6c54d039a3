"""The compiled step: learning, averages, noise, devices, labels and masks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.cli import run_cli
from tests.factory import tiny_config
from tests.training.steps import IMAGES, QUICK, make_step, supervised
from vtadl_jax.errors import UserError
from vtadl_jax.ops.augment import NO_AUGMENTATION, Augmentation
from vtadl_jax.runtime import sharding

TURNED = Augmentation(flip_vertical=True, rotation_degrees=20.0, brightness=0.2)


@pytest.mark.optimized
def test_loss_falls_on_a_repeated_batch():
    state, step, batch = make_step(tiny_config(optimizer__learning_rate=3e-3))
    losses = []
    for _ in range(30):
        state, metrics = step(state, batch)
        losses.append(jax.device_get(metrics))
    assert int(state.step) == 30
    for term in ("loss", "nll", "mse"):
        assert np.mean([m[term] for m in losses[-5:]]) < np.mean([m[term] for m in losses[:5]])


@pytest.mark.optimized
def test_eight_devices_compute_what_one_does():
    config = tiny_config(model__mdn__noise_std=0.2)
    (one, step_one, batch_one), (eight, step_eight, batch_eight) = (
        make_step(config, devices) for devices in (1, 8)
    )
    for _ in range(2):
        one, metrics_one = step_one(one, batch_one)
        eight, metrics_eight = step_eight(eight, batch_eight)
    assert len(batch_eight["image"].sharding.device_set) == 8
    for name in metrics_one:
        assert float(metrics_eight[name]) == pytest.approx(float(metrics_one[name]), rel=1e-4)
    one, eight = (jax.tree.leaves((state.params, state.stats)) for state in (one, eight))
    for a, b in zip(one, eight, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)


@pytest.mark.slow
def test_augmented_images_are_the_same_on_one_device_and_on_eight():
    nll = []
    for devices, augmentation in ((1, TURNED), (8, TURNED), (1, NO_AUGMENTATION)):
        state, step, batch = make_step(tiny_config(**QUICK), devices, augmentation)
        nll.append(float(step(state, batch)[1]["nll"]))
    assert nll[0] == pytest.approx(nll[1], rel=1e-4)
    assert nll[0] != pytest.approx(nll[2], rel=1e-4)


@pytest.mark.slow
def test_the_step_donates_its_state_and_repeats_exactly():
    runs = []
    for _ in range(2):
        state, step, batch = make_step(tiny_config(**QUICK))
        first = state.params["loc"]
        state, metrics = step(state, batch)
        assert first.is_deleted()
        runs.append(float(metrics["loss"]))
    assert runs[0] == runs[1]


@pytest.mark.slow
def test_ema_follows_the_parameters():
    state, step, batch = make_step(tiny_config(**QUICK, optimizer__ema_decay=0.9))
    before = np.asarray(state.params["loc"])
    state, _ = step(state, batch)
    now, average = np.asarray(state.params["loc"]), state.variables["params"]["loc"]
    assert np.abs(now - before).max() > 1e-4
    np.testing.assert_allclose(average, 0.9 * before + 0.1 * now, rtol=1e-5, atol=1e-7)


def defects() -> dict[str, np.ndarray]:
    """Labels, masks and what is known of them for `IMAGES`: four defects, one without a mask.

    A mask is where the image is white.
    """
    mask = np.zeros((8, 32, 32), np.uint8)
    for row, place in enumerate((slice(0, 8), slice(3, 20), slice(16, 32))):
        mask[row, place, 4:12] = 1
    label = np.array([1, 1, 1, 1, 0, 0, 0, 0], np.int32)
    return {"label": label, "mask": mask, "has_mask": np.arange(8) != 3}


@pytest.mark.parametrize("needs", [{"label"}, {"mask"}, {"label", "mask"}])
@pytest.mark.parametrize(("devices", "parallel"), [(1, "jit"), (8, "jit"), (8, "pmap")])
def test_labels_and_masks_reach_the_loss(needs, devices, parallel):
    every = defects()
    images = np.where(every["mask"][..., None] > 0, 255, IMAGES // 2).astype(np.uint8)
    names = {"label"} & needs | ({"mask", "has_mask"} if "mask" in needs else set())
    state, step, batch = make_step(
        tiny_config(**QUICK, train__parallel=parallel),
        devices,
        detector=supervised(frozenset(needs)),
        **{name: every[name] for name in names},
        image=images,
    )
    _, metrics = step(state, batch)
    if "label" in needs:
        assert float(metrics["labels"]) == 0.5
    if "mask" in needs:
        assert float(metrics["masks"]) == pytest.approx(every["mask"].mean())
        assert float(metrics["known"]) == 7 / 8
        assert float(metrics["under"]) == pytest.approx(every["mask"].mean())  # all white there


@pytest.mark.slow
def test_a_mask_moves_as_its_image():
    every, plain = defects(), supervised()
    images = np.broadcast_to(every["mask"][..., None] * 255, IMAGES.shape).astype(np.uint8)

    def init(key):  # what the loss is given comes back as the new stats
        return {**plain.init(key), "stats": {name: jnp.zeros_like(every["mask"]) for name in "xy"}}

    def loss(variables, batch, keys, parallel):
        total, (terms, _) = plain.loss(variables, batch, keys, parallel)
        return total, (terms, {"x": batch["image"][..., 0], "y": batch["mask"]})

    turned = Augmentation(flip_horizontal=True, flip_vertical=True, rotation_degrees=45.0)
    recording = dataclasses.replace(plain, init=init, loss=loss)
    found = []
    for devices in (1, 8):
        state, step, batch = make_step(
            tiny_config(**QUICK), devices, turned, detector=recording, **every, image=images
        )
        state, metrics = step(state, batch)
        assert float(metrics["labels"]) == 0.5
        found.append(jax.device_get(state.stats))
        image, mask = found[-1]["x"] / 255, found[-1]["y"]
        assert set(np.unique(mask)) == {0, 1}
        assert not np.array_equal(mask, every["mask"])
        for row in range(3):
            # White where the mask is, and nowhere else, but for edges between pixels.
            assert (image[row] * mask[row]).sum() > 0.85 * mask[row].sum()
            assert (image[row] * (1 - mask[row])).sum() < 0.15 * mask[row].sum()
    for name in "xy":
        np.testing.assert_array_equal(found[0][name], found[1][name])


def test_batches_that_do_not_divide_over_the_devices_are_refused():
    mesh = sharding.make_mesh(8)
    with pytest.raises(UserError, match="12 is not divisible by 8 data-parallel devices: use 16"):
        sharding.check_batch("batch_size", 12, mesh)


@pytest.mark.slow
def test_the_step_imports_no_files_pipeline_or_checkpoints():
    code = (
        "import sys, vtadl_jax.training.step\n"
        "print([m for m in ('orbax', 'grain', 'PIL', 'tensorflow_datasets') if m in sys.modules])"
    )
    found = run_cli("-c", code)
    assert (found.returncode, found.stdout) == (0, "[]\n"), found.stderr
