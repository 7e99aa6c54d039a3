"""Writes `report.html` of a prediction: decisions, drift, groups, and images that a person sorts.

One file that opens offline, in the manner of `page.py`. Its cards are encoded as images are scored.
"""

import dataclasses
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vtadl_jax.data.sorted_images import KIND, checksum
from vtadl_jax.errors import printable
from vtadl_jax.evaluation.calibration import Calibration
from vtadl_jax.evaluation.drift import Alarm, DriftMonitor
from vtadl_jax.evaluation.predictor import Prediction
from vtadl_jax.report.cards import Card, EncodedCard, colour_bar, encode_card
from vtadl_jax.report.drift_chart import drift_figure
from vtadl_jax.report.groups import Groups
from vtadl_jax.report.template import as_json, figure, filled, number, parts, policy, table
from vtadl_jax.runtime.files import replacing
from vtadl_jax.runtime.text_table import plural

PAGE = "report.html"
MOST_DEFECTIVE = 1000  # images on the page
MOST_GOOD = 200  # of those that are called good, spread over the sequence


@dataclasses.dataclass
class Sheet:
    """The cards of the page so far. total: images that will come; root: of their names."""

    root: Path
    total: int
    calibration: Calibration
    cards: list[tuple[EncodedCard, bool, str]] = dataclasses.field(default_factory=list)
    digests: list[str] = dataclasses.field(default_factory=list)
    num_defective: int = 0
    num_good: int = 0

    def wants(self, is_defective: bool) -> bool:
        """Counts an image, and returns whether it is shown: defective ones, and some good ones."""
        if is_defective:
            self.num_defective += 1
            return self.num_defective <= MOST_DEFECTIVE
        self.num_good += 1
        return (self.num_good - 1) % max(-(-self.total // MOST_GOOD), 1) == 0

    def add(self, path: Path, name: str, photo: np.ndarray, prediction: Prediction) -> None:
        """Adds an image if it is shown. photo: uint8 [h, w, 3], reduced."""
        if not self.wants(prediction.is_defective):
            return
        heat = prediction.anomaly_map
        if heat is not None and heat.shape != photo.shape[:2]:
            size = photo.shape[1], photo.shape[0]
            heat = np.asarray(Image.fromarray(heat).resize(size, Image.Resampling.BILINEAR))
        card = Card(
            name=printable(name),
            label=0,
            defect="",
            score=prediction.score,
            terms={},
            image=photo,
            anomaly_map=heat,
            mask=None,
            recon=None,
            unlike=prediction.unlike_training,
            p_value=prediction.p_value,
        )
        low, high = self.calibration.map_low, self.calibration.map_high
        self.cards.append((encode_card(card, low, high), prediction.is_defective, name))
        try:
            self.digests.append(checksum(path))
        except OSError:  # it went away after it was scored; `update` will miss it
            self.digests.append("")


def write_prediction_page(
    out: Path,
    sheet: Sheet,
    run: str,
    threshold: float,
    counts: tuple[int, int, int],
    drift: DriftMonitor | None = None,
    alarms: Sequence[tuple[Alarm, str]] = (),
    groups: Groups | None = None,
) -> None:
    """Writes the page.

    run: name of the model. counts: images scored, defective ones, and those left out. alarms: with
    the names of the images since which. Raises UserError if it can't be written.
    """
    scored, defective, left_out = counts
    html, css, js = parts("prediction")
    figures = [
        ("images", str(scored), "have a score"),
        ("defective", str(defective), f"{_percent(defective, scored)} at or above {threshold:.4g}"),
        ("good", str(scored - defective), "below the threshold"),
    ]
    if left_out:
        figures.append(("left out", str(left_out), "have no score; left_out.csv names them"))
    calibration = sheet.calibration
    notices = [f"Drift: {alarm.sentence(printable(name))}." for alarm, name in alarms]
    charts = _drift(drift, alarms) if drift is not None else ""
    values = {
        "csp": policy(css, js),
        "css": css,
        "js": js,
        "title": escape(f"Prediction by {printable(run)}"),
        "subtitle": escape(_subtitle(sheet, scored)),
        "notice": escape(" ".join(notices)),
        "summary": "".join(figure(*each) for each in figures),
        "drift": charts,
        "tables": _groups(groups),
        "map_low": f"{calibration.map_low:.4g}",
        "map_middle": f"{calibration.map_low / 2 + calibration.map_high / 2:.4g}",
        "map_high": f"{calibration.map_high:.4g}",
        "colour_bar": colour_bar(),
        "data": as_json(_data(sheet, run, scored, groups)),
        "no_notice": "" if notices else "hidden",
        "no_summary": "",
        "no_drift": "" if charts else "hidden",
        "no_cards": "" if sheet.cards else "hidden",
        "no_heat": "" if any(card.heat for card, *_ in sheet.cards) else "hidden",
    }
    head, tail = html.split("{{ cards }}")
    with replacing(out / PAGE, "w", errors="replace", newline="\n") as file:
        file.write(filled(head, values))
        for i, (card, *_) in enumerate(sheet.cards):
            pictures = as_json({"image": card.image, "heat": card.heat})
            file.write(f'<script type="application/json" id="card-{i}">{pictures}</script>\n')
        file.write(filled(tail, values))


def _subtitle(sheet: Sheet, scored: int) -> str:
    missing = sheet.num_defective - sum(defective for _, defective, _ in sheet.cards)
    beyond = f"; {missing} defective ones are in predictions.csv only" if missing else ""
    good = sum(not defective for _, defective, _ in sheet.cards)
    part_of = "" if good == sheet.num_good else f", {good} of {sheet.num_good} good ones on it"
    return (
        f"{plural(scored, 'image')} of {printable(sheet.root.name or sheet.root)}{part_of}{beyond}"
    )


def _percent(count: int, whole: int) -> str:
    return f"{100 * count / whole:.1f} %" if whole else "none"


def _drift(drift: DriftMonitor, alarms: Sequence[tuple[Alarm, str]]) -> str:
    """Returns the charts of all quantities, those that changed first."""
    named = {alarm.quantity: (alarm, printable(name)) for alarm, name in alarms}
    traces = sorted(drift.traces.values(), key=lambda trace: trace.quantity not in named)
    return "".join(
        drift_figure(trace, drift.count, *named.get(trace.quantity, (None, ""))) for trace in traces
    )


def _groups(groups: Groups | None) -> str:
    """Returns the table of counts by group, '' without groups."""
    if groups is None:
        return ""
    header = ["station", groups.period, "images", "defective", "share", "left out"]
    rows = [
        [
            printable(row["station"]) or "not known",
            row["period"] or "not known",
            str(row["images"]),
            str(row["defective"]),
            "–" if row["share"] is None else f"{100 * row['share']:.1f} %",
            str(row["left_out"]),
        ]
        for row in groups.rows()
    ]
    return table("By station and time", header, rows)


def _data(sheet: Sheet, run: str, scored: int, groups: Groups | None) -> dict[str, Any]:
    """Returns what the script reads: the numbers of the cards, and where their files are."""

    def group(name: str) -> str:
        return "" if groups is None else " ".join(map(printable, filter(None, groups.key(name))))

    rows = [
        {
            "name": card.name,
            "file": name,
            "sha256": digest,
            "score": number(card.score),
            "defective": bool(defective),
            "width": card.width,
            "height": card.height,
            "unlike": card.unlike,
            "p_value": card.p_value,
            "group": group(name),
        }
        for (card, defective, name), digest in zip(sheet.cards, sheet.digests, strict=True)
    ]
    place = {"root": str(sheet.root.resolve()), "run": run}
    return {"kind": KIND, "total": scored, **place, "cards": rows}
