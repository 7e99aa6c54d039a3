"""A mixture density network of what is local, told what surrounds it: a true surprise.

y, what the density is of, are whitened means of fixed filter responses in a window: multi-scale,
and out of reach of training, which can't make them constant. x, what it is conditioned on, are the
same of windows in rings around, and by option the position. The window itself is left out, so that
-log p(y | x) says how far a patch is from what its surroundings promise. As in VT-ADL the mixture
has full covariances, and noise is added to x in training.

A defect larger than the rings is surrounded by itself, and promised. Each size of window has a
network of its own: a large one sees little of a scratch, but all of an area that differs slightly.
"""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vtadl_jax.errors import UserError
from vtadl_jax.models.detector import ALONE, Detector, Fit, Scores
from vtadl_jax.models.features import (
    empty_whitening,
    make_features,
    no_recon,
    sample_places,
    whiten,
)
from vtadl_jax.models.mdn import UNIT_SCALE, RowsDense
from vtadl_jax.ops.context import position_code, surroundings_of
from vtadl_jax.ops.mixture import mixture_log_prob_rows, tril_size
from vtadl_jax.ops.resize import upsample_maps
from vtadl_jax.ops.windows import to_places, window_means, window_starts

# Of the map at its largest; of the largest surprises beyond what surroundings let expect, in units
# of what they let expect it to be off; and of all. The last is an image's own level of novelty, by
# new light or another batch of material: with a negative weight it is counted off.
SCORE_TERMS = ("top_surprise", "top_excess", "mean_surprise")
FEATURE_LIMIT = 8.0  # sigma, of what the network is told: no input is far from any it has seen
TOP_FRACTION = 0.01
ADJACENT = 2  # radius of the ring around a large window, see `window_starts`
NATS_PER_EXCESS = 2.0  # of large windows' excess in the map, docs/experiments.md
HALF_COUNTED_AT = 8.0  # excess of a large window; what is added to one so large counts half


class SurroundingsDensity(nn.Module):
    """-log p(y | x) and what it is expected to be. x [T, X], y [T, d] → two arrays [T] float32.

    The expectation is learned from the nll of normal images, by x alone: where surroundings promise
    little, a large nll is no surprise.
    """

    num_components: int
    hidden: int
    scale_floor: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, y):
        k, d = self.num_components, y.shape[-1]
        for name in ("hidden_in", "hidden_out"):
            x = nn.gelu(nn.Dense(self.hidden, dtype=self.dtype, name=name)(x))

        def head(name, rows, kernel_scale, bias_init):
            return RowsDense(rows, k, kernel_scale, bias_init, self.dtype, name=name)(x)

        zeros = nn.initializers.zeros
        logits = head("logits", 1, 0.1, zeros)[0]
        loc = head("loc", d, 0.1, nn.initializers.normal(1.0))
        raw = head("scale_diag", d, 0.1, nn.initializers.constant(UNIT_SCALE))
        lower = head("scale_lower", tril_size(d), 0.1, zeros) if d > 1 else None
        diagonal = jax.nn.softplus(raw) + self.scale_floor
        nll = -mixture_log_prob_rows(logits, loc, diagonal, lower, y.T)
        expected = nn.Dense(2, name="expected")(jax.lax.stop_gradient(x).astype(jnp.float32))
        return nll, expected[:, 0], jax.nn.softplus(expected[:, 1]) + 0.5


def top_mean(maps):
    """Mean of the largest hundredth of each map: [B, H, W] → [B]."""
    flat = maps.reshape(len(maps), -1)
    return jax.lax.top_k(flat, max(1, int(TOP_FRACTION * flat.shape[1])))[0].mean(-1)


def tempered(excess):
    """Excess of large windows, as the image is marked and scored by it: its logarithm, far out.

    They are few in training, and what a density of few says of anything new knows no bounds.
    Monotone; where there is none it counts as it is, and of a little nearly so.
    """
    beyond = jnp.maximum(excess, 0) / HALF_COUNTED_AT
    return jnp.minimum(excess, 0) + HALF_COUNTED_AT * jnp.log1p(beyond)


class Windows(NamedTuple):
    """One size of window: `side` in places of the grid, and the grid that windows form."""

    side: int
    grid: tuple[int, int]
    radii: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"window_{self.side}"


