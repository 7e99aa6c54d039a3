"""Sources of a config's images: a dict from `data.source` to a reader of records."""

import dataclasses
import difflib
import functools
from collections.abc import Callable, Collection
from pathlib import Path

from vtadl_jax.config import Config
from vtadl_jax.data.changes import add_images, leave_out
from vtadl_jax.data.folds import check_folds, fold_splits
from vtadl_jax.data.records import (
    Splits,
    check_images,
    missing_masks,
    move_anomalies,
    take_shots,
)
from vtadl_jax.data.regions.per_image import add_regions, is_per_image
from vtadl_jax.data.sources import cifar, coil, elpv, idx, one_class, prepared, published
from vtadl_jax.data.sources.layouts import (
    BTAD,
    MVTEC,
    btad_layout,
    folder_layout,
    list_categories,
    mvtec_layout,
)
from vtadl_jax.data.synthetic.dataset import SETTINGS_FILE, make_dataset
from vtadl_jax.errors import UserError
from vtadl_jax.runtime.console import say, track


def _synthetic(config: Config, test: bool = True) -> Splits:
    make_dataset(
        Path(config.data.root),
        categories=(config.data.category,),
        progress=functools.partial(track, what="draw parts"),
    )
    return mvtec_layout(config.data.root, config.data.category, test)


def _folder(config: Config, test: bool = True) -> Splits:
    data = config.data
    return folder_layout(
        data.root, data.category, data.bad, data.masks, data.test_fraction, config.seed, test
    )


def _prepared(config: Config) -> Splits:
    canvas = tuple(config.data.resize) or tuple(config.image_size)
    return prepared.prepared(config.data.root, config.data.category, canvas, config.data.fit)


def _coil100(config: Config) -> one_class.ClassSet:
    return coil.read_coil100(config.data.root, config.data.test_fraction, config.seed)


CLASS_SETS: dict[str, Callable[[Config], one_class.ClassSet]] = {
    "mnist": lambda c: idx.read_idx(c.data.root, "mnist"),
    "fashion_mnist": lambda c: idx.read_idx(c.data.root, "fashion_mnist"),
    "kmnist": lambda c: idx.read_idx(c.data.root, "kmnist"),
    "cifar10": lambda c: cifar.read_cifar10(c.data.root),
    "coil100": _coil100,
}


def _one_class(config: Config) -> Splits:
    data = config.data
    return one_class.one_class_splits(
        CLASS_SETS[data.source](config),
        data.category,
        data.anomaly_fraction,
        config.seed,
        data.balanced_test,
        data.test_limit,
    )


def _elpv(config: Config) -> Splits:
    data = config.data
    return elpv.elpv_splits(data.root, data.category, data.test_fraction, config.seed)


def _published(config: Config) -> Splits:
    data = config.data
    reader = published.READERS[data.source]
    return reader(data.root, data.category, config.seed, data.test_fraction)


SOURCES: dict[str, Callable[[Config], Splits]] = {
    "folder": _folder,
    "mvtec_layout": lambda c: mvtec_layout(c.data.root, c.data.category),
    "btad_layout": lambda c: btad_layout(c.data.root, c.data.category),
    "prepared": _prepared,
    **dict.fromkeys(CLASS_SETS, _one_class),
    "elpv": _elpv,
    "synthetic": _synthetic,
    **dict.fromkeys(published.READERS, _published),
}
# Sources whose test images are in folders of their own: (config, whether to look into these).
_FOLDERS: dict[str, Callable[[Config, bool], Splits]] = {
    "folder": _folder,
    "mvtec_layout": lambda c, test: mvtec_layout(c.data.root, c.data.category, test),
    "btad_layout": lambda c, test: btad_layout(c.data.root, c.data.category, test),
    "synthetic": _synthetic,
}
_CATEGORIES: dict[str, Callable[[Config], tuple[str, ...]]] = {
    "mvtec_layout": lambda c: list_categories(MVTEC, c.data.root),
    "btad_layout": lambda c: list_categories(BTAD, c.data.root),
    "prepared": lambda c: prepared.list_categories(c.data.root),
    **dict.fromkeys(CLASS_SETS, lambda c: CLASS_SETS[c.data.source](c).classes),
    **dict.fromkeys(published.READERS, lambda c: published.categories(c.data.source, c.data.root)),
}


def is_category(config: Config, name: str) -> bool:
    """Returns whether the config's data has a folder or class of this name; reads no images."""
    data, here = config.data, Path(config.data.root).expanduser() / name
    if data.source in ("mvtec_layout", "btad_layout"):
        layout = MVTEC if data.source == "mvtec_layout" else BTAD
        return bool(data.root) and (here / "train" / layout.good).is_dir()
    if data.source == "prepared":
        return Path(data.root).is_dir() and name in prepared.list_categories(data.root)
    return data.source == "folder" and bool(data.root) and here.is_dir()


def has_categories(config: Config) -> bool:
    """Returns whether a root in MVTec AD's layout has folders of categories."""
    root = Path(config.data.root).expanduser()
    return bool(config.data.root) and any(root.glob(f"*/train/{MVTEC.good}/"))


def all_categories(config: Config) -> tuple[str, ...]:
    """Returns the values of `data.category` for a sweep over all. Raises UserError if the source
    has no list of categories."""
    if config.data.source not in _CATEGORIES:
        known = ", ".join(_CATEGORIES)
        raise UserError(
            f"data.category 'all': data.source {config.data.source!r} has no list of categories, "
            f"only {known} have"
        )
    return _CATEGORIES[config.data.source](config)


