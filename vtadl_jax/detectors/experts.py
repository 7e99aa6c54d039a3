"""Several detectors, one verdict: their maps as tail probabilities on good images, added.

Each expert is a detector of its own. After training, held-out good images show how rare a value of
its map is (`networks/tails.py`); -log of that probability has no unit, so the experts' maps can be
added, which is Fisher's way to combine tests. The image score is the mean of the largest hundredth
of the sum. An expert that sees nothing adds little; one that is sure is heard.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vtadl_jax.detectors.contract import Detector, Fit, Inputs, Scores
from vtadl_jax.detectors.feature_detector import top_mean
from vtadl_jax.detectors.filter_mixture import FilterMixtureOptions, filter_mixture
from vtadl_jax.detectors.patch_memory import PatchMemoryOptions, patch_memory
from vtadl_jax.detectors.position_gaussian import PositionGaussianOptions, position_gaussian
from vtadl_jax.errors import UserError
from vtadl_jax.networks.tails import empty_table, fit_table, tail
from vtadl_jax.options import fields_of, nearest, option

SAMPLES_PER_IMAGE = 4096  # values of each expert's map


@dataclasses.dataclass(frozen=True)
class ExpertsOptions:
    """Options of the experts detector: which detectors, and the options of each."""

    use: tuple[str, ...] = option(
        ("filter_mixture", "patch_memory"),
        "the experts: filter_mixture, patch_memory, position_gaussian",
    )
    filter_mixture: FilterMixtureOptions = FilterMixtureOptions()
    patch_memory: PatchMemoryOptions = PatchMemoryOptions()
    position_gaussian: PositionGaussianOptions = PositionGaussianOptions()


MAKERS: dict[str, Callable[[Any, Inputs], Detector]] = {
    "filter_mixture": filter_mixture,
    "patch_memory": patch_memory,
    "position_gaussian": position_gaussian,
}


def make_experts(options: ExpertsOptions, inputs: Inputs) -> dict[str, Detector]:
    """Returns the chosen detectors by name.

    Raises UserError for unknown or repeated names, and for options of an expert that is not chosen.
    """
    for name in options.use:
        if name not in MAKERS:
            known = ", ".join(MAKERS)
            raise UserError(f"model.use {name!r}{nearest(name, MAKERS)}: use some of {known}")
    if not options.use or len(set(options.use)) < len(options.use):
        raise UserError(f"model.use {options.use}: name one or more experts, each once")
    for name in MAKERS.keys() - set(options.use):
        given = getattr(options, name)
        for (field, value, _), (_, default, _) in zip(
            fields_of(given), fields_of(type(given)()), strict=True
        ):
            if value != default:
                raise UserError(
                    f"model.{name}.{field} {value!r}: not read, as model.use has no {name!r}: "
                    f"leave it at {default!r}"
                )
    return {name: MAKERS[name](getattr(options, name), inputs) for name in options.use}


def experts(options: ExpertsOptions, inputs: Inputs) -> Detector:
    """Returns the detector; `Detector` describes the arguments and results of its functions."""
    chosen = make_experts(options, inputs)
    if pretrained := [name for name, one in chosen.items() if one.pretrained_required]:
        raise UserError(
            f"model.{pretrained[0]}.features: experts on frozen networks are not combined yet: use "
            f"'filters'"
        )
    fits = {name: one.fit for name, one in chosen.items() if one.fit is not None}

    def part(variables, name: str):
        return {kind: variables[kind][name] for kind in ("params", "stats", "frozen")}

    def init(key):
        keys = jax.random.split(key, len(chosen))
        made: dict[str, Any] = {
            name: {"frozen": {}} | one.init(k)
            for (name, one), k in zip(chosen.items(), keys, strict=True)
        }
        joined: dict[str, Any] = {
            kind: {name: variables[kind] for name, variables in made.items()}
            for kind in ("params", "stats", "frozen")
        }
        joined["stats"]["tails"] = {name: empty_table() for name in chosen}
        return joined

    def gather(variables, images, key):
        return {name: fit.gather(part(variables, name), images, key) for name, fit in fits.items()}

    def reduce(accumulated, rows):
        """Adds each expert's rows to what it accumulates."""
        before = accumulated or dict.fromkeys(fits)
        return {name: fit.add(before[name], rows[name]) for name, fit in fits.items()}

    def solve(variables, accumulated, rng: np.random.Generator):
        found = {kind: dict(variables[kind]) for kind in ("params", "stats", "frozen")}
        for name, fit in fits.items():
            fitted = fit.solve(part(variables, name), fit.gathered(accumulated[name]), rng)
            for kind in found:
                found[kind][name] = fitted[kind]
        return found

    def maps_of(variables, images):
        """Returns the experts' maps by name, [B, H, W] each."""
        return {
            name: one.score(part(variables, name), images).anomaly_map
            for name, one in chosen.items()
        }

    def gather_tails(variables, images, key):
        places = jax.random.randint(
            key, (SAMPLES_PER_IMAGE,), 0, inputs.image_size[0] * inputs.image_size[1]
        )
        maps = maps_of(variables, images)
        return {name: values.reshape(len(images), -1)[:, places] for name, values in maps.items()}

    def solve_tails(variables, samples, rng: np.random.Generator):
        del rng
        tails = {name: fit_table(values) for name, values in samples.items()}
        return {**variables, "stats": {**variables["stats"], "tails": tails}}

    def score(variables, images):
        tails = variables["stats"]["tails"]
        maps = {name: tail(tails[name], x) for name, x in maps_of(variables, images).items()}
        together = sum(maps.values()) / len(maps)
        terms = [top_mean(together), *map(top_mean, maps.values()), together.mean((1, 2))]
        return Scores(jnp.stack(terms, -1), together)

    return Detector(
        init,
        score,
        ("top", *(f"top_{name}" for name in chosen), "level"),
        (1.0, *[0.0] * len(chosen), 0.0),
        fit=Fit(gather, solve, reduce),
        tails=Fit(gather_tails, solve_tails),
    )
