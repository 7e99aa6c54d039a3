"""Finds the anomalies of test images with how much of each is enough, for the metric sPRO."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vtadl_jax.config import Config
from vtadl_jax.data.records import Record
from vtadl_jax.data.saturation import read_anomaly
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.evaluation.scoring import EvalOutputs
from vtadl_jax.metrics import SaturatedRegion
from vtadl_jax.training.stored import make_geometry


def regions_of(test: Sequence[Record], outputs: EvalOutputs, config: Config) -> dict[str, Any]:
    """Returns `regions` and `kinds` of a `View` for the images of its maps; {} if unknown.

    They are known if the data set says how much of an anomaly is enough, for all masks. Reads the
    masks once more, one file for each anomaly. Raises UserError for one that can't be read.
    """
    kept = [record for record, known in zip(test, outputs.has_mask, strict=True) if known]
    masks = [record.mask for record in kept if record.label]
    if not outputs.maps or not masks or not all(getattr(m, "saturations", None) for m in masks):
        return {}
    geometry = None if config.eval.original_size else make_geometry(config)
    found = [anomalies(record.mask, geometry) if record.label else [] for record in kept]
    return {"regions": found, "kinds": [record.defect for record in kept]}


def anomalies(mask: Any, geometry: Geometry | None) -> list[SaturatedRegion]:
    """Returns the anomalies of one image at its size, or as a geometry resizes them.

    mask: with `paths` and `saturations`. In other sizes the same share of an anomaly is enough. An
    anomaly that a crop leaves out is left out, as in all pixel metrics.
    """
    found = []
    for path in mask.paths:
        assert isinstance(path, Path)
        anomaly = read_anomaly(path, mask.saturations)
        if anomaly is None:
            continue
        pixels, enough = anomaly
        there = pixels if geometry is None else geometry.mask(pixels) > 0
        if there.any():
            share = np.count_nonzero(there) / np.count_nonzero(pixels)
            found.append(SaturatedRegion(there, enough * share))
    return found
