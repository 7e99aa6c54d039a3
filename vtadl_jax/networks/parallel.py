"""The sharding of batch and weights over devices, as far as a loss depends on it."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name


@dataclasses.dataclass(frozen=True)
class Parallel:
    """Sharding of a batch and of the weights over devices, as far as a loss depends on it.

    axis: name of the mapped axes over which the batch is sharded; None if this is the whole batch.
        Losses and terms are means over the local part; average batch statistics over `axis`.
    gather: function that all-gathers a sharded weight. None if every device holds whole weights.
    columns, rows: functions that reshard activations [B, D]: `columns` so that each device has the
        columns that match its shard of a weight [D, F], `rows` back to the batch's sharding. They
        are for weights far larger than their input, which stay sharded. None if `gather` is None.
    """

    axis: Any = None
    gather: Callable[[jax.Array], jax.Array] | None = None
    columns: Callable[[jax.Array], jax.Array] | None = None
    rows: Callable[[jax.Array], jax.Array] | None = None

    def apply_sharded(self, product: Callable, x: jax.Array) -> jax.Array:
        """Returns product(x) with a weight that stays sharded; reshards the input instead."""
        if self.columns is None or self.rows is None:
            return product(x)
        return self.rows(product(self.columns(x)))

    def constrain_batch(self, x: jax.Array) -> jax.Array:
        """Constrains x [B, ...] to the batch's sharding: with sharded weights the compiler might
        choose to shard another axis."""
        return x if self.rows is None else self.rows(x)

    def gather_params(self, weights):
        """All-gathers a tree of weights. Call it once for each weight, as near to its use as
        possible: inside the body of a scan over layers."""
        if (gather := self.gather) is None:
            return weights
        return jax.tree.map(lambda x: checkpoint_name(gather(x), GATHERED), weights)

    def gather_params_except(self, names: Sequence[str], params):
        """All-gathers all weights except those under `names`: scanned layers gather their own, and
        some weights are used sharded."""

        def gather(path, x):
            inside = any(getattr(key, "key", None) in names for key in path)
            return x if inside else self.gather_params(x)

        return jax.tree_util.tree_map_with_path(gather, params)


SINGLE_DEVICE = Parallel()
GATHERED = "gathered"
# Policy for jax.checkpoint: the backward pass gathers weights again instead of keeping them all.
drop_gathered = jax.checkpoint_policies.save_anything_except_these_names(GATHERED)
