"""Writes `report.html`: one self-contained file with the results, which opens offline.

The file holds pictures as data URLs, one style sheet, one script, and a content security policy
that blocks everything else. This module fills the template; `head.html`, `page.html`, `page.css`,
`common.js` and `page.js` define layout and behaviour, `cards.py` makes the pictures and
`charts.py` the curves.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from vtadl_jax.report.cards import Card, EncodedCard, colour_bar, encode_card
from vtadl_jax.report.charts import line_chart
from vtadl_jax.report.template import as_json, figure, filled, number, parts, policy, table
from vtadl_jax.runtime.files import replacing

__all__ = ["Card", "Curve", "EncodedCard", "Report", "encode_card", "write_page"]


@dataclasses.dataclass(frozen=True)
class Curve:
    """ROC, PR or PRO curve: x, y float [N] in [0, 1]; a PRO curve ends at its FPR limit.

    summary: text below the name, the area.
    """

    name: str
    x_label: str
    y_label: str
    x: NDArray[Any]
    y: NDArray[Any]
    summary: str


@dataclasses.dataclass(frozen=True)
class Report:
    """Content of the page, from top to bottom; empty sections are omitted.

    summary: (name, value, one line of explanation); map_low, map_high: the colour scale of the
    cards; threshold: images with score >= threshold are defective; threshold_note: its source;
    training: name → (steps [N], values [N]); tables: (title, header, rows). notice: what limits the
    figures, above them; '' for nothing. experts: a sentence on where several experts disagree; ''
    for a detector without any.
    """

    title: str
    subtitle: str
    summary: Sequence[tuple[str, str, str]]
    cards: Sequence[EncodedCard]
    map_low: float
    map_high: float
    threshold: float
    threshold_note: str
    curves: Sequence[Curve]
    training: Mapping[str, tuple[Any, Any]]
    tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[Any]]]]
    config_text: str
    versions: Mapping[str, str]
    notice: str = ""
    experts: str = ""


def write_page(path: Path, report: Report) -> None:
    """Writes the page to `path`, whole or not at all.

    Raises:
      ValueError: a threshold or a colour scale that is not finite.
      UserError: the file can't be written.
    """
    for name in ("threshold", "map_low", "map_high"):
        if not math.isfinite(getattr(report, name)):
            raise ValueError(f"{name} must be finite, got {getattr(report, name)}")
    # File names that are not UTF-8 contain lone surrogates, which cannot be encoded.
    with replacing(path, "w", errors="replace", newline="\n") as f:
        _write(f, report)


def _write(f: IO[str], report: Report) -> None:
    html, css, js = parts("page")
    empty = {
        "no_cards": not report.cards,
        "no_heat": all(card.heat is None for card in report.cards),
        "no_notice": not report.notice,
        "no_summary": not report.summary,
        "no_experts": not report.experts,
        "no_curves": not report.curves,
        "no_training": not report.training,
    }
    values = {
        "csp": policy(css, js),
        "css": css,
        "js": js,
        "title": escape(report.title),
        "subtitle": escape(report.subtitle),
        "notice": escape(report.notice),
        "experts": escape(report.experts),
        "summary": "".join(figure(*item) for item in report.summary),
        "threshold_note": escape(report.threshold_note),
        "curves": "".join(_curve(curve) for curve in report.curves),
        "training": "".join(_training(name, *xy) for name, xy in report.training.items()),
        "tables": "".join(table(*each) for each in report.tables),
        "config": escape(report.config_text),
        "versions": "".join(
            f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in report.versions.items()
        ),
        "map_low": f"{report.map_low:.4g}",
        "map_middle": f"{report.map_low / 2 + report.map_high / 2:.4g}",
        "map_high": f"{report.map_high:.4g}",
        "colour_bar": colour_bar(),
        "data": as_json(_numbers(report)),
    } | {name: "hidden" if absent else "" for name, absent in empty.items()}
    head, tail = html.split("{{ cards }}")
    f.write(filled(head, values))
    for i, card in enumerate(report.cards):
        pictures = {k: getattr(card, k) for k in ("image", "heat", "outline", "recon")}
        pictures |= {"experts": card.experts} if card.experts else {}
        f.write(f'<script type="application/json" id="card-{i}">{as_json(pictures)}</script>\n')
    f.write(filled(tail, values))


def _numbers(report: Report) -> dict[str, Any]:
    """Returns the numbers for sorting, filtering and counting; the pictures follow one by one."""
    shown = ("name", "defect", "width", "height", "has_truth", "unlike", "p_value")
    return {
        "threshold": float(report.threshold),
        "cards": [
            {key: getattr(card, key) for key in shown}
            | {
                "label": int(bool(card.label)),
                "score": number(card.score),
                "terms": {k: number(v) for k, v in card.terms.items()},
            }
            | _opinions(card)
            for card in report.cards
        ],
    }


def _opinions(card: EncodedCard) -> dict[str, Any]:
    """Returns what the experts say about an image, nothing for a detector without any."""
    if not card.opinions:
        return {}
    every = [dataclasses.asdict(one) | {"score": number(one.score)} for one in card.opinions]
    return {"opinions": every, "disagreement": card.disagreement}


def _curve(curve: Curve) -> str:
    labels = {"x_label": curve.x_label, "y_label": curve.y_label, "name": curve.name}
    return (
        f"<figure><figcaption><b>{escape(curve.name)}</b> <span>{escape(curve.summary)}</span>"
        f"</figcaption>{line_chart(curve.x, curve.y, unit=True, **labels)}</figure>"
    )


def _training(name: str, steps: Any, values: Any) -> str:
    values = np.asarray(values, np.float64)
    last = f"last {values[-1]:.4g}" if values.size else "no values"
    chart = line_chart(steps, values, x_label="step", y_label="", name=name)
    return (
        f"<figure><figcaption><b>{escape(name)}</b> <span>{last}</span></figcaption>{chart}"
        "</figure>"
    )
