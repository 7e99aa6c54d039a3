"""Compatibility with earlier versions: maps stored runs, config files and flags to today's names.

Version 0.1 had one flat section `model` with the fields of all detectors; a run stored all of them,
used or not. This version writes format 2.
"""

from collections.abc import Mapping
from typing import Any

from vtadl_jax.options import flatten

FORMAT = 2
FILES = {"floor.py": "baseline_filters.py", "positions.py": "position_gaussian.py"}
DETECTORS = {"surroundings": "context_mdn"}

_VIT = ("patch_size", "width", "depth", "num_heads", "mlp_dim", "remat")
_VIT_FORM = ("class_token", "qkv_bias", "final_norm", "norm_epsilon")
_LOSS = ("nll_weight", "mse_weight", "ssim_weight")
_COMMON = {"train.share_update": "train.shard_optimizer"}


def _vit(names: tuple[str, ...]) -> dict[str, str]:
    return {f"model.{name}": f"model.vit.{name}" for name in names}


def _loss(names: tuple[str, ...]) -> dict[str, str]:
    return {f"loss.{name}": f"model.loss.{name}" for name in names}


_WINDOWS = {f"model.filters.{n}": f"model.context.{n}" for n in ("windows", "radii", "position")}
# Detector → fields that were renamed; all other fields keep their names.
_RENAMED: dict[str, dict[str, str]] = {
    "vtadl": {
        **_vit((*_VIT, *_VIT_FORM)),
        **_loss(_LOSS),
        "init_pixels": "model.init_pixels",
    },
    "official": {**_vit(_VIT), **_loss(_LOSS)},
    "autoencoder": {
        **_loss(("mse_weight", "ssim_weight")),
        "model.autoencoder.latent_dim": "model.latent_dim",
    },
    "context_mdn": {**_WINDOWS, "model.width": "model.mdn.hidden"},
}
# Detector → fields that it reads today and that version 0.1 stored without reading them.
_UNREAD = {
    "position_gaussian": {
        "model.features",
        *(f"model.filters.{name}" for name in ("sigmas", "normalise", "color")),
    }
}


def renamed(name: str, detector: str) -> str:
    """Returns today's name of a field of an earlier version, or the same name if not renamed."""
    return {**_COMMON, **_RENAMED.get(detector, {})}.get(name, name)


def upgrade(stored: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a config stored by version 0.1 as nested values of today's schema.

    known: today's fields of its detector, dotted name → default. Drops fields that the detector
    does not read, or did not read then. Fields that the run does not have keep the default, which
    is the value that earlier versions used.
    """
    detector = DETECTORS.get(stored["detector"], stored["detector"])
    found: dict[str, Any] = {"detector": detector}
    for name, value in flatten(stored):
        new = renamed(name, detector)
        if new in known and new != "detector" and new not in _UNREAD.get(detector, ()):
            found[new] = value
    if found.get("model.features", "filters") != "filters":
        found = {name: v for name, v in found.items() if not name.startswith("model.filters.")}
    return nested(found)


def nested(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns dotted names as nested dicts."""
    tree: dict[str, Any] = {}
    for name, value in fields.items():
        *parents, leaf = name.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree


_FROZEN = "efficientnet_lite0"  # key of the frozen weights in the batch statistics


def old_state(state: Any) -> dict[str, Any]:
    """Returns the fields of a train state as version 0.1 stored them."""
    stats = {**state.stats, **({_FROZEN: state.frozen} if state.frozen else {})}
    names = ("step", "params", "opt_state", "ema_params", "key")
    return {**{name: getattr(state, name) for name in names}, "batch_stats": stats}


def upgrade_state(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a train state of version 0.1 as fields of today's train state.

    Version 0.1 stored frozen weights among the batch statistics, under their network's name.
    """
    found = dict(tree)
    stats = dict(found.pop("batch_stats"))
    found["frozen"] = stats.pop(_FROZEN, {})
    return {**found, "stats": stats}
