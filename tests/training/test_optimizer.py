"""The optimizer is torch's Adam, and the learning rate follows its schedule."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vtadl_jax.config import OptimizerOptions
from vtadl_jax.training.optimizer import learning_rate_schedule, make_optimizer


def test_weight_decay_is_l2_in_the_gradient_as_in_torch():
    """Ten steps of torch.optim.Adam(lr=0.1, weight_decay=0.5), written from its documentation."""
    tx = make_optimizer(OptimizerOptions(learning_rate=0.1, weight_decay=0.5), 10)
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


@pytest.mark.parametrize(
    ("options", "rates"),
    [
        ({}, [2, 2, 2, 2, 2]),
        ({"warmup_steps": 10}, [0, 1, 2, 2, 2]),
        ({"warmup_steps": 10, "schedule": "cosine"}, [0, 1, 2, 1, 0]),
    ],
)
def test_schedules(options, rates):
    schedule = learning_rate_schedule(OptimizerOptions(learning_rate=2.0, **options), 110)
    np.testing.assert_allclose([schedule(s) for s in (0, 5, 10, 60, 110)], rates, atol=1e-6)


def test_a_gradient_is_clipped_before_the_decay_is_added():
    plain, clipped = (
        make_optimizer(OptimizerOptions(clip_norm=norm, weight_decay=0.0), 10)
        for norm in (0.0, 1.0)
    )
    params = jnp.zeros(2)
    small, large = jnp.array([0.3, 0.4]), jnp.array([30.0, 40.0])
    for tx, same in ((plain, False), (clipped, True)):
        # Adam normalises the gradient's size: check it in the moments.
        moments = [tx.update(g, tx.init(params), params)[1] for g in (2 * small, large)]
        first = [next(s for s in m if hasattr(s, "mu")).mu for m in moments]
        assert np.allclose(first[0], first[1], rtol=1e-6) is same
