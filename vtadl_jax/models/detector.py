"""What train, evaluate, compile and export know of a method: a record of pure functions."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

Variables = Any  # {"params": ..., "batch_stats": ...}
Array = Any  # jax.Array on the device, numpy.ndarray once fetched
Batch = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Detector:
    """An anomaly detector as functions of its variables.

    init: key → variables.
    loss: (params, batch_stats, images uint8 [B, H, W, C], key) →
        (scalar loss, (terms: name → scalar, new batch_stats)). Training mode.
    score: (variables, images uint8 [B, H, W, C]) → `Scores`. Evaluation mode, no randomness.
    score_terms: the names of `Scores.terms`, in order.
    """

    init: Callable[[jax.Array], Variables]
    loss: Callable[[Any, Any, jax.Array, jax.Array], tuple[jax.Array, tuple[dict, Any]]]
    score: Callable[[Variables, jax.Array], "Scores"]
    score_terms: tuple[str, ...]


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
