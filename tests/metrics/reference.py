"""The metrics from their definitions: loops over distinct thresholds, Python numbers, no tricks.

Slow on purpose. Tests compare `vtadl_jax.metrics` with these; nothing else should import them.
"""

import itertools

import numpy as np


def counts(scores, labels):
    """(threshold, tp, fp) at every distinct score, descending."""
    scores, labels = np.ravel(scores), np.ravel(labels).astype(bool)
    points = []
    for threshold in sorted({float(s) for s in scores}, reverse=True):
        predicted = scores >= threshold
        points.append(
            (threshold, int((predicted & labels).sum()), int((predicted & ~labels).sum()))
        )
    return points


def auroc(scores, labels):
    """Fraction of (positive, negative) pairs in the right order, ties counted half."""
    scores, labels = np.ravel(scores), np.ravel(labels).astype(bool)
    wins = 0.0
    for p, n in itertools.product(scores[labels], scores[~labels]):
        wins += 1.0 if p > n else 0.5 if p == n else 0.0
    return wins / (labels.sum() * (~labels).sum())


def average_precision(scores, labels):
    total, recall, positives = 0.0, 0.0, np.sum(labels)
    for _, tp, fp in counts(scores, labels):
        total += (tp / positives - recall) * tp / (tp + fp)
        recall = tp / positives
    return total


def pr_auc(scores, labels):
    total, recall, precision, positives = 0.0, 0.0, 1.0, np.sum(labels)
    for _, tp, fp in counts(scores, labels):
        here = tp / (tp + fp)
        total += (tp / positives - recall) * (here + precision) / 2
        recall, precision = tp / positives, here
    return total


def f1_max(scores, labels):
    """Best F1 and the thresholds that reach it."""
    positives = np.sum(labels)
    f1 = {t: 2 * tp / (tp + fp + positives) for t, tp, fp in counts(scores, labels)}
    return max(f1.values()), {t for t, v in f1.items() if v == max(f1.values())}


def balanced_accuracy_max(scores, labels):
    """Best (TPR + TNR) / 2 and the thresholds that reach it (within rounding)."""
    positives = np.sum(labels)
    negatives = np.size(labels) - positives
    value = {t: (tp / positives + 1 - fp / negatives) / 2 for t, tp, fp in counts(scores, labels)}
    best = max(value.values())
    return best, {t for t, v in value.items() if abs(v - best) < 1e-12}


def youden_accuracy(scores, labels):
    """Accuracy where TPR - FPR is largest, and that threshold; no positive decision at infinity."""
    positives = np.sum(labels)
    negatives = np.size(labels) - positives
    points = [(np.inf, 0, 0), *sorted(counts(scores, labels), reverse=True)]
    gains = [tp * negatives - fp * positives for _, tp, fp in points]
    threshold, tp, fp = points[gains.index(max(gains))]
    return (tp + negatives - fp) / np.size(labels), threshold


def regions(mask):
    """8-connected components by flood fill: a list of lists of (row, column)."""
    left = {(int(r), int(c)) for r, c in zip(*np.nonzero(mask), strict=True)}
    found = []
    while left:
        queue, region = [left.pop()], []
        while queue:
            r, c = queue.pop()
            region.append((r, c))
            for n in itertools.product((r - 1, r, r + 1), (c - 1, c, c + 1)):
                if n in left:
                    left.remove(n)
                    queue.append(n)
        found.append(region)
    return found


def pro_curve(maps, masks):
    """[(fpr, pro, threshold)] from (0, 0, inf), a point for every distinct score, descending."""
    background = [float(s) for m, k in zip(maps, masks, strict=True) for s in m[k == 0]]
    pooled = [
        [float(m[p]) for p in region]
        for m, k in zip(maps, masks, strict=True)
        for region in regions(k)
    ]
    scores = sorted(set(background).union(*pooled), reverse=True)
    curve = [(0.0, 0.0, np.inf)]
    for t in scores:
        fpr = sum(s >= t for s in background) / len(background)
        overlaps = [sum(s >= t for s in region) / len(region) for region in pooled]
        curve.append((fpr, sum(overlaps) / len(overlaps), t))
    return curve


