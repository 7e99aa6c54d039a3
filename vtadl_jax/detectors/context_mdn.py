"""A mixture density network of a window's features, conditioned on the context around it.

The target y is the mean of whitened fixed filter responses in a window. The filters are not
trained, so training cannot collapse y to a constant. The condition x holds the same features of the
windows in rings around it and, by option, the position. x excludes the window itself, so
-log p(y | x) measures how far a window is from what its context predicts. As in VT-ADL, the mixture
has full covariances and noise is added to x in training.

Limit: a defect larger than the rings becomes its own context and is predicted. Each window size has
its own network: a large window averages out a scratch, but covers a large area that differs
slightly.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vtadl_jax.detectors.contract import Detector, Fit, Inputs, Scores
from vtadl_jax.detectors.feature_detector import features_of, pretrained_of, top_mean
from vtadl_jax.errors import UserError
from vtadl_jax.networks.features import FeatureOptions, empty_whitening, sample_places, whiten
from vtadl_jax.networks.initialize import initializer
from vtadl_jax.networks.mdn import UNIT_SCALE, RowsDense
from vtadl_jax.networks.parallel import SINGLE_DEVICE
from vtadl_jax.ops.context import context_of, position_code
from vtadl_jax.ops.inspected import mean_inside
from vtadl_jax.ops.mixture import mixture_log_prob_rows, tril_size
from vtadl_jax.ops.resize import upsample_maps
from vtadl_jax.ops.windows import to_places, window_means, window_starts
from vtadl_jax.options import LARGEST_SIZE, option

# Mean of the map's largest values; mean of the largest excesses (nll minus its expectation, divided
# by the expected deviation); mean nll of the whole image. The last is the image's overall level of
# novelty, for example from new light or another batch of material: a negative weight subtracts it.
SCORE_TERMS = ("top_surprise", "top_excess", "mean_surprise")
FEATURE_LIMIT = 8.0  # sigma: the network's inputs are clipped near the training range
ADJACENT = 2  # radius of the ring around a large window, see `window_starts`
NATS_PER_EXCESS = 2.0  # weight of large windows' excess in the map, docs/experiments.md
HALF_COUNTED_AT = 8.0  # excess of a large window at which the slope of `tempered` is 1/2


@dataclasses.dataclass(frozen=True)
class ContextMdnOptions:
    """Options of the mixture density network of each window size."""

    num_components: int = option(8, "Gaussians", at_least=1, limit=LARGEST_SIZE)
    feature_dim: int = option(
        12, "whitened features that a density models", at_least=1, limit=LARGEST_SIZE
    )
    hidden: int = option(256, "units of the two hidden layers", at_least=1, limit=LARGEST_SIZE)
    scale_floor: float = option(
        0.05, "least diagonal of a factor; features have unit scale", above=0
    )
    noise_std: float = option(0.2, "of the noise on the context, in training only", at_least=0)
    positions: int = option(
        0,
        "windows of a size that a step trains on, drawn at random in each image; 0: all",
        at_least=0,
        limit=LARGEST_SIZE,
    )


@dataclasses.dataclass(frozen=True)
class WindowOptions:
    """Options of the windows whose density is modelled, and of the context (the condition)."""

    windows: tuple[int, ...] = option(
        (1, 4, 8), "sides, in grid cells", at_least=1, limit=LARGEST_SIZE
    )
    radii: tuple[int, ...] = option(
        (2,),
        "of the rings of context, in grid cells",
        at_least=1,
        limit=LARGEST_SIZE,
        filled=True,
    )
    position: bool = option(False, "condition on the position, too")


@dataclasses.dataclass(frozen=True)
class ContextOptions(FeatureOptions):
    """Options of the context_mdn detector."""

    context: WindowOptions = WindowOptions()
    mdn: ContextMdnOptions = ContextMdnOptions()


class ContextDensity(nn.Module):
    """-log p(y | x), and its mean and deviation as predicted from x.

    x [T, X], y [T, d] → three arrays [T] float32. The prediction is learned from the nll of normal
    images and reads x only: where the context predicts little, a large nll is expected.
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


def tempered(excess):
    """Compresses large excesses of large windows, logarithmically, before map and score use them.

    An image has few large windows, so their density is fitted to few samples and its nll of
    anything new is unbounded. Monotone; the identity below 0 and nearly so for small values.
    """
    beyond = jnp.maximum(excess, 0) / HALF_COUNTED_AT
    return jnp.minimum(excess, 0) + HALF_COUNTED_AT * jnp.log1p(beyond)


class Windows(NamedTuple):
    """One window size: `side` in grid cells, and the `grid` (rows, columns) of its windows."""

    side: int
    grid: tuple[int, int]
    radii: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"window_{self.side}"


def windows_of(options: WindowOptions, grid: tuple[int, int]) -> tuple[Windows, ...]:
    """Returns the window sizes. Raises UserError for sizes and radii that do not fit the grid."""
    radii, sides = options.radii, options.windows
    if not radii:
        raise UserError(f"model.context.radii {radii}: give one or more, 1 or larger")
    if not sides or sorted(set(sides)) != list(sides) or sides[-1] > min(grid):
        raise UserError(
            f"model.context.windows {sides}: give one or more, growing, from 1 to the "
            f"{min(grid)} places of the grid's shorter side"
        )
    height, width = grid

    def windows(side):
        counts = len(window_starts(height, side)), len(window_starts(width, side))
        return Windows(side, counts, radii if side == 1 else (ADJACENT,))

    return tuple(map(windows, sides))


