"""Metrics of anomaly detection over numpy arrays: ranking (ROC, PR) and regions (AU-PRO).

Exact and threshold-free: no min-max, no clamp, and no binning except where a file bounds its error
(`streaming.py`, `bootstrap.py`). In addition: confidence intervals, curves, and breakdowns by
defect and region.

Not here: file I/O, the choice of an operating threshold for production, drawing.
"""

from vtadl_jax.metrics.bootstrap import (
    Interval,
    bootstrap,
    image_intervals,
    image_values,
    pixel_intervals,
    pixel_values,
)
from vtadl_jax.metrics.breakdown import (
    Region,
    by_defect,
    by_defect_pixels,
    decisions,
    detected_regions,
    region_table,
)
from vtadl_jax.metrics.curves import Thinned, pr_curve, pro_points, roc_curve, thin
from vtadl_jax.metrics.inspected import packed
from vtadl_jax.metrics.ranking import (
    auroc,
    average_precision,
    balanced_accuracy_max,
    f1_max,
    pr_auc,
    youden_accuracy,
)
from vtadl_jax.metrics.regions import aupro, label_regions, pro_curve
from vtadl_jax.metrics.saturated import SaturatedRegion, au_spro
from vtadl_jax.metrics.streaming import PixelMetrics

__all__ = [
    "Interval",
    "PixelMetrics",
    "Region",
    "SaturatedRegion",
    "Thinned",
    "au_spro",
    "aupro",
    "auroc",
    "average_precision",
    "balanced_accuracy_max",
    "bootstrap",
    "by_defect",
    "by_defect_pixels",
    "decisions",
    "detected_regions",
    "f1_max",
    "image_intervals",
    "image_values",
    "label_regions",
    "packed",
    "pixel_intervals",
    "pixel_values",
    "pr_auc",
    "pr_curve",
    "pro_curve",
    "pro_points",
    "region_table",
    "roc_curve",
    "thin",
    "youden_accuracy",
]
