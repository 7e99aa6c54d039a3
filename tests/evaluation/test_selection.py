"""Ranks of variants, and how well one ranking predicts another."""

import numpy as np
import pytest
from scipy import stats

from vtadl_jax.evaluation.selection import (
    MEAN,
    Part,
    agreement,
    best_shares,
    by_other_sets,
    column,
    interval,
    ranks,
    resampled,
)


def part(image=0.5, pixel=0.5, aupro=0.5, values=None):
    figures = {"image_auroc": image, "pixel_auroc": pixel, "aupro": aupro}
    return Part(figures, values or {}, 4, 4)


def test_the_mean_is_of_metrics_that_all_variants_have():
    parts = [part(0.9, 0.8, 0.7), part(0.6, 0.6, 0.6)]
    np.testing.assert_allclose(column(parts, MEAN), [0.8, 0.6])
    np.testing.assert_allclose(column(parts, "aupro"), [0.7, 0.6])
    parts.append(part(0.7, None, None))  # a detector without maps
    np.testing.assert_allclose(column(parts, MEAN), [0.9, 0.6, 0.7])
    assert column(parts, "aupro") is None
    assert column([part(None, None, None)], MEAN) is None


def test_resampled_means_and_their_interval():
    values = {name: [0.1, 0.2, 0.6] for name in ("image_auroc", "pixel_auroc", "aupro")}
    other = {**values, "aupro": [0.4, 0.2, 0.0]}
    found = resampled([part(values=values), part(values=other)], MEAN)
    np.testing.assert_allclose(found, [[0.1, 0.2, 0.6], [0.2, 0.2, 0.4]])
    np.testing.assert_allclose(best_shares(found), [0.5, 0.5])  # they share the second
    assert interval(found[0], 1.0) == pytest.approx((0.1, 0.6))
    assert resampled([part(values=values), part()], MEAN) is None


def test_ranks_count_from_the_largest_and_share_places():
    np.testing.assert_array_equal(ranks(np.array([0.3, 0.9, 0.3, 0.1])), [2.5, 1, 2.5, 4])


@pytest.mark.parametrize("seed", range(5))
def test_agreement_is_spearman_and_regret(seed):
    rng = np.random.default_rng(seed)
    predicted, real = rng.random(7).round(1), rng.random(7).round(1)
    found = agreement(predicted, real)
    want = np.corrcoef(stats.rankdata(predicted), stats.rankdata(real))[0, 1]
    assert found.correlation == pytest.approx(want)
    chosen = real[predicted == predicted.max()].mean()
    assert found.regret == pytest.approx(real.max() - chosen)
    assert 0 <= found.regret <= found.of_worst
    assert found.of_mean == pytest.approx(np.mean(real.max() - real))


def test_equal_figures_have_no_correlation():
    assert agreement(np.array([1.0, 1.0]), np.array([0.2, 0.4])).correlation is None
    assert agreement(np.array([1.0, 1.0]), np.array([0.2, 0.4])).regret == pytest.approx(0.1)
    assert agreement(np.array([0.1, 0.2]), np.array([0.2, 0.4])).regret == 0


def test_a_set_does_not_count_for_itself():
    real = {"a": np.array([0.9, 0.1, 0.5]), "b": np.array([0.1, 0.2, 0.3])}
    np.testing.assert_array_equal(by_other_sets(real, "a"), [-3, -2, -1])  # as b ranks them
    np.testing.assert_array_equal(by_other_sets(real, "b"), [-1, -3, -2])
    np.testing.assert_array_equal(by_other_sets(real, "new"), [-2, -2.5, -1.5])
    assert by_other_sets({"a": real["a"]}, "a") is None