def load_splits(config: Config, needs: Collection[str] = (), draw: bool = True) -> Splits:
    """Returns the images of a config, after a check of every header and every mask's size.

    `data.more` and `data.without` change the training images; `data.defects` keeps only the named
    defects in the test set; `data.anomaly_fraction` moves some
    of them to the training images, `data.folds` those of other folds, only those with a mask if
    `needs` has 'mask'; `data.shots` takes only so many of the good training images. Prints lines on
    what was read otherwise than it may seem. draw: whether source 'synthetic' may draw its images;
    if not, they must be there. Raises UserError for an unknown source or defect, and the errors of
    the source's reader.
    """
    name, wanted = config.data.source, tuple(config.data.defects)
    check_fold_fields(config)
    if name not in SOURCES:
        near = difflib.get_close_matches(name, SOURCES, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(f"data.source {name!r}: {hint}use one of {', '.join(SOURCES)}")
    if name == "synthetic" and not draw:
        check_drawn(config)
        splits = mvtec_layout(config.data.root, config.data.category)
    else:
        splits = SOURCES[name](config)
    splits = _changed(splits, config)
    if wanted:
        splits = _only(splits, wanted)
    masked = "mask" in needs
    if config.data.anomaly_fraction and name not in CLASS_SETS:  # those draw their own
        splits = move_anomalies(splits, config.data.anomaly_fraction, config.seed, masked)
    if config.data.folds:
        splits = fold_splits(
            splits,
            config.data.folds,
            config.data.fold,
            config.seed,
            config.data.group_gap,
            masked,
        )
    if config.data.shots:
        splits = take_shots(splits, config.data.shots, config.seed)
    if is_per_image(config.data.regions):
        splits = add_regions(splits, config.data.regions)
    lines = check_images(splits)
    for line in (*splits.notes, *unread_fields(config), *missing_masks(splits), *lines):
        say(line)
    return splits


def _changed(splits: Splits, config: Config) -> Splits:
    """Returns the splits with `data.more` and without `data.without`."""
    if config.data.more:
        splits = add_images(splits, config.data.more)
    return leave_out(splits, config.data.without) if config.data.without else splits


def check_fold_fields(config: Config) -> None:
    """Raises UserError for fields of cross-validation that do not fit the others."""
    data = config.data
    if not data.folds:
        unread = [f for f in ("fold", "group_gap") if getattr(data, f)]
        if unread:
            raise UserError(
                f"data.{unread[0]} {getattr(data, unread[0])} is not read without data.folds: use "
                f"--config.data.folds=5, or leave it at 0"
            )
        return
    check_folds(data.folds, data.fold)
    if data.anomaly_fraction:
        raise UserError(
            f"data.folds {data.folds} and data.anomaly_fraction {data.anomaly_fraction} both "
            f"choose the defects to train on: set one of them to 0"
        )
    if data.source in CLASS_SETS:
        raise UserError(
            f"data.folds {data.folds}: data.source {data.source!r} draws its anomalies to train "
            f"on: use --config.data.anomaly_fraction, and 0 folds"
        )


def load_good(config: Config) -> Splits:
    """Returns the training images of a config, as `load_splits`, without any test image.

    Opens no test image and no mask, and does not look into their folders where they have their own.
    The training images are those of `load_splits`. Raises UserError as `load_splits`, and for
    `data.anomaly_fraction` and `data.folds`, which take defective images from the test set.
    """
    name = config.data.source
    for field in ("anomaly_fraction", "folds"):
        if getattr(config.data, field):
            raise UserError(
                f"data.{field} {getattr(config.data, field)} trains on defective test images, and "
                f"none may be opened here: leave it out"
            )
    if name not in _FOLDERS:
        raise UserError(
            f"data.source {name!r} can't be read without its test images: use one of "
            f"{', '.join(_FOLDERS)}"
        )
    splits = _changed(_FOLDERS[name](config, False), config)
    if config.data.shots:
        splits = take_shots(splits, config.data.shots, config.seed)
    if is_per_image(config.data.regions):
        splits = add_regions(splits, config.data.regions)
    for line in (*splits.notes, *check_images(splits)):
        say(line)
    return splits


def check_drawn(config: Config) -> None:
    """Raises UserError if `data.root` holds no drawn images of the category; draws none."""
    root, category = Path(config.data.root), config.data.category
    if not (root / SETTINGS_FILE).is_file() or not (root / category).is_dir():
        raise UserError(
            f"data.root {root} holds no drawn images of {category!r}, and this command draws none: "
            f"set --config.data.root=DIR to the folder where training drew them"
        )


def unread_fields(config: Config) -> list[str]:
    """Returns lines on fields in the config that its source does not read."""
    data = config.data
    given = [
        f"data.{name} {getattr(data, name)}" for name in ("bad", "masks") if getattr(data, name)
    ]
    lines = []
    if given and data.source != "folder":
        lines.append(
            f"note: {' and '.join(given)} not read: data.source {data.source!r} has its own"
        )
    if data.test_limit and data.source not in CLASS_SETS:
        lines.append(
            f"note: data.test_limit {data.test_limit} not read: data.source {data.source!r} has a "
            "test set of its own"
        )
    return lines


def _only(splits: Splits, wanted: tuple[str, ...]) -> Splits:
    known = list(dict.fromkeys(r.defect for r in splits.test if r.label))
    for defect in wanted:
        if defect not in known:
            raise UserError(
                f"data.defects {defect!r}: the test set has {', '.join(known) or 'none'}"
            )
    test = tuple(r for r in splits.test if r.label == 0 or r.defect in wanted)
    return dataclasses.replace(splits, test=test)
