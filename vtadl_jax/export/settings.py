"""The calibration of a run as arrays, and the decision as a function of them.

The arithmetic of `evaluation.calibration` and `evaluation.novelty`, which computes in float64 on
the host, in float32 on any device. Thresholds are arguments of the compiled program: they change
without compiling again.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vtadl_jax.evaluation.calibration import Calibration
from vtadl_jax.evaluation.novelty import BRIGHT, CELLS, DARK, STATISTICS, Novelty
from vtadl_jax.evaluation.window_scales import WindowScale

Settings = dict[str, Any]  # arrays by name, see `settings_of`


def settings_of(calibration: Calibration, threshold: float | None = None) -> Settings:
    """Returns the calibration as float32 arrays by name.

    threshold: of decisions; that of the calibration by default. 'mean' and 'mean_rest' add up to
    the mean of each term: a term may be large beside its spread. 'threshold' and 'pixel_threshold'
    [] may be changed at will; 'image_threshold' [] is what images outside the range of good images
    score at least. 'good_scores' [G] are ascending, empty if they were not kept. The names that
    start with 'novelty_' are missing in runs without a range of good images, those that start with
    'window_' are of runs that score images by windows, a row for each scale.
    """
    mean = np.array(calibration.mean)
    limit = np.inf if calibration.credit_limit is None else calibration.credit_limit
    at = calibration.image_threshold
    pixel = calibration.pixel_threshold
    settings = {
        "mean": mean.astype(np.float32),
        "mean_rest": mean - mean.astype(np.float32),
        "spread": np.array(calibration.spread),
        "weights": np.array(calibration.weights),
        "credit_limit": np.array(limit),
        "image_threshold": np.array(at),
        "threshold": np.array(at if threshold is None else threshold),
        "pixel_threshold": np.array(np.inf if pixel is None else pixel),
        "good_scores": np.array(calibration.good_scores),
        **_novelty_settings(calibration.novelty),
        **_window_settings(calibration.windows),
    }
    return {name: np.asarray(value, np.float32) for name, value in settings.items()}


def _novelty_settings(novelty: Novelty | None) -> Settings:
    if novelty is None:
        return {}
    allowed, distance_limit = novelty.limits()
    return {
        "novelty_low": np.array(novelty.low),
        "novelty_high": np.array(novelty.high),
        "novelty_allowed": allowed,
        "novelty_pictures": novelty.pictures,
        "novelty_distance": np.array(novelty.distance),
        "novelty_distance_limit": np.array(distance_limit),
    }


def _window_settings(scales: Sequence[WindowScale]) -> Settings:
    if not scales:
        return {}
    mean = np.array([scale.mean for scale in scales])
    return {
        "window_mean": mean.astype(np.float32),
        "window_mean_rest": mean - mean.astype(np.float32),
        "window_spread": np.array([scale.spread for scale in scales]),
        "window_knots": np.array([scale.knots for scale in scales]),
        "window_rate": np.array([scale.rate for scale in scales]),
    }


def weighted(settings: Settings, standard: jax.Array) -> jax.Array:
    """Returns the weighted sum of standardized terms, [B, T] → [B]."""
    limited = jnp.minimum(standard, settings["credit_limit"])
    standard = jnp.where(settings["weights"] < 0, limited, standard)
    return jnp.sum(standard * settings["weights"], -1)


def decide(settings: Settings, terms: jax.Array, descriptions: jax.Array) -> dict[str, jax.Array]:
    """Returns the decision for images: 'score', 'p_value' [B] float32, 'defective' [B] bool, and
    'outside' [B], how far an image is outside the range of good images (1 at the limit).

    terms: [B, T] of the detector. descriptions: [B, D] of `describe_pixels`. Equals
    `Calibration.image_scores` and `p_values` to float32; 'p_value' is NaN if no scores were kept.
    """
    standard = ((terms - settings["mean"]) - settings["mean_rest"]) / settings["spread"]
    score = weighted(settings, standard)
    outside = jnp.zeros_like(score)
    if "novelty_low" in settings:
        outside = _outside(settings, descriptions)
        raised = jnp.maximum(score, settings["image_threshold"]) + outside - 1
        score = jnp.where(outside > 1, raised, score)
    good = settings["good_scores"]
    above = jnp.sum(good >= score[:, None], -1)
    p_value = (1 + above) / (good.size + 1) if good.size else jnp.full_like(score, jnp.nan)
    return {
        "score": score,
        "p_value": p_value.astype(jnp.float32),
        "defective": (score >= settings["threshold"]) | (outside > 1),
        "outside": outside,
    }


def _outside(settings: Settings, descriptions: jax.Array) -> jax.Array:
    """Returns the largest of `Novelty.amounts`, [B]."""
    values, cells = descriptions[:, : len(STATISTICS)], descriptions[:, len(STATISTICS) :]
    low, high = settings["novelty_low"], settings["novelty_high"]
    beyond = jnp.maximum(jnp.maximum(low - values, values - high), 0)
    amounts = jnp.max(beyond / settings["novelty_allowed"], -1)
    differences = cells[:, None] - settings["novelty_pictures"]
    nearest = jnp.sqrt(jnp.min(jnp.mean(differences**2, -1), -1))
    farther = jnp.maximum(nearest - settings["novelty_distance"], 0)
    return jnp.maximum(amounts, farther / settings["novelty_distance_limit"])


def describe_pixels(images: jax.Array) -> jax.Array:
    """Describes images as `novelty.describe`: uint8 [B, H, W, 1 or 3] → [B, S + cells] float32."""
    wide = images.astype(jnp.int32)
    size = images.shape[1] * images.shape[2]
    if images.shape[-1] == 3:
        red, green, blue = (wide[..., i] for i in range(3))
        grey = (77 * red + 150 * green + 29 * blue) >> 8
        tints = [_mean(red - green), (_mean(red + green) / 2 - _mean(blue))]
    else:
        grey = wide[..., 0]
        tints = [jnp.zeros(images.shape[0])] * 2
    mean = _mean(grey)
    variance = _mean((grey - mean[:, None, None]) ** 2)
    bends = [jnp.abs(_second_difference(grey, axis)).sum((1, 2)) / size for axis in (1, 2)]
    columns = [
        mean / 255,
        jnp.log((jnp.sqrt(variance) + 1) / 255),
        _mean(grey <= DARK),
        _mean(grey >= BRIGHT),
        jnp.log((sum(bends) + 0.5) / 255),
        tints[0] / 255,
        tints[1] / 255,
    ]
    cells = _cell_means(grey) - mean[:, None]
    return jnp.concatenate([jnp.stack(columns, -1), cells / 255], -1).astype(jnp.float32)


def _mean(values: jax.Array) -> jax.Array:
    """Returns means over rows and columns, [B, H, W] → [B] float32: exact sums along each row."""
    return values.sum(2).astype(jnp.float32).sum(1) / (values.shape[1] * values.shape[2])


def _second_difference(grey: jax.Array, axis: int) -> jax.Array:
    if axis == 1:
        return grey[:, 2:] - 2 * grey[:, 1:-1] + grey[:, :-2]
    return grey[:, :, 2:] - 2 * grey[:, :, 1:-1] + grey[:, :, :-2]


def _cell_means(grey: jax.Array) -> jax.Array:
    """Returns the means of the cells of the coarse picture, row by row, [B, cells].

    By products with indicators of the cells: sums of integers below 2²⁴, which float32 holds.
    """
    inside = [_cells_of(side) for side in grey.shape[1:]]
    grey = grey.astype(jnp.float32)
    columns = jnp.matmul(grey, inside[1].T, precision=lax.Precision.HIGHEST)
    sums = jnp.matmul(inside[0], columns, precision=lax.Precision.HIGHEST)
    counts = np.outer(inside[0].sum(1), inside[1].sum(1))
    return (sums / counts).reshape(grey.shape[0], counts.size)


def _cells_of(side: int) -> np.ndarray:
    """Returns which pixels of a side are in which cell, [cells, side] float32 of 0 and 1."""
    starts = np.linspace(0, side, min(CELLS, side), endpoint=False).astype(int)
    cell = np.searchsorted(starts, np.arange(side), side="right") - 1
    return (cell == np.arange(len(starts))[:, None]).astype(np.float32)
