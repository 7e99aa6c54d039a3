"""Metrics of anomaly detection over numpy arrays: ranking (ROC, PR) and regions (AU-PRO).

Exact and threshold-free: no binning, no min-max, no clamp. This room computes numbers only; it
does not read files, choose an operating threshold for production or draw curves.
"""

from vtadl_jax.metrics.ranking import (
    auroc,
    average_precision,
    balanced_accuracy_max,
    f1_max,
    pr_auc,
)
from vtadl_jax.metrics.regions import aupro, label_regions, pro_curve

__all__ = [
    "aupro",
    "auroc",
    "average_precision",
    "balanced_accuracy_max",
    "f1_max",
    "label_regions",
    "pr_auc",
    "pro_curve",
]
