"""Draws test images as they are scored: overlays, one contact sheet, cards of the page."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from vtadl_jax.config import Config
from vtadl_jax.data.records import Record
from vtadl_jax.detectors.contract import Scores
from vtadl_jax.errors import printable
from vtadl_jax.evaluation.calibration import Calibration
from vtadl_jax.report.cards import Card, EncodedCard, encode_card
from vtadl_jax.report.disagreement import Opinion, Panel
from vtadl_jax.report.folder import OVERLAYS, OVERVIEW
from vtadl_jax.report.marks import with_region
from vtadl_jax.report.names import file_names, flat_name
from vtadl_jax.report.picture_files import save_picture
from vtadl_jax.report.pictures import contact_sheet, overlay_row

SHEET_ROWS = 12
PAGE_CARDS = 2000  # images on the report page; of a larger set, some of every defect


class Gallery:
    """Collector of pictures: `add` every batch, then `finish`. out: a folder of `folder.draft`.

    weights: of the experts of a detector that combines several. overlays: the file of each test
    image, '' for one without. panel: counts where the experts disagree.
    """

    def __init__(
        self,
        out: Path,
        test: Sequence[Record],
        calib: Calibration,
        config: Config,
        weights: Mapping[str, float] | None = None,
    ):
        self._folder, self._out = out / OVERLAYS, out
        self._test, self._calib = test, calib
        limit = len(test) if config.eval.num_pictures < 0 else config.eval.num_pictures
        self._chosen = spread(test, limit)
        names = file_names([record.name.removeprefix("test/") for record in test], flat_name)
        self.overlays = [name if i in self._chosen else "" for i, name in enumerate(names)]
        self._on_sheet = spread(test, SHEET_ROWS)
        self._on_page = spread(test, PAGE_CARDS)
        self._rows: dict[int, Image.Image] = {}
        self._has_maps = False
        self.cards: list[EncodedCard] = []
        self.panel = Panel(weights, calib) if weights else None

    def add(self, batch: dict[str, np.ndarray], scores: Scores) -> None:
        """Draws the images of a batch that were chosen for the page, the sheet or an overlay."""
        values = self._calib.image_scores(scores.terms, batch["description"])
        low, high = self._calib.map_low, self._calib.map_high
        self._has_maps = scores.anomaly_map is not None
        for i, index in enumerate(batch["index"].tolist()):
            record = self._test[index]
            card = self._card(record, float(values[i]), batch, scores, i)
            if index in self._on_page:
                self.cards.append(encode_card(card, low, high))
            if index not in self._chosen and index not in self._on_sheet:
                continue
            row = overlay_row(
                card.image,
                card.anomaly_map,
                low=low,
                high=high,
                mask=card.mask,
                recon=card.recon,
                title=f"{printable(record.name)}   score {card.score:.2f}",
            )
            if index in self._chosen:
                save_picture(row, self._folder, self.overlays[index])
            if index in self._on_sheet:
                self._rows[index] = row

    def finish(self) -> None:
        """Writes the sheet, overview.png."""
        rows = [self._rows[i] for i in sorted(self._rows)]
        if rows:
            low, high = self._calib.map_low, self._calib.map_high
            sheet = contact_sheet(rows, low=low, high=high, has_maps=self._has_maps)
            save_picture(sheet, self._out, OVERVIEW)

    def _card(
        self, record: Record, score: float, batch: dict[str, np.ndarray], scores: Scores, i: int
    ) -> Card:
        """Returns image `i` of a batch as a card of the page."""
        inside = batch["inside"][i] if "inside" in batch else None
        opinions: list[Opinion] = []
        disagreement, maps = "", {}
        if self.panel is not None and scores.expert_maps is not None:
            maps = {name: found[i] for name, found in scores.expert_maps.items()}
            opinions, disagreement = self.panel.judge(scores.terms[i], maps, bool(record.label))
        return Card(
            name=printable(record.name.removeprefix("test/")),
            label=record.label,
            defect=printable(record.defect),
            score=score,
            terms=self._calib.by_name(scores.terms[i]),
            image=with_region(as_rgb(batch["image"][i]), inside),
            anomaly_map=None if scores.anomaly_map is None else scores.anomaly_map[i],
            mask=batch["mask"][i] if batch["has_mask"][i] else None,
            recon=None if scores.recon is None else as_rgb(scores.recon[i]),
            unlike=self._calib.reason(batch["description"][i]),
            p_value=self._calib.p_value(score),
            opinions=opinions,
            disagreement=disagreement,
            expert_maps=maps if disagreement else {},
        )


def as_rgb(image: np.ndarray) -> np.ndarray:
    """Repeats a grey channel: uint8 [H, W, 1 or 3] → [H, W, 3]."""
    return np.broadcast_to(image, (*image.shape[:2], 3))


def spread(records: Sequence[Record], limit: int) -> set[int]:
    """Returns the indices of at most `limit` records, spread evenly over the kinds of defect."""
    groups: dict[str, list[int]] = {}
    for i, record in enumerate(records):
        groups.setdefault(record.defect, []).append(i)
    chosen: set[int] = set()
    share, extra = divmod(min(limit, len(records)), max(len(groups), 1))
    for rank, members in enumerate(sorted(groups.values(), key=len)):
        take = min(len(members), share + (rank < extra))
        chosen.update(members[len(members) * j // take] for j in range(take))
    rest = [i for i in range(len(records)) if i not in chosen]
    missing = min(limit, len(records)) - len(chosen)
    chosen.update(rest[len(rest) * j // missing] for j in range(missing))
    return chosen
