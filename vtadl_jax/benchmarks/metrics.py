"""Measures the time of our metrics and scikit-learn's on the same maps; checks no accuracy.

    python -m vtadl_jax.benchmarks.metrics [--json OUT]

20 smooth random maps of 512x512 float32 with about 3 % anomalous pixels. The peer is
`sklearn.metrics.roc_auc_score`, the usual pixel AUROC; AU-PRO is compared with it, too. Ratios are
peer seconds / our seconds, from medians of alternating runs, so that a busy machine slows all of
them alike.
"""

import argparse
import json
import statistics
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from vtadl_jax import metrics
from vtadl_jax.benchmarks.timing import paired_seconds
from vtadl_jax.errors import UserError


def main(argv: list[str] | None = None) -> int:
    """Runs the comparison, prints a table and writes JSON where asked; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m vtadl_jax.benchmarks.metrics")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the results here")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each (default: 5)")
    args = parser.parse_args(argv)
    if args.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {args.repeats}")
    try:
        results = run(repeats=args.repeats)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(_table(results))
    text = json.dumps(results, indent=2) + "\n"
    if args.json:
        args.json.write_text(text, encoding="utf-8")
    else:
        print(text, end="")
    return 0


def run(repeats: int = 5, shape: tuple[int, int, int] = (20, 512, 512)) -> dict[str, Any]:
    """Takes medians of `repeats` alternating runs on maps of `shape` [N, H, W].

    Returns:
      shape, anomalous_share, repeats; rows: name -> seconds, ratio, value;
      auroc_difference; aupro_peak_extra (bytes beyond the arguments / bytes of the maps).

    Raises:
      UserError: scikit-learn is not installed.
    """
    roc_auc_score = _sklearn_roc_auc_score()
    maps, masks = smooth_maps(shape)
    peer = "sklearn roc_auc_score"
    candidates: dict[str, Callable[[], float]] = {
        peer: lambda: float(roc_auc_score(masks.ravel(), maps.ravel())),
        "vtadl_jax auroc": lambda: metrics.auroc(maps, masks),
        "vtadl_jax aupro 0.3": lambda: metrics.aupro(maps, masks),
        "vtadl_jax average_precision": lambda: metrics.average_precision(maps, masks),
    }
    values = {name: function() for name, function in candidates.items()}
    runs = paired_seconds(candidates, repeats)
    median = {name: statistics.median(seconds) for name, seconds in runs.items()}
    return {
        "shape": list(shape),
        "anomalous_share": float(masks.mean()),
        "repeats": repeats,
        "rows": {
            name: {
                "seconds": median[name],
                "ratio": median[peer] / median[name],
                "value": values[name],
            }
            for name in candidates
        },
        "auroc_difference": values["vtadl_jax auroc"] - values[peer],
        "aupro_peak_extra": _peak_bytes(lambda: metrics.aupro(maps, masks)) / maps.nbytes,
    }


def smooth_maps(shape: tuple[int, int, int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draws random maps float32 [N, H, W] and masks uint8 of blobs, about 3 % anomalous.

    The maps see the masks only through noise, so that the metrics are neither 0.5 nor 1. A fifth
    of the images stays normal.
    """
    rng = np.random.default_rng(seed)
    maps, masks = np.empty(shape, np.float32), np.zeros(shape, np.uint8)
    for i in range(shape[0]):
        noise = rng.standard_normal((2, *shape[1:]), dtype=np.float32)
        blobs = ndimage.gaussian_filter(noise[0], 16)
        if i % 5:
            masks[i] = blobs > np.quantile(blobs, 1 - 0.03 * 5 / 4)
        texture = ndimage.gaussian_filter(noise[1], 6)
        maps[i] = texture / texture.std() + 2 * ndimage.gaussian_filter(
            masks[i].astype(np.float32), 8
        )
    return maps, masks


def _sklearn_roc_auc_score() -> Callable[..., float]:
    try:
        from sklearn.metrics import roc_auc_score
    except ImportError as error:
        raise UserError(
            "scikit-learn is not installed: pip install 'vtadl_jax[bench]' for the comparison"
        ) from error
    return roc_auc_score


def _peak_bytes(function: Callable[[], object]) -> int:
    """Returns the peak of the memory that `function` allocates (numpy reports to tracemalloc)."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _table(results: dict[str, Any]) -> str:
    n, h, w = results["shape"]
    lines = [
        f"{n} maps of {h}x{w} float32, {results['anomalous_share']:.1%} anomalous, "
        f"median of {results['repeats']} alternating runs",
        f"{'':30}{'seconds':>10}{'ratio':>8}{'value':>13}",
    ]
    for name, row in results["rows"].items():
        lines.append(f"{name:30}{row['seconds']:10.4f}{row['ratio']:8.1f}{row['value']:13.9f}")
    lines.append(f"auroc difference {results['auroc_difference']:.1e}")
    lines.append(f"peak extra memory of aupro: {results['aupro_peak_extra']:.2f} x the maps")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
