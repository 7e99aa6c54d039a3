"""Elastic weight consolidation: keeps weights that mattered for old images near their old values.

Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks" (PNAS 2017): to the loss
of new images it adds strength / 2 · Σ_i F_i (θ_i − θ*_i)², where θ* are the weights before and F_i
is the diagonal of the Fisher information of the old loss, the mean square of its gradient.

The old weights and their information are frozen variables, which a run saves once.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vtadl_jax.detectors.contract import Batch, Detector, Variables
from vtadl_jax.networks.parallel import SINGLE_DEVICE

START = "start"  # the entry of 'frozen'


def penalty(params: Any, start: Any, fisher: Any, strength: float) -> jax.Array:
    """Returns strength / 2 · Σ F (θ − θ*)², float32 []. Trees of the same shapes."""
    parts = jax.tree.map(
        lambda now, before, f: jnp.sum(f * jnp.square((now - before).astype(jnp.float32))),
        params,
        start,
        fisher,
    )
    return strength / 2 * sum(jax.tree.leaves(parts), jnp.zeros((), jnp.float32))


def consolidated(detector: Detector, strength: float) -> Detector:
    """Returns a trained detector whose loss has the penalty, as the term 'consolidation'.

    Its variables hold zeros for old weights and information until `with_start` sets them.
    """
    inner = detector.loss
    assert inner is not None, "only a trained method has a loss to consolidate"

    def init(key):
        variables = detector.init(key)
        zeros = jax.tree.map(jnp.zeros_like, variables["params"])
        return with_start(variables, zeros, jax.tree.map(jnp.copy, zeros))

    def loss(variables, batch, keys, parallel=SINGLE_DEVICE):
        start = variables["frozen"][START]
        total, (terms, stats) = inner(without_start(variables), batch, keys, parallel)
        added = penalty(variables["params"], start["params"], start["fisher"], strength)
        return total + added, ({**terms, "consolidation": added}, stats)

    def score(variables, images):
        return detector.score(without_start(variables), images)

    return dataclasses.replace(detector, init=init, loss=loss, score=score)


def with_start(variables: Variables, params: Any, fisher: Any) -> Variables:
    """Returns variables that remember old weights and their information."""
    frozen = {**variables.get("frozen", {}), START: {"params": params, "fisher": fisher}}
    return {**variables, "frozen": frozen}


def without_start(variables: Variables) -> Variables:
    """Returns the variables of the method itself."""
    frozen = {k: v for k, v in variables.get("frozen", {}).items() if k != START}
    return {**variables, "frozen": frozen}


def fisher_diagonal(
    detector: Detector, variables: Variables, batches: Iterable[Mapping[str, Any]], key: jax.Array
) -> Any:
    """Returns the diagonal of the Fisher information at `variables`, a tree of numpy arrays.

    The mean over images of the squared gradient of the loss of one image, float32. detector:
    without microbatches. batches: at least one; with 'valid' bool [B], other rows do not count.
    """
    squares = jax.jit(squared_gradients(detector))
    total, count = None, 0
    for number, batch in enumerate(batches):
        given = {name: batch[name] for name in Batch.__annotations__ if name in batch}
        valid = np.asarray(batch.get("valid", np.ones(len(batch["image"]), bool)))
        found = jax.device_get(squares(variables, given, valid, jax.random.fold_in(key, number)))
        total = found if total is None else jax.tree.map(np.add, total, found)
        count += int(valid.sum())
    assert total is not None, "no batch"
    return jax.tree.map(lambda x: (x / count).astype(np.float32), total)


def squared_gradients(detector: Detector) -> Callable[..., Any]:
    """Returns a function (variables, batch, valid [B], key) → sum of squared gradients by image."""
    inner = detector.loss
    assert inner is not None, "only a trained method has a loss"

    def of_batch(variables, batch, valid, key):
        def loss_of(params, one, one_key):
            alone = jax.tree.map(lambda x: x[None], one)
            found = inner({**variables, "params": params}, alone, one_key[None], SINGLE_DEVICE)
            return found[0]

        def add(total, row):
            one, counts, one_key = row
            grads = jax.grad(loss_of)(variables["params"], one, one_key)
            return jax.tree.map(lambda t, g: t + counts * jnp.square(g), total, grads), None

        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), variables["params"])
        keys = jax.random.split(key, len(valid))
        # One image after the other: a gradient for each at once would take B times the weights.
        return jax.lax.scan(add, zeros, (batch, valid.astype(jnp.float32), keys))[0]

    return of_batch
