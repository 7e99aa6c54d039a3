"""Compiled steps of tiny detectors, and a supervised detector; holds no tests."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from tests.factory import with_fields
from vtadl_jax.detectors.contract import Detector, Scores
from vtadl_jax.ops.augment import NO_AUGMENTATION
from vtadl_jax.runtime import sharding
from vtadl_jax.training.assembly import assemble
from vtadl_jax.training.compiled_steps import compile_train_step

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
# Compiles in a second: for tests of the step and of the loop that hold for any detector.
QUICK = {"detector": "image_mixture", "model__mdn__num_components": 3}
SUPERVISED = frozenset({"label", "mask"})


def make_step(config, devices=1, augmentation=NO_AUGMENTATION, fsdp=1, detector=None, **batch):
    """A state on a mesh, the step compiled for it, and a batch. batch: arrays beside the images."""
    mesh = sharding.make_mesh(devices, fsdp)
    varied = {f"data__augment__{k}": v for k, v in dataclasses.asdict(augmentation).items()}
    assembly = assemble(with_fields(config, **varied), 100, detector)
    state = sharding.put_state(mesh, assembly.make_state(), assembly.shard_optimizer)
    batch = sharding.put_batch(mesh, {"image": IMAGES, **batch})
    step = assembly.make_step(mesh, state)
    return state, compile_train_step(step, state, batch), batch


def supervised(needs=SUPERVISED) -> Detector:
    """A detector that learns one brightness of good pixels from images, labels and masks.

    Its loss terms are sums that a test can compute: of labels, of masks, of known masks, and of the
    images' values under the masks.
    """

    def init(key):
        return {"params": {"level": jax.random.uniform(key)}, "stats": {}}

    def loss(variables, batch, keys, parallel):
        del keys, parallel
        assert needs <= batch.keys()
        image = batch["image"].astype(jnp.float32).mean(-1) / 255
        terms = {}
        if "label" in needs:
            terms["labels"] = batch["label"].astype(jnp.float32).mean()
        good = 1.0
        if "mask" in needs:
            mask = batch["mask"].astype(jnp.float32)
            good = 1 - mask
            terms["masks"] = mask.mean()
            terms["known"] = batch["has_mask"].astype(jnp.float32).mean()
            terms["under"] = (image * mask).mean()
        value = jnp.mean(good * jnp.square(image - variables["params"]["level"]))
        return value, ({"mse": value, **terms}, variables["stats"])

    def score(variables, images):
        image = images.astype(jnp.float32).mean(-1) / 255
        maps = jnp.abs(image - variables["params"]["level"])
        return Scores(maps.max((1, 2))[:, None], maps)

    return Detector(init, score, ("error",), (1.0,), loss, needs=needs)
