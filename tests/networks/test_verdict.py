"""Weights of experts by drawn defects, against the exact AU-PRO and cases with a known answer."""

import numpy as np
import pytest

from vtadl_jax import metrics
from vtadl_jax.networks.verdict import drawn_aupro, expert_weights


def maps_of(rng, count, shift):
    """Returns good maps, and maps and masks of one square defect each that is `shift` higher."""
    good = rng.normal(size=(count, 32, 32))
    drawn, masks = rng.normal(size=(count, 32, 32)), np.zeros((count, 32, 32), np.uint8)
    for i in range(count):
        row, column = rng.integers(0, 24, 2)
        masks[i, row : row + 8, column : column + 8] = 1
    return good, drawn + shift * masks, masks


@pytest.mark.parametrize("shift", [0.0, 1.0, 4.0])
def test_the_aupro_of_samples_is_that_of_the_maps(shift):
    good, drawn, masks = maps_of(np.random.default_rng(0), 30, shift)
    inside = np.stack([m[k == 1] for m, k in zip(drawn, masks, strict=True)])
    wanted = metrics.aupro([*drawn, *good], [*masks, *np.zeros_like(masks)], fpr_limit=0.3)
    assert drawn_aupro(good.ravel(), inside) == pytest.approx(wanted, abs=0.01)


def weights_of(rng, **shifts):
    """Returns the weights of independent experts whose values are so much higher in a defect."""
    good = {name: rng.normal(size=20_000) for name in shifts}
    return expert_weights(good, {n: s + rng.normal(size=(40, 256)) for n, s in shifts.items()})


def test_an_expert_that_finds_nothing_has_hardly_any_weight():
    weights = weights_of(np.random.default_rng(1), useful=3.0, useless=0.0)
    assert weights["useful"] > 0.95
    assert sum(weights.values()) == pytest.approx(1)


def test_experts_that_are_about_equally_good_share_the_weight():
    weights = weights_of(np.random.default_rng(2), a=1.0, b=1.05, c=0.0)
    assert weights["a"] == pytest.approx(weights["b"], abs=0.05)
    assert weights["a"] > 0.4
    assert weights["c"] < 0.1


def test_without_drawn_defects_all_count_the_same():
    good = {"a": np.arange(4.0), "b": np.arange(4.0)}
    empty = dict.fromkeys(good, np.zeros((0, 256)))
    assert expert_weights(good, empty) == {"a": 0.5, "b": 0.5}