def windows_of(options: ConfigDict, grid: tuple[int, int]) -> tuple[Windows, ...]:
    """Raises UserError for sizes and radii that do not fit the grid."""
    radii, sides = tuple(options.radii), tuple(options.windows)
    if not radii or min(radii) < 1:
        raise UserError(f"model.filters.radii {radii}: give one or more, 1 or larger")
    if (
        not sides
        or sorted(set(sides)) != list(sides)
        or not 1 <= sides[0] <= sides[-1] <= min(grid)
    ):
        raise UserError(
            f"model.filters.windows {sides}: give one or more, growing, from 1 to the "
            f"{min(grid)} places of the grid's shorter side"
        )
    height, width = grid

    def windows(side):
        counts = len(window_starts(height, side)), len(window_starts(width, side))
        return Windows(side, counts, radii if side == 1 else (ADJACENT,))

    return tuple(map(windows, sides))


def surroundings(config: ConfigDict) -> Detector:
    """The detector of a config; `Detector` tells what each function takes and returns."""
    features, options, mdn = make_features(config), config.model.filters, config.model.mdn
    windows = windows_of(options, features.grid)
    network = SurroundingsDensity(
        num_components=mdn.num_components,
        hidden=config.model.width,
        scale_floor=mdn.scale_floor,
        dtype=jnp.dtype(config.dtype),
    )

    def context(y, size: Windows):
        """y: [B, n, m, d] → x [B, n, m, X]."""
        x = surroundings_of(jnp.clip(y, -FEATURE_LIMIT, FEATURE_LIMIT), size.radii)
        if not options.position:
            return x
        position = jnp.broadcast_to(position_code(*size.grid), (*y.shape[:3], 6))
        return jnp.concatenate([x, position], -1)

    def init(key):
        params = {}
        for size in windows:
            y = jnp.zeros((1, *size.grid, features.dim))
            params[size.name] = jax.jit(network.init)(key, rows(context(y, size)), rows(y))[
                "params"
            ]
        whitenings = {size.name: empty_whitening(features) for size in windows}
        return {"params": params, "batch_stats": whitenings | features.frozen()}

    def gather(variables, images, key):
        responses = features.responses(variables["batch_stats"], images)
        return {
            size.name: sample_places(window_means(responses, size.side), key) for size in windows
        }

    def solve(variables, samples, rng: np.random.Generator):
        del rng
        fitted = {size.name: features.fit(samples[size.name]) for size in windows}
        statistics = jax.tree.map(np.float32, variables["batch_stats"] | fitted)
        return {"params": variables["params"], "batch_stats": statistics}

    def densities(params, statistics, images, keys=None):
        """Per size of window: surprise, what is expected of it and how far off that may be."""
        responses = features.responses(statistics, images)
        for number, size in enumerate(windows):
            y = whiten(statistics[size.name], window_means(responses, size.side))
            x = context(y, size)
            if keys is not None and mdn.noise_std:
                draw = functools.partial(jax.random.normal, shape=x.shape[1:])
                folded = jax.vmap(lambda key, n=number: jax.random.fold_in(key, n))(keys)
                x = x + mdn.noise_std * jax.vmap(draw)(folded)
            yield network.apply({"params": params[size.name]}, rows(x), rows(y))

    def loss(params, batch_stats, images, keys, layout=ALONE):
        terms = {"nll": 0.0, "calibration": 0.0}
        for nll, expected, spread in densities(layout.whole(params), batch_stats, images, keys):
            # Laplace's density: a few large surprises among normal ones do not move it much.
            deviation = jnp.abs(jax.lax.stop_gradient(nll) - expected)
            terms["nll"] += nll.mean()
            terms["calibration"] += (deviation / spread + jnp.log(2 * spread)).mean()
        return sum(terms.values()), (terms, batch_stats)

    def score(variables, images):
        found = densities(variables["params"], variables["batch_stats"], images)
        surprises, excesses = [], []  # of each size of window, at all places of the grid

        def at_places(values, size):
            return to_places(values.reshape(-1, *size.grid), features.grid, size.side)

        for size, (nll, expected, spread) in zip(windows, found, strict=True):
            surprises.append(at_places(nll, size))
            excesses.append(at_places((nll - expected) / spread, size))
        large = sum(map(tempered, excesses[1:]))
        both = jnp.concatenate([surprises[0] + NATS_PER_EXCESS * large, excesses[0] + large])
        maps = upsample_maps(both, tuple(config.image_size), config.eval.map_sigma)
        anomaly_map, excess = maps.reshape(2, len(images), *config.image_size)
        terms = [top_mean(anomaly_map), top_mean(excess), surprises[0].mean((1, 2))]
        return Scores(jnp.stack(terms, -1), anomaly_map, no_recon(images))

    return Detector(init, loss, score, SCORE_TERMS, Fit(gather, solve))


def rows(values):
    """[B, n, m, D] → [B·n·m, D]."""
    return values.reshape(-1, values.shape[-1])
