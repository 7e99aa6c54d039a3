"""Several detectors, one verdict: their maps as tail probabilities on good images, added.

Each expert is a detector of its own. After training, held-out good images show how rare a value of
its map is (`networks/tails.py`); -log of that probability has no unit, so the experts' maps can be
added, which is Fisher's way to combine tests. Defects drawn onto the same images show which experts
suit them, and so how much each counts (`networks/verdict.py`). No test image has a part in it.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vtadl_jax.detectors.contract import (
    CREDIT_LIMIT,
    Array,
    Detector,
    Experts,
    Fit,
    Inputs,
    Scores,
    Tails,
    Terms,
)
from vtadl_jax.detectors.expert_options import TRAINED, ExpertsOptions, make_experts
from vtadl_jax.detectors.feature_detector import top_mean
from vtadl_jax.networks.parallel import SINGLE_DEVICE
from vtadl_jax.networks.tails import empty_table, fit_table, tail
from vtadl_jax.networks.verdict import expert_weights
from vtadl_jax.ops.inspected import common_places, mean_inside

SAMPLES_PER_IMAGE = 4096  # values of each expert's map
SAMPLES_PER_DEFECT = 256
NUM_DEFECTS = 64  # drawn onto held-out images, of all
# The image score: the experts' own scores, and a quarter of the highest twentieth of their map
# (docs/experiments.md).
MAP_WEIGHT, HIGHEST = 0.25, 0.05


def experts(options: ExpertsOptions, inputs: Inputs) -> Detector:
    """Returns the detector; `Detector` describes the arguments and results of its functions.

    'params' has the parameters of experts that training steps train. Those of the others, fitted
    once, are in 'stats' under 'fitted'; 'tails' has each expert's table, the mean and deviation of
    its score terms and of its score, and its weight.
    """
    chosen = make_experts(options, inputs)
    trained = [name for name in chosen if name in TRAINED]
    fits = {name: one.fit for name, one in chosen.items() if one.fit is not None}

    def part(variables, name: str):
        place = variables["params"] if name in trained else variables["stats"]["fitted"]
        return {"params": place[name], **{k: variables[k][name] for k in ("stats", "frozen")}}

    def joined(parts: Mapping[str, Any], tails) -> dict[str, Any]:
        """Returns the variables of all experts as one: the reverse of `part`."""

        def of(names, kind):
            return {name: parts[name].get(kind, {}) for name in names}

        fitted = of([name for name in chosen if name not in trained], "params")
        stats = {**of(chosen, "stats"), "fitted": fitted, "tails": tails}
        return {"params": of(trained, "params"), "stats": stats, "frozen": of(chosen, "frozen")}

    def init(key):
        keys = jax.random.split(key, len(chosen))
        parts = {name: one.init(k) for (name, one), k in zip(chosen.items(), keys, strict=True)}
        return joined(parts, {name: empty_tails(one) for name, one in chosen.items()})

    def gather(variables, images, key):
        return {name: fit.gather(part(variables, name), images, key) for name, fit in fits.items()}

    def reduce(accumulated, rows):
        """Adds each expert's rows to what it accumulates."""
        before = accumulated or dict.fromkeys(fits)
        return {name: fit.add(before[name], rows[name]) for name, fit in fits.items()}

    def solve(variables, accumulated, rng: np.random.Generator):
        parts = {name: part(variables, name) for name in chosen}
        for name, fit in fits.items():
            parts[name] = fit.solve(parts[name], fit.gathered(accumulated[name]), rng)
        return joined(parts, variables["stats"]["tails"])

    def load_pretrained(variables, arrays: Mapping[str, np.ndarray]):
        parts = {name: part(variables, name) for name in chosen}
        for name, one in chosen.items():
            if one.load_pretrained is not None:
                parts[name] = one.load_pretrained(parts[name], arrays)
        return joined(parts, variables["stats"]["tails"])

    def loss(variables, batch, keys, parallel=SINGLE_DEVICE):
        """Adds the losses of the experts that are trained; they share no parameter."""
        total, stats = jnp.zeros(()), dict(variables["stats"])
        terms: Terms = {}
        for number, name in enumerate(trained):
            own = jax.vmap(lambda key, n=number: jax.random.fold_in(key, n))(keys)
            one = chosen[name].loss
            assert one is not None, "an expert that is trained has a loss"
            value, (found, stats[name]) = one(part(variables, name), batch, own, parallel)
            total += value
            terms |= {f"{name}_{term}": x for term, x in found.items()}
        return total, (terms, stats)

    def outputs(variables, images) -> dict[str, tuple[Array, Array]]:
        """Returns each expert's terms [B, T] and map [B, H, W]."""
        found = {name: one.score(part(variables, name), images) for name, one in chosen.items()}
        return {name: (scores.terms, scores.anomaly_map) for name, scores in found.items()}

    def gather_tails(variables, images, drawn, masks, key):
        places_key, inside_key = jax.random.split(key)
        places = common_places(places_key, len(images), SAMPLES_PER_IMAGE, *inputs.image_size)
        rows: dict[str, Any] = {"visible": masks.any((2, 3))}
        for name, (terms, maps) in outputs(variables, images).items():
            rows[name] = {
                "terms": terms,
                "values": jnp.take_along_axis(maps.reshape(len(images), -1), places, 1),
            }
        if drawn.shape[1]:

            def inside(pair):
                images, masks = pair
                at = places_within(masks, SAMPLES_PER_DEFECT, inside_key)
                found = {
                    name: x.reshape(len(at), -1)
                    for name, (_, x) in outputs(variables, images).items()
                }
                return {name: jnp.take_along_axis(x, at, 1) for name, x in found.items()}

            every = jax.lax.map(inside, (drawn.swapaxes(0, 1), masks.swapaxes(0, 1)))
            for name, values in every.items():
                rows[name]["inside"] = values.swapaxes(0, 1)
        return rows

    def solve_tails(variables, rows, rng: np.random.Generator):
        del rng
        tails = {}
        for name, one in chosen.items():
            table, terms = fit_table(rows[name]["values"]), np.asarray(rows[name]["terms"])
            tails[name] = {"table": table, **score_moments(terms, one.term_weights)}
        weights = _weights(rows, {name: tails[name]["table"] for name in chosen})
        for name, weight in weights.items():
            tails[name]["weight"] = np.float32(weight)
        return {**variables, "stats": {**variables["stats"], "tails": tails}}

    def score(variables, images):
        tails, maps, scores = variables["stats"]["tails"], {}, {}
        for name, (terms, found) in outputs(variables, images).items():
            own = tails[name]
            maps[name] = tail(own["table"], found)
            scores[name] = standard_score(terms, own, chosen[name].term_weights)
        together = sum(tails[name]["weight"] * maps[name] for name in chosen)
        verdict = sum(tails[name]["weight"] * scores[name] for name in chosen)
        columns = [top_mean(together, HIGHEST), verdict, *scores.values(), mean_inside(together)]
        return Scores(jnp.stack(columns, -1), together, expert_maps=maps)

    def weights(variables) -> dict[str, float]:
        return {name: float(variables["stats"]["tails"][name]["weight"]) for name in chosen}

    return Detector(
        init,
        score,
        ("top", "verdict", *chosen, "level"),
        (MAP_WEIGHT, 1.0, *[0.0] * len(chosen), 0.0),
        loss if trained else None,
        Fit(gather, solve, reduce),
        Tails(gather_tails, solve_tails, NUM_DEFECTS if options.weigh == "drawn" else 0),
        load_pretrained=load_pretrained,
        pretrained_required=any(one.pretrained_required for one in chosen.values()),
        steps_required=bool(trained),
        experts=Experts(tuple(chosen), weights),
    )


