"""Counts images by where and when they were taken, as a table or their names tell."""

import csv
import dataclasses
import datetime
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vtadl_jax.errors import UserError, printable
from vtadl_jax.report.names import cell
from vtadl_jax.runtime.files import replacing, write_json

COLUMNS = ("file", "time", "station")
PERIODS = {"hour": 13, "day": 10, "month": 7}  # characters of a time in ISO 8601 that stay
NAMED = 5
COUNTED = ("station", "period", "images", "defective", "share", "left_out")


@dataclasses.dataclass(frozen=True)
class Taken:
    """Where and when an image was taken; time: None if it is not known."""

    station: str = ""
    time: datetime.datetime | None = None

    def period(self, kind: str) -> str:
        """Returns the hour, day or month, as '2026-11-29'; '' if the time is not known."""
        if self.time is None:
            return ""
        return self.time.isoformat(" ")[: PERIODS[kind]] + (":00" if kind == "hour" else "")


def read_meta(path: Path) -> dict[str, Taken]:
    """Returns name → where and when, of a CSV with the columns file, time and station.

    time or station may be missing; times are ISO 8601. Raises UserError that names the line.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            names = reader.fieldnames or []
            if "file" not in names or not {"time", "station"} & set(names):
                raise UserError(
                    f"--meta {printable(path)} has the columns {', '.join(map(printable, names))}: "
                    f"give file, and time or station or both"
                )
            found: dict[str, Taken] = {}
            for row in reader:
                where = f"--meta {printable(path)} line {reader.line_num}"
                name = (row["file"] or "").strip().replace("\\", "/").removeprefix("./")
                if not name or name in found:
                    fault = f"{printable(name)} is there twice" if name else "no file"
                    raise UserError(f"{where}: {fault}: give each file once")
                found[name] = Taken((row.get("station") or "").strip(), _time(row, where))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"--meta {printable(path)} can't be read ({error})") from error
    return found


def _time(row: Mapping[str, Any], where: str) -> datetime.datetime | None:
    given = (row.get("time") or "").strip()
    return read_time(given, where) if given else None


def read_time(given: str, where: str) -> datetime.datetime:
    """Returns a time without its zone, as the clock of the station showed it. Raises UserError."""
    try:
        return datetime.datetime.fromisoformat(given).replace(tzinfo=None)
    except ValueError as error:
        raise UserError(
            f"{where}: time {given!r} is not understood: write it as 2026-11-29T06:30:00"
        ) from error


def by_pattern(pattern: str, names: Sequence[str]) -> dict[str, Taken]:
    """Returns name → where and when, of the names that a regular expression finds.

    It has a group `station`, a group `time` (digits or ISO 8601) or both. Raises UserError.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"--meta_pattern {pattern!r} is no regular expression ({error})") from error
    if not {"station", "time"} & set(compiled.groupindex):
        raise UserError(
            f"--meta_pattern {pattern!r} has no group: use for example "
            f"'(?P<station>cam\\d)_(?P<time>\\d{{8}}T\\d{{6}})'"
        )
    found = {}
    for name in names:
        if match := compiled.search(name):
            groups = match.groupdict()
            time = groups.get("time")
            where = f"--meta_pattern: {printable(name)}"
            taken = read_time(time.replace("_", "T"), where) if time else None
            found[name] = Taken(groups.get("station") or "", taken)
    return found


@dataclasses.dataclass
class Groups:
    """Counts of images by station and period. taken: by the name of an image."""

    taken: Mapping[str, Taken]
    period: str = "day"
    images: Counter[tuple[str, str]] = dataclasses.field(default_factory=Counter)
    defective: Counter[tuple[str, str]] = dataclasses.field(default_factory=Counter)
    left_out: Counter[tuple[str, str]] = dataclasses.field(default_factory=Counter)

    def key(self, name: str) -> tuple[str, str]:
        """Returns (station, period) of an image, '' for what is not known."""
        taken = self.taken.get(name, Taken())
        return taken.station, taken.period(self.period)

    def add(self, name: str, is_defective: bool) -> None:
        """Counts an image that has a score."""
        self.images[self.key(name)] += 1
        self.defective[self.key(name)] += is_defective

    def skip(self, name: str) -> None:
        """Counts an image that was left out."""
        self.left_out[self.key(name)] += 1

    def rows(self) -> list[dict[str, Any]]:
        """Returns the counts of each group, by period and station."""
        keys = sorted({*self.images, *self.left_out}, key=lambda key: (key[1], key[0]))
        return [
            {
                "station": key[0],
                "period": key[1],
                "images": self.images[key],
                "defective": self.defective[key],
                "share": self.defective[key] / self.images[key] if self.images[key] else None,
                "left_out": self.left_out[key],
            }
            for key in keys
        ]

    def save(self, folder: Path) -> None:
        """Writes groups.csv and groups.json."""
        rows = self.rows()
        with replacing(folder / "groups.csv", "w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(COUNTED)
            for row in rows:
                share = "" if row["share"] is None else f"{row['share']:.6g}"
                about = cell(row["station"]), row["period"], row["images"], row["defective"]
                writer.writerow((*about, share, row["left_out"]))
        write_json(folder / "groups.json", {"format": 1, "by": self.period, "groups": rows})

    def notes(self, names: Sequence[str]) -> list[str]:
        """Returns lines on images without a row, and on rows without an image."""
        known, lines = set(names), []
        without = [name for name in names if name not in self.taken]
        for found, what in (
            (without, "images have no time and station"),
            ([name for name in self.taken if name not in known], "rows of --meta have no image"),
        ):
            if found:
                more = f" and {len(found) - NAMED} more" if found[NAMED:] else ""
                named = ", ".join(map(printable, found[:NAMED]))
                lines.append(f"note: {len(found)} {what}: {named}{more}")
        return lines
