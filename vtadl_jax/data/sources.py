"""Where a config's images come from: a plain dict from `data.source` to a reader of records."""

import difflib
import functools
from collections.abc import Callable
from pathlib import Path

from ml_collections import ConfigDict

from vtadl_jax.data import cifar, coil, elpv, idx, one_class, prepared
from vtadl_jax.data.layouts import (
    BTAD,
    MVTEC,
    btad_layout,
    folder_layout,
    list_categories,
    mvtec_layout,
)
from vtadl_jax.data.records import Splits, check_images
from vtadl_jax.data.synthetic import make_dataset
from vtadl_jax.errors import UserError
from vtadl_jax.writers import track


def _synthetic(config: ConfigDict) -> Splits:
    make_dataset(Path(config.data.root), progress=functools.partial(track, what="draw parts"))
    return mvtec_layout(config.data.root, config.data.category)


def _folder(config: ConfigDict) -> Splits:
    data = config.data
    return folder_layout(
        data.root, data.category, data.bad, data.masks, data.test_fraction, config.seed
    )


def _prepared(config: ConfigDict) -> Splits:
    canvas = tuple(config.data.resize) or tuple(config.image_size)
    return prepared.prepared(config.data.root, config.data.category, canvas, config.data.fit)


def _coil100(config: ConfigDict) -> one_class.ClassSet:
    return coil.read_coil100(config.data.root, config.data.test_fraction, config.seed)


CLASS_SETS: dict[str, Callable[[ConfigDict], one_class.ClassSet]] = {
    "mnist": lambda c: idx.read_idx(c.data.root, "mnist"),
    "fashion_mnist": lambda c: idx.read_idx(c.data.root, "fashion_mnist"),
    "kmnist": lambda c: idx.read_idx(c.data.root, "kmnist"),
    "cifar10": lambda c: cifar.read_cifar10(c.data.root),
    "coil100": _coil100,
}


def _one_class(config: ConfigDict) -> Splits:
    data = config.data
    return one_class.one_class_splits(
        CLASS_SETS[data.source](config),
        data.category,
        data.anomaly_fraction,
        config.seed,
        data.balanced_test,
    )


def _elpv(config: ConfigDict) -> Splits:
    data = config.data
    return elpv.elpv_splits(data.root, data.category, data.test_fraction, config.seed)


SOURCES: dict[str, Callable[[ConfigDict], Splits]] = {
    "folder": _folder,
    "mvtec_layout": lambda c: mvtec_layout(c.data.root, c.data.category),
    "btad_layout": lambda c: btad_layout(c.data.root, c.data.category),
    "prepared": _prepared,
    **dict.fromkeys(CLASS_SETS, _one_class),
    "elpv": _elpv,
    "synthetic": _synthetic,
}
_CATEGORIES: dict[str, Callable[[ConfigDict], tuple[str, ...]]] = {
    "mvtec_layout": lambda c: list_categories(MVTEC, c.data.root),
    "btad_layout": lambda c: list_categories(BTAD, c.data.root),
    "prepared": lambda c: prepared.list_categories(c.data.root),
    **dict.fromkeys(CLASS_SETS, lambda c: CLASS_SETS[c.data.source](c).classes),
}


def all_categories(config: ConfigDict) -> tuple[str, ...]:
    """What `data.category` may be, for a sweep over all of them. Raises UserError if it has no
    such choice."""
    if config.data.source not in _CATEGORIES:
        known = ", ".join(_CATEGORIES)
        raise UserError(
            f"data.category 'all': data.source {config.data.source!r} has no list of categories, "
            f"only {known} have"
        )
    return _CATEGORIES[config.data.source](config)


def load_splits(config: ConfigDict) -> Splits:
    """The images of a config, every header read and every mask's size checked.

    `data.defects` leaves only the named defects in the test set. Raises UserError for an unknown
    source or defect, and all that the source's reader raises.
    """
    name, wanted = config.data.source, tuple(config.data.defects)
    if name not in SOURCES:
        near = difflib.get_close_matches(name, SOURCES, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(f"data.source {name!r}: {hint}use one of {', '.join(SOURCES)}")
    splits = SOURCES[name](config)
    if wanted:
        splits = _only(splits, wanted)
    check_images(splits)
    return splits


def _only(splits: Splits, wanted: tuple[str, ...]) -> Splits:
    known = list(dict.fromkeys(r.defect for r in splits.test if r.label))
    for defect in wanted:
        if defect not in known:
            raise UserError(
                f"data.defects {defect!r}: the test set has {', '.join(known) or 'none'}"
            )
    test = tuple(r for r in splits.test if r.label == 0 or r.defect in wanted)
    return Splits(splits.train, test, splits.category)
