"""Colour map of all heat maps: inferno-like, rising in lightness, colour-blind safe.

Lightness rises strictly and nearly linearly from black to pale yellow, so the order of values stays
visible in greyscale print and with colour blindness. This file maps numbers to colours; the scale
(`low`, `high`) comes from the data set's calibration, not from the picture.
"""

import numpy as np
from numpy.typing import NDArray

# Samples of matplotlib's inferno (Smith and van der Walt, CC0) at equal distances.
_CONTROL_POINTS = (
    (0, 0, 4),
    (20, 11, 53),
    (58, 9, 99),
    (96, 19, 110),
    (133, 33, 107),
    (169, 46, 94),
    (203, 65, 73),
    (230, 93, 47),
    (247, 131, 17),
    (252, 173, 18),
    (245, 219, 75),
    (252, 255, 164),
)


def _lookup_table() -> NDArray[np.uint8]:
    """Returns uint8 [256, 3], linear between the control points."""
    points = np.asarray(_CONTROL_POINTS, dtype=np.float64)
    at = np.linspace(0, len(points) - 1, 256)
    channels = [np.interp(at, np.arange(len(points)), channel) for channel in points.T]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


LUT = _lookup_table()
LUT.setflags(write=False)


def apply(values: NDArray[np.floating], low: float, high: float) -> NDArray[np.uint8]:
    """Maps values to colours on the scale [low, high]; values outside take the end colours.

    Args:
      values: float [H, W] (any shape works), in the unit of low and high; infinities are allowed.
      low, high: finite, low < high; the value of the first and of the last colour.

    Returns:
      uint8 [H, W, 3], RGB.

    Raises:
      ValueError: NaN values, or a scale that is not finite and increasing.
    """
    check_scale(low, high)
    values = np.asarray(values, dtype=np.float32)
    num_nan = int(np.count_nonzero(np.isnan(values)))
    if num_nan:
        raise ValueError(f"{num_nan} of {values.size} values are NaN and have no colour")
    # Clip first: an infinity has no integer index.
    fraction = (np.clip(values, low, high) - low) / (high - low)
    return LUT[np.rint(fraction * 255).astype(np.uint8)]


def check_scale(low: float, high: float) -> None:
    """Raises ValueError unless low < high, both finite."""
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise ValueError(f"the colour scale needs finite low < high, got [{low}, {high}]")