def aupro(maps, masks, fpr_limit):
    """Trapezoid under the curve up to the limit, interpolated there, divided by the limit."""
    area = 0.0
    for (x0, y0, _), (x1, y1, _) in itertools.pairwise(pro_curve(maps, masks)):
        if x0 >= fpr_limit or x1 == x0:
            continue
        end = min(x1, fpr_limit)
        y_end = y0 + (y1 - y0) * (end - x0) / (x1 - x0)
        area += (end - x0) * (y0 + y_end) / 2
    return area / fpr_limit


def au_spro(maps, regions, fpr_limit):
    """Area under the saturated curve; regions: of each image, pairs (mask, saturation)."""
    background, pooled = [], []
    for scores, here in zip(maps, regions, strict=True):
        covered = np.zeros(scores.shape, bool)
        for mask, saturation in here:
            covered |= mask.astype(bool)
            values = [float(s) for s in scores[mask.astype(bool)]]
            pooled.append((values, min(saturation, len(values))))
        background += [float(s) for s in scores[~covered]]
    curve = [(0.0, 0.0)]
    for t in sorted(set(background).union(*(values for values, _ in pooled)), reverse=True):
        found = [min(sum(v >= t for v in values) / enough, 1) for values, enough in pooled]
        fpr = sum(b >= t for b in background) / len(background)
        curve.append((fpr, sum(found) / len(found)))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(curve):
        if x0 < fpr_limit and x1 > x0:
            end = min(x1, fpr_limit)
            area += (end - x0) * (2 * y0 + (y1 - y0) * (end - x0) / (x1 - x0)) / 2
    return area / fpr_limit


def roc_curve(scores, labels):
    """[(fpr, tpr, threshold)] from (0, 0, inf)."""
    pos = np.sum(labels)
    neg = np.size(labels) - pos
    return [(0.0, 0.0, np.inf)] + [(fp / neg, tp / pos, t) for t, tp, fp in counts(scores, labels)]


def pr_curve(scores, labels):
    """[(recall, precision, threshold)] from (0, 1, inf)."""
    pos = np.sum(labels)
    points = [(tp / pos, tp / (tp + fp), t) for t, tp, fp in counts(scores, labels)]
    return [(0.0, 1.0, np.inf), *points]


def distance_to_polyline(point, line):
    """Smallest distance from a point to any segment of a polyline [(x, y)]."""
    best = np.inf
    for (x0, y0), (x1, y1) in itertools.pairwise([*line, line[-1]]):
        length2 = (x1 - x0) ** 2 + (y1 - y0) ** 2
        along = 0.0
        if length2:
            along = ((point[0] - x0) * (x1 - x0) + (point[1] - y0) * (y1 - y0)) / length2
            along = min(max(along, 0.0), 1.0)
        best = min(
            best, np.hypot(point[0] - x0 - along * (x1 - x0), point[1] - y0 - along * (y1 - y0))
        )
    return best


def decisions(scores, labels, threshold):
    """(tp, fp, fn, tn), one score at a time."""
    tp = fp = fn = tn = 0
    for score, label in zip(np.ravel(scores).tolist(), np.ravel(labels).tolist(), strict=True):
        if score >= threshold:
            tp, fp = tp + bool(label), fp + (not label)
        else:
            fn, tn = fn + bool(label), tn + (not label)
    return tp, fp, fn, tn


def region_table(maps, masks, threshold):
    """[(image, area, largest score, overlap)] of every region."""
    rows = []
    for i, (scores, mask) in enumerate(zip(maps, masks, strict=True)):
        for region in regions(mask):
            values = [float(scores[pixel]) for pixel in region]
            overlap = sum(v >= threshold for v in values) / len(values)
            rows.append((i, len(region), max(values), overlap))
    return rows


def percentile(values, share):
    """Linear between the order statistics: rank share * (n - 1)."""
    values = sorted(values)
    rank = share * (len(values) - 1)
    low = int(np.floor(rank))
    high = min(low + 1, len(values) - 1)
    return values[low] + (rank - low) * (values[high] - values[low])
