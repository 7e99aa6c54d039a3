"""How rare a value is among those of good images: -log of the tail probability, from a table.

Maps of different detectors have different units; the tails of their values on held-out good images
give them one: t(v) = -log P(value ≥ v), 0 for common values and growing without end for rare ones.
"""

import jax.numpy as jnp
import numpy as np

# Knots at the tail probabilities 2^0, 2^-1, … 2^-LEVELS. Beyond the last one the tail is taken as
# exponential: its rate is that of the excesses over the knot FIT_FROM.
LEVELS, FIT_FROM = 10, 6


def empty_table() -> dict[str, np.ndarray]:
    """Returns the table before it is fitted: t(v) = max(v, 0)."""
    levels = np.arange(LEVELS + 1)
    return {"knots": (levels * np.log(2)).astype(np.float32), "rate": np.ones((), np.float32)}


def fit_table(values: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the table of values of good images, of any shape.

    knots: [LEVELS + 1] float32, ascending. rate: of the exponential tail, [] float32.
    """
    values = np.asarray(values, np.float64).ravel()
    knots = np.quantile(values, 1 - 0.5 ** np.arange(LEVELS + 1))
    span = knots[-1] - knots[0]
    # Equal values make knots equal: a step that small is no difference.
    least = max(1e-6 * span, 1e-6 * abs(knots[-1]), 1e-12)
    knots = np.maximum.accumulate(knots + least * np.arange(LEVELS + 1))
    beyond = values[values > knots[FIT_FROM]] - knots[FIT_FROM]
    mean = beyond.mean() if beyond.size else 0.0
    scale = max(mean, (knots[-1] - knots[FIT_FROM]) / (LEVELS - FIT_FROM))
    return {"knots": knots.astype(np.float32), "rate": np.asarray(1 / scale, np.float32)}


def tail(table, values):
    """Returns -log of the tail probability of values, of any shape, float32."""
    knots = table["knots"]
    inside = jnp.interp(values, knots, np.log(2) * np.arange(LEVELS + 1, dtype=np.float32))
    return inside + jnp.maximum(values - knots[-1], 0) * table["rate"]
