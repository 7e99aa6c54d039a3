"""Leaves the most novel training images out of a run: `data.trim`. The ranking is `suspects`'."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vtadl_jax import options as options_lib
from vtadl_jax.config import Config
from vtadl_jax.data.changes import leave_out_trimmed
from vtadl_jax.data.records import MOST_NAMED, Record, Splits
from vtadl_jax.errors import UserError, printable
from vtadl_jax.networks.feature_options import FeatureOptions
from vtadl_jax.networks.features import EXTRACTORS, make_features
from vtadl_jax.runtime.text_table import plural
from vtadl_jax.training.suspects import DIM, FILTERS, SIZE, Network, Ranking, rank_images
from vtadl_jax.weights.files import read_files

SMALL = 128  # px; smaller images are not enlarged
LEAST = 4  # good images to choose from


def check_trim(config: Config) -> None:
    """Raises UserError for names of left-out images without a share."""
    if config.data.trimmed and not config.data.trim:
        raise UserError(
            "data.trimmed lists what data.trim left out and is written by a run: to leave images "
            "out by name, use data.without"
        )


def trim(
    config: Config, splits: Splits, arrays: Mapping[str, np.ndarray] | None = None
) -> tuple[Config, Splits, list[str]]:
    """Returns the config with the names of the left-out images, the splits without them, and lines
    on which they are.

    arrays: those of `init_from`; the detector's own frozen features then rank the images beside
    fixed filters. Only good training images are ranked. Raises UserError if there are too few.
    """
    good = tuple(record for record in splits.train if record.label == 0)
    count = round(config.data.trim * len(good))
    if len(good) < LEAST:
        raise UserError(
            f"data.trim {config.data.trim:g}: {plural(len(good), 'good training image')} can't be "
            f"ranked, {LEAST} or more can: leave it at 0"
        )
    if not count:
        line = (
            f"data.trim {config.data.trim:g} of {len(good)} good training images is less than half "
            f"an image: none is left out"
        )
        return config, splits, [line]
    ranking = rank(config, good, arrays)
    names = [record.name for record in ranking.first(count)]
    config = options_lib.replace(config, {"data.trimmed": tuple(names)})
    return config, leave_out_trimmed(splits, names), [told(config, names, len(good))]


def rank(
    config: Config, records: Sequence[Record], arrays: Mapping[str, np.ndarray] | None = None
) -> Ranking:
    """Ranks images by fixed filters, and by the config's frozen features if it has any."""
    model, size, data = config.model, config.image_size, config.data
    network = None
    if arrays is not None and isinstance(model, FeatureOptions) and model.features in EXTRACTORS:
        network = Network(model, frozen_weights(model, size, arrays), size)
    return rank_images(
        records,
        ranked_size(size),
        bits=data.bits,
        num_threads=data.num_threads,
        seed=config.seed,
        network=network,
    )


def rank_by(records: Sequence[Record], features: str, file: str) -> Ranking:
    """Ranks images at 256² by filters, and by the network of a name with the weights in a file.

    Raises UserError for an unknown name and a file that does not fit.
    """
    if not file:
        return rank_images(records, SIZE)
    options = FeatureOptions(features=features)
    network = Network(options, frozen_weights(options, SIZE, read_files(file)), SIZE)
    return rank_images(records, SIZE, network=network)


def frozen_weights(
    options: FeatureOptions, size: tuple[int, int], arrays: Mapping[str, np.ndarray]
) -> Any:
    """Returns the weights of the features' network."""
    features = make_features(options, DIM, size, 3)
    if features.load is None:
        raise UserError(f"features {options.features!r} take no weights: give none")
    return features.load(arrays)


def ranked_size(image_size: tuple[int, int]) -> tuple[int, int]:
    """Returns (height, width) at which filters rank images: 256², or small images at their size."""
    stride = FILTERS.filters.stride
    if max(image_size) >= SMALL:
        return SIZE
    height, width = (max(round(side / stride), 2) * stride for side in image_size)
    return height, width


def told(config: Config, names: Sequence[str], count: int) -> str:
    """Returns the line on what was left out."""
    shown = ", ".join(map(printable, names[:MOST_NAMED]))
    more = f" and {len(names) - MOST_NAMED} more, see data.trimmed" if names[MOST_NAMED:] else ""
    return (
        f"data.trim {config.data.trim:g}: the {len(names)} most novel of {count} good training "
        f"images are left out, most novel first: {shown}{more}; threshold and p-values are of the "
        f"others"
    )
