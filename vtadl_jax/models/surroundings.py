"""A mixture density network of what is local, told what surrounds it: a true surprise.

y, what the density is of, are whitened fixed filter responses at a place: multi-scale, and out of
reach of training, which can't make them constant. x, what it is conditioned on, are the same
responses in rings around the place, and by option the place. The place itself is left out, so that
-log p(y | x) says how far a patch is from what its surroundings promise. Same mixture as VT-ADL's.

A defect larger than the rings is surrounded by itself, and promised. So the surroundings of a share
of places can be hidden in training: the same network then also gives the density by position alone,
and a surprise is the mean of both.
"""

from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vtadl_jax.errors import UserError
from vtadl_jax.models.detector import ALONE, Detector, Fit, Scores
from vtadl_jax.models.features import make_features, no_recon
from vtadl_jax.models.mdn import UNIT_SCALE, RowsDense
from vtadl_jax.ops.context import position_code, surroundings_of
from vtadl_jax.ops.mixture import mixture_log_prob_rows, tril_size
from vtadl_jax.ops.resize import upsample_maps

# Of the largest surprises; of the largest beyond what surroundings let expect, in units of what
# they let expect it to be off; and of all. The last is an image's own level of novelty, from new
# light or another batch of material: with a negative weight it is counted off.
SCORE_TERMS = ("top_surprise", "top_excess", "mean_surprise")
FEATURE_LIMIT = 8.0  # sigma, of what the network is told: no input is far from any it has seen
TOP_FRACTION = 0.01


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


def surroundings(config: ConfigDict) -> Detector:
    """The detector of a config; `Detector` tells what each function takes and returns."""
    features, options, mdn = make_features(config), config.model.filters, config.model.mdn
    radii = tuple(options.radii)
    if not radii or min(radii) < 1:
        raise UserError(f"model.filters.radii {radii}: give one or more, 1 or larger")
    if not 0 <= options.hidden < 1:
        raise UserError(f"model.filters.hidden {options.hidden}: give a share, 0 to below 1")
    network = SurroundingsDensity(
        num_components=mdn.num_components,
        hidden=config.model.width,
        scale_floor=mdn.scale_floor,
        dtype=jnp.dtype(config.dtype),
    )

    def context(y, told):
        """y: [B, h, w, d]; told: where the surroundings are, 1, or 0, [B, h, w] → [B·h·w, X]."""
        told = jnp.broadcast_to(jnp.asarray(told, jnp.float32), y.shape[:3])[..., None]
        y = jnp.clip(y, -FEATURE_LIMIT, FEATURE_LIMIT)
        parts = [surroundings_of(y, radii) * told]
        if options.hidden:
            parts.append(told)
        if options.position:
            parts.append(jnp.broadcast_to(position_code(*features.grid), (*y.shape[:3], 6)))
        x = jnp.concatenate(parts, -1)
        return x.reshape(-1, x.shape[-1])

    def init(key):
        y = jnp.zeros((1, *features.grid, features.dim))
        params = jax.jit(network.init)(key, context(y, 1), y.reshape(-1, features.dim))["params"]
        return {"params": params, "batch_stats": features.empty()}

    def solve(variables, samples, rng: np.random.Generator):
        del rng
        statistics = features.fit(variables["batch_stats"], samples)
        statistics = jax.tree.map(lambda x: np.asarray(x, np.float32), statistics)
        return {"params": variables["params"], "batch_stats": statistics}

    def density(params, y, told):
        """Surprise, what is expected of it and how far off that may be, [B·h·w] each."""
        found = network.apply({"params": params}, context(y, told), y.reshape(-1, features.dim))
        return cast(tuple, found)

    def loss(params, batch_stats, images, keys, layout=ALONE):
        y = features.whitened(batch_stats, images)
        told = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - options.hidden, features.grid))
        nll, expected, spread = density(layout.whole(params), y, told(keys))
        # Laplace's density: a few large surprises among the normal ones do not move it much.
        deviation = jnp.abs(jax.lax.stop_gradient(nll) - expected)
        calibration = (deviation / spread + jnp.log(2 * spread)).mean()
        terms = {"nll": nll.mean(), "calibration": calibration}
        return sum(terms.values()), (terms, batch_stats)

    def score(variables, images):
        y = features.whitened(variables["batch_stats"], images)
        found = []
        for told, share in ((1, 1 - options.hidden), (0, options.hidden)):
            if share:
                nll, expected, spread = density(variables["params"], y, told)
                found.append(share * jnp.stack([nll, (nll - expected) / spread]))
        values = sum(found).reshape(-1, *features.grid)
        maps = upsample_maps(values, tuple(config.image_size), config.eval.map_sigma)
        surprise, excess = maps.reshape(2, len(images), *config.image_size)
        terms = [top_mean(surprise), top_mean(excess), surprise.mean((1, 2))]
        return Scores(jnp.stack(terms, -1), surprise, no_recon(images))

    return Detector(init, loss, score, SCORE_TERMS, Fit(features.gather, solve))
