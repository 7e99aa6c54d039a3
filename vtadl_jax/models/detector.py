"""What train, evaluate, compile and export know of a method: a record of pure functions."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.ad_checkpoint import checkpoint_name

Variables = Any  # {"params": ..., "batch_stats": ...}
Array = Any  # jax.Array on the device, numpy.ndarray once fetched
Batch = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a batch and the weights lie over devices, as far as a loss must know.

    axis: name of the mapped axes over which the rest of the batch lies, None if this is all of it.
        Losses and terms are means of this part; statistics of the batch are to be averaged over it.
    gather: an array of weights, of which each device holds a share → the whole. None if devices
        hold weights whole.
    columns, rows: of activations [B, D], the layout in which each device has the columns that meet
        its share of a weight [D, F], and back to the batch's own. For weights that dwarf their
        input it is the input that moves. None with `gather`.
    """

    axis: Any = None
    gather: Callable[[jax.Array], jax.Array] | None = None
    columns: Callable[[jax.Array], jax.Array] | None = None
    rows: Callable[[jax.Array], jax.Array] | None = None

    def where_the_weight_lies(self, product: Callable, x: jax.Array) -> jax.Array:
        """product(x) with a weight that was not gathered."""
        if self.columns is None or self.rows is None:
            return product(x)
        return self.rows(product(self.columns(x)))

    def settled(self, x: jax.Array) -> jax.Array:
        """x [B, ...] with its batch split over all devices, where shared weights might lead the
        compiler to split something else."""
        return x if self.rows is None else self.rows(x)

    def whole(self, weights):
        """A tree of weights, gathered. Each is to go through this once, as near to its use as may
        be: within the body of a scan over layers."""
        if (gather := self.gather) is None:
            return weights
        return jax.tree.map(lambda x: checkpoint_name(gather(x), GATHERED), weights)

    def whole_but(self, names: Sequence[str], params):
        """`whole` of all but what lies below these: scanned layers, weights that stay where they
        are."""

        def gather(path, x):
            inside = any(getattr(key, "key", None) in names for key in path)
            return x if inside else self.whole(x)

        return jax.tree_util.tree_map_with_path(gather, params)


ALONE = Layout()
GATHERED = "gathered"
# For jax.checkpoint: the backward pass gathers weights again instead of keeping all of them.
drop_gathered = jax.checkpoint_policies.save_anything_except_these_names(GATHERED)


@dataclasses.dataclass(frozen=True)
class Fit:
    """What a method learns from one pass over the training images before its first step.

    gather: (variables, images uint8 [B, H, W, C], key) → a tree of arrays, a row for each image;
        compiled.
    solve: (variables, the same tree over all N images in numpy, rng) → variables. On the host,
        where float64 and LAPACK are at hand; what it returns has the shapes of what it was given.
    """

    gather: Callable[[Variables, jax.Array, jax.Array], Any]
    solve: Callable[[Variables, Any, np.random.Generator], Variables]


@dataclasses.dataclass(frozen=True)
class Detector:
    """An anomaly detector as functions of its variables.

    init: key → variables.
    loss: (params, batch_stats, images uint8 [B, H, W, C], keys [B], layout) →
        (scalar loss, (terms: name → scalar, new batch_stats)). Training mode. Randomness is by
        image, from its own key, so that it does not depend on how a batch is split.
    score: (variables, images uint8 [B, H, W, C]) → `Scores`. Evaluation mode, no randomness.
    score_terms: the names of `Scores.terms`, in order.
    fit: for methods that are fitted, or start from statistics of the data; training follows.
    """

    init: Callable[[jax.Array], Variables]
    loss: Callable[[Any, Any, jax.Array, jax.Array, Layout], tuple[jax.Array, tuple[dict, Any]]]
    score: Callable[[Variables, jax.Array], "Scores"]
    score_terms: tuple[str, ...]
    fit: Fit | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Scores:
    """What a detector says of a batch; everything float32 but the picture.

    terms: [B, T], one column per score term, larger is more anomalous, not yet comparable.
    anomaly_map: [B, H, W], larger is more anomalous, at the input's size.
    recon: [B, H, W, C] uint8, the reconstruction; [B, 0, 0, C] for methods without one.
    """

    terms: Array
    anomaly_map: Array
    recon: Array
