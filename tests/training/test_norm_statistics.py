"""Batch norm over the whole batch, or over each device's share of it."""

import jax
import numpy as np
import pytest

from tests.factory import tiny_config
from tests.training.steps import make_step
from vtadl_jax.errors import UserError
from vtadl_jax.experiment import make_detector

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
IMAGES[4:] //= 8  # dark: the halves have statistics of their own


def one_step(devices, statistics, images=IMAGES):
    """The running statistics and the metrics after a step."""
    config = tiny_config(
        detector="autoencoder",
        train__parallel="pmap",
        model__decoder__norm_statistics=statistics,
    )
    state, step, batch = make_step(config, devices, image=images)
    state, metrics = step(state, batch)
    stats = jax.tree.map(np.asarray, state.stats)
    return stats, jax.tree.map(float, metrics)


@pytest.mark.slow
def test_running_statistics_of_devices_are_the_mean_of_their_own():
    together, _ = one_step(2, "device")
    halves = [one_step(1, "global", IMAGES[part])[0] for part in (slice(4), slice(4, 8))]
    expected = jax.tree.map(lambda a, b: (a + b) / 2, *halves)
    for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    # And not those of the whole batch, whose variance holds the difference of the means too.
    whole, _ = one_step(1, "global")
    differing = [
        not np.allclose(a, b, rtol=1e-4, atol=1e-5)
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(whole), strict=True)
    ]
    assert any(differing)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model__decoder__norm_statistics": "device"}, "needs a step mapped over"),
        ({"model__decoder__norm_statistics": "batch"}, "'batch': use 'global' or 'device'"),
    ],
)
def test_settings_that_cannot_be_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        make_detector(tiny_config(**fields))