def empty_tails(detector: Detector) -> dict[str, Any]:
    """Returns an expert's tails before they are fitted."""
    count, zero, one = len(detector.score_terms), np.zeros((), np.float32), np.ones((), np.float32)
    return {
        "table": empty_table(),
        "mean": np.zeros(count, np.float32),
        "spread": np.ones(count, np.float32),
        "score_mean": zero,
        "score_spread": one,
        "weight": one,
    }


def score_moments(terms: np.ndarray, weights: tuple[float, ...]) -> dict[str, np.ndarray]:
    """Returns mean and deviation of score terms [N, T] of good images, and of their score."""
    found = {"mean": terms.mean(0), "spread": _deviation(terms)}
    found |= {"score_mean": np.zeros(()), "score_spread": np.ones(())}
    scores = np.asarray(standard_score(terms, found, weights))
    found |= {"score_mean": scores.mean(), "score_spread": _deviation(scores)}
    return {name: np.asarray(value, np.float32) for name, value in found.items()}


def standard_score(terms, moments: Mapping[str, Any], weights: tuple[float, ...]):
    """Returns the score of terms [B, T], [B]: 0 and 1 are its mean and deviation on good images.

    As `Calibration.scores`: the weighted sum of standardized terms, where a negative weight counts
    off at most CREDIT_LIMIT.
    """
    standard = (terms - moments["mean"]) / moments["spread"]
    signs = np.asarray(weights, np.float32)
    limited = jnp.where(signs < 0, jnp.minimum(standard, CREDIT_LIMIT), standard)
    return (limited @ signs - moments["score_mean"]) / moments["score_spread"]


def places_within(masks, count: int, key):
    """Samples `count` places of each mask: bool [B, H, W] → int [B, count], with repeats.

    Any place of a mask without pixels.
    """
    flat = masks.reshape(len(masks), -1)
    area = jnp.cumsum(flat, 1)
    wanted = jax.random.uniform(key, (count,)) * jnp.maximum(area[:, -1:], 1)
    found = jax.vmap(lambda a, w: jnp.searchsorted(a, jnp.floor(w) + 1))(area, wanted)
    return jnp.minimum(found, flat.shape[1] - 1)


def _deviation(values: np.ndarray) -> np.ndarray:
    """Returns the deviation along the first axis; of equal values, their magnitude."""
    found = values.std(0, ddof=min(1, len(values) - 1))
    return np.where(found > 0, found, np.maximum(np.abs(values.mean(0)), 1.0))


def _weights(rows: Mapping[str, Any], tables: Mapping[str, Any]) -> dict[str, float]:
    """Returns the experts' weights from the rows of `gather_tails`."""
    visible = np.asarray(rows["visible"]).ravel()
    good, inside = {}, {}
    for name, table in tables.items():
        good[name] = np.asarray(tail(table, np.ravel(rows[name]["values"])))
        drawn = rows[name].get("inside", np.zeros((0, 0, SAMPLES_PER_DEFECT), np.float32))
        values = drawn.reshape(-1, SAMPLES_PER_DEFECT)[visible]
        inside[name] = np.asarray(tail(table, values))
    return expert_weights(good, inside)
