"""Finds the anomalies of test images with how much of each is enough, for the metric sPRO."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vtadl_jax.config import Config
from vtadl_jax.data.records import Record
from vtadl_jax.data.saturation import read_anomaly
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.evaluation.outputs import EvalOutputs
from vtadl_jax.metrics import SaturatedRegion
from vtadl_jax.training.stored import make_geometry


def regions_of(test: Sequence[Record], outputs: EvalOutputs, config: Config) -> dict[str, Any]:
    """Returns `regions`, `kinds` and `region_maps` of a `View` for the images of its maps; {} if
    the anomalies are unknown.

    They are known if the data set says how much of an anomaly is enough, for all masks. Reads the
    masks once more, one file for each anomaly; of pixels that are not inspected nothing counts.
    Raises UserError for a mask that can't be read.
    """
    kept = [i for i, known in enumerate(outputs.has_mask) if known]
    records = [test[i] for i in kept]
    masks = [record.mask for record in records if record.label]
    if not outputs.maps or not masks or not all(getattr(m, "saturations", None) for m in masks):
        return {}
    found = []
    for i, record in zip(kept, records, strict=True):
        geometry = _geometry(config, outputs.maps[i])
        found.append(anomalies(record.mask, geometry) if record.label else [])
    seen: dict[str, Any] = {"regions": found, "kinds": [record.defect for record in records]}
    if outputs.inside:
        insides = [outputs.inside[i] for i in kept]
        seen["regions"] = [_only(one, i) for one, i in zip(found, insides, strict=True)]
        pairs = zip((outputs.maps[i] for i in kept), insides, strict=True)
        seen["region_maps"] = [anomaly_map[inside][None] for anomaly_map, inside in pairs]
    return seen


def _geometry(config: Config, anomaly_map: np.ndarray) -> Geometry | None:
    """Returns how a mask gets the size of its map; None if it has that size."""
    if config.eval.original_size:
        return None
    if config.data.windows.side:
        return Geometry((anomaly_map.shape[0], anomaly_map.shape[1]))
    return make_geometry(config)


def _only(found: Sequence[SaturatedRegion], inside: np.ndarray) -> list[SaturatedRegion]:
    """Returns the inspected pixels of anomalies in rows [1, n]; the same share of one is enough."""
    kept = []
    for one in found:
        mask = np.asarray(one.mask, bool)
        if (mask & inside).any():
            share = np.count_nonzero(mask & inside) / np.count_nonzero(mask)
            kept.append(SaturatedRegion(mask[inside][None], one.saturation * share))
    return kept


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