def context_mdn(options: ContextOptions, inputs: Inputs) -> Detector:
    """Returns the detector; `Detector` describes the arguments and results of its functions."""
    mdn = options.mdn
    features = features_of(options, inputs, mdn.feature_dim)
    windows = windows_of(options.context, features.grid)
    network = ContextDensity(
        num_components=mdn.num_components,
        hidden=mdn.hidden,
        scale_floor=mdn.scale_floor,
        dtype=jnp.dtype(inputs.dtype),
    )

    def context(y, size: Windows):
        """Returns the condition x of features y: [B, n, m, d] → [B, n, m, X]."""
        x = context_of(jnp.clip(y, -FEATURE_LIMIT, FEATURE_LIMIT), size.radii)
        if not options.context.position:
            return x
        position = jnp.broadcast_to(position_code(*size.grid), (*y.shape[:3], 6))
        return jnp.concatenate([x, position], -1)

    def init(key):
        params = {}
        for size in windows:
            y = jnp.zeros((1, *size.grid, features.dim))
            params[size.name] = initializer(network.init)(key, rows(context(y, size)), rows(y))[
                "params"
            ]
        whitenings = {size.name: empty_whitening(features) for size in windows}
        return {"params": params, "stats": whitenings, "frozen": features.frozen()}

    def gather(variables, images, key):
        responses = features.responses(variables["frozen"], images)
        return {
            size.name: sample_places(window_means(responses, size.side), key) for size in windows
        }

    def solve(variables, samples, rng: np.random.Generator):
        del rng
        fitted = {size.name: features.fit(samples[size.name]) for size in windows}
        return {**variables, "stats": jax.tree.map(np.float32, fitted)}

    def sampled(x, y, keys, number: int):
        """Returns x and y of windows [B, n, m, …], or of a random part of them, [B, 1, P, …]."""
        count = y.shape[1] * y.shape[2]
        if not 0 < mdn.positions < count:
            return x, y

        def chosen(key, *values):
            places = jax.random.randint(
                jax.random.fold_in(key, len(windows) + number), (mdn.positions,), 0, count
            )
            return [v.reshape(count, -1)[places][None] for v in values]

        return jax.vmap(chosen)(keys, x, y)

    def densities(variables, images, params, keys=None):
        """Returns for each window size: nll, its expectation and the expected deviation."""
        responses = features.responses(variables["frozen"], images)
        for number, size in enumerate(windows):
            y = whiten(variables["stats"][size.name], window_means(responses, size.side))
            x = context(y, size)
            if keys is not None:
                x, y = sampled(x, y, keys, number)
            if keys is not None and mdn.noise_std:
                draw = functools.partial(jax.random.normal, shape=x.shape[1:])
                folded = jax.vmap(lambda key, n=number: jax.random.fold_in(key, n))(keys)
                x = x + mdn.noise_std * jax.vmap(draw)(folded)
            yield network.apply({"params": params[size.name]}, rows(x), rows(y))

    def loss(variables, batch, keys, parallel=SINGLE_DEVICE):
        terms = {"nll": 0.0, "calibration": 0.0}
        params = parallel.gather_params(variables["params"])
        for nll, expected, spread in densities(variables, batch["image"], params, keys):
            # Laplace density: robust to a few large nll values among normal ones.
            deviation = jnp.abs(jax.lax.stop_gradient(nll) - expected)
            terms["nll"] += nll.mean()
            terms["calibration"] += (deviation / spread + jnp.log(2 * spread)).mean()
        return sum(terms.values()), (terms, variables["stats"])

    def score(variables, images):
        found = densities(variables, images, variables["params"])
        surprises, excesses = [], []  # one map per window size, [B, h, w] on the feature grid

        def at_places(values, size):
            return to_places(values.reshape(-1, *size.grid), features.grid, size.side)

        for size, (nll, expected, spread) in zip(windows, found, strict=True):
            surprises.append(at_places(nll, size))
            excesses.append(at_places((nll - expected) / spread, size))
        large = sum(map(tempered, excesses[1:]))
        both = jnp.concatenate([surprises[0] + NATS_PER_EXCESS * large, excesses[0] + large])
        maps = upsample_maps(both, inputs.image_size, inputs.map_sigma)
        anomaly_map, excess = maps.reshape(2, images.shape[0], *inputs.image_size)
        terms = [top_mean(anomaly_map), top_mean(excess), mean_inside(surprises[0])]
        return Scores(jnp.stack(terms, -1), anomaly_map)

    return Detector(
        init,
        score,
        SCORE_TERMS,
        (1.0, 1.0, -1.0),
        loss,
        Fit(gather, solve),
        steps_required=True,
        **pretrained_of(features),
    )


def rows(values):
    """Flattens all axes but the last: [B, n, m, D] → [B·n·m, D]."""
    return values.reshape(-1, values.shape[-1])
