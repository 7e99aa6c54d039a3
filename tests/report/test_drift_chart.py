"""Charts of drift: where the points, the limit and the change are."""

import re

import numpy as np
import pytest

from vtadl_jax.evaluation.drift import Alarm, Trace
from vtadl_jax.report import drift_chart as chart

ALARM = Alarm("contrast", since=50, at=70, larger=False, before=2.0, after=1.0)


def trace_of(count=100, limit=3.0):
    values = [2.0] * 50 + [1.0] * (count - 50)
    evidence = np.linspace(0, 6, count).tolist()
    return Trace("contrast", 2.0, limit, list(range(count)), values, evidence)


def lines(svg, kind):
    found = re.findall(rf'<line class="{kind}" x1="(\S+)" y1="(\S+)" x2="(\S+)" y2="(\S+)"', svg)
    return [tuple(map(float, each)) for each in found]


def test_points_lie_where_the_images_are():
    svg = chart.drift_chart(trace_of(), 100, None)
    points = [(float(a), float(b)) for a, b in re.findall(r'cx="(\S+)" cy="(\S+)"', svg)]
    assert len(points) == 100
    assert points[0][0] == pytest.approx(chart.LEFT, abs=0.06)
    assert points[-1][0] == pytest.approx(chart.WIDTH - chart.RIGHT, abs=0.06)
    ((_, median, *_),) = lines(svg, "axis dashed")
    assert {y for _, y in points[:50]} == {median}
    assert {y > median for _, y in points[50:]} == {True}  # smaller is lower
    assert 'class="called"' not in svg


def test_the_evidence_crosses_the_limit_where_it_reaches_it():
    svg = chart.drift_chart(trace_of(), 100, ALARM)
    ((_, limit, *_),) = lines(svg, "cut dashed")
    path = re.search(r'<polyline class="line" points="([^"]*)"', svg)[1]
    heights = [float(point.split(",")[1]) for point in path.split()]
    assert [y <= limit for y in heights] == [e >= 3 for e in trace_of().evidence]
    start = float(re.search(r'class="called" x="(\S+)"', svg)[1])
    inner = chart.WIDTH - chart.RIGHT - chart.LEFT
    assert start == pytest.approx(chart.LEFT + inner * 50 / 99, abs=0.06)


def test_many_images_are_thinned_and_few_are_drawn():
    assert chart.drift_chart(trace_of(20_000), 20_000, None).count("<circle") == chart.MOST_POINTS
    for count in (1, 2):
        one = Trace("score", 0.0, 2.0, list(range(count)), [1.0] * count, [0.1] * count)
        assert chart.drift_chart(one, count, None).count("<circle") == count


def test_the_caption_says_what_changed_and_is_escaped():
    told = chart.drift_figure(trace_of(), 100, ALARM, "<part>")
    assert "since &lt;part&gt; the images are flatter (contrast 1, before 2)" in told
    assert "no change; median 1.5, good images 2" in chart.drift_figure(trace_of(), 100, None, "")
    empty = chart.drift_figure(Trace("score", 0.0, 2.0), 0, None, "")
    assert "no image to follow" in empty
    assert "<svg" not in empty


def test_a_few_images_have_no_chart():
    few = Trace("score", 0.0, 2.0, [0, 3], [1.0, 1.0], [0.1, 0.1])
    told = chart.drift_figure(few, 12, None, "")
    assert "2 images that count, too few for a chart" in told
    assert "<svg" not in told
