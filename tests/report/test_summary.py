"""What the report page is given, against the metrics."""

import numpy as np
import pytest

from vtadl_jax import metrics
from vtadl_jax.report.summary import pro_points


def test_points_of_the_pro_curve_lie_on_it():
    rng = np.random.default_rng(0)
    shapes = [(20, 30), (25, 25), (10, 40)]
    masks = [np.zeros(shape, np.uint8) for shape in shapes]
    masks[0][2:6, 3:9], masks[0][12:15, 20:25], masks[1][5:9, 5:9] = 1, 1, 1
    maps = [(rng.normal(size=m.shape) + m).astype(np.float32) for m in masks]
    fpr, pro = pro_points(maps, masks, 0.3)
    exact_fpr, exact_pro, _ = metrics.pro_curve(maps, masks)
    for x, y in zip(fpr, pro, strict=True):
        at = np.abs(exact_fpr - x) < 1e-12
        assert at.any()
        assert np.abs(exact_pro[at] - y).min() < 1e-12
    assert (np.diff(fpr) >= 0).all()
    assert fpr[-1] == pytest.approx(0.3, abs=0.01)
