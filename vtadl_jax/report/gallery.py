"""Pictures of test images, made as they are scored: overlays, one sheet, cards of the page."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from vtadl_jax.calibration import Calibration
from vtadl_jax.data.records import Record
from vtadl_jax.models.detector import Scores
from vtadl_jax.report.cards import Card, EncodedCard, encode_card
from vtadl_jax.report.pictures import contact_sheet, overlay_row

SHEET_ROWS = 12
PAGE_CARDS = 2000  # images on the report page; of a larger set, some of every defect


class Gallery:
    """`add` every batch, then `finish`. Old overlays in the folder are removed first."""

    def __init__(self, out: Path, test: Sequence[Record], calib: Calibration, config: ConfigDict):
        self._folder, self._out = out / "overlays", out
        self._folder.mkdir(parents=True, exist_ok=True)
        for old in self._folder.glob("*.png"):
            old.unlink()
        self._test, self._calib = test, calib
        limit = len(test) if config.eval.num_pictures < 0 else config.eval.num_pictures
        self._chosen = spread(test, limit)
        self._on_sheet = spread(test, SHEET_ROWS)
        self._on_page = spread(test, PAGE_CARDS)
        self._rows: dict[int, Image.Image] = {}
        self.cards: list[EncodedCard] = []

    def add(self, batch: dict, scores: Scores) -> None:
        values = self._calib.image_scores(scores.terms)
        low, high = self._calib.map_low, self._calib.map_high
        for i, index in enumerate(batch["index"].tolist()):
            record, recon = self._test[index], scores.recon[i]
            card = Card(
                name=record.name.removeprefix("test/"),
                label=record.label,
                defect=record.defect,
                score=float(values[i]),
                terms=dict(zip(self._calib.terms, map(float, scores.terms[i]), strict=True)),
                image=as_rgb(batch["image"][i]),
                anomaly_map=scores.anomaly_map[i],
                mask=batch["mask"][i] if batch["has_mask"][i] else None,
                recon=as_rgb(recon) if recon.size else None,
            )
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
                title=f"{record.name}   score {values[i]:.2f}",
            )
            if index in self._chosen:
                name = record.name.removeprefix("test/").replace("/", "_")
                row.save(self._folder / f"{Path(name).stem}.png")
            if index in self._on_sheet:
                self._rows[index] = row

    def finish(self) -> None:
        rows = [self._rows[i] for i in sorted(self._rows)]
        if rows:
            sheet = contact_sheet(rows, low=self._calib.map_low, high=self._calib.map_high)
            sheet.save(self._out / "overview.png")


def as_rgb(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 1 or 3] → [H, W, 3]."""
    return np.broadcast_to(image, (*image.shape[:2], 3))


def spread(records: Sequence[Record], limit: int) -> set[int]:
    """Indices of at most `limit` records, taken in turn from every defect kind, evenly inside."""
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
