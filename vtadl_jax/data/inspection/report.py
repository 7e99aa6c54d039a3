"""Report on raw images or prepared records before training: their contents and faults.

`looks` lists and decodes; here is what follows from all of it, and the report. Writes nothing.
"""

import contextlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from vtadl_jax.data import manifest as manifests
from vtadl_jax.data.archives import is_archive
from vtadl_jax.data.builders.base import LayoutBuilder
from vtadl_jax.data.builders.build import check_source, choose
from vtadl_jax.data.builders.survey import NoDataSet, Progress, find_root, silent
from vtadl_jax.data.depth import bits_warning
from vtadl_jax.data.files import list_entries
from vtadl_jax.data.formats import EXTENSIONS
from vtadl_jax.data.inspection.statistics import (
    Issue,
    Item,
    Look,
    list_items,
    list_plain_items,
    look_at,
    stem_issues,
)
from vtadl_jax.errors import UserError

SHOWN = 10  # printed lines per kind; the JSON file has all


@dataclass
class CategoryReport:
    """Report on a category: images by split and defect, by size and mode, masks and issues."""

    category: str
    masks: int = 0
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    issues: list[Issue] = field(default_factory=list)

    def total(self) -> str:
        """Returns the numbers of good and of defective images and of masks, in words."""
        good = sum(kinds.get("good", 0) for kinds in self.counts.values())
        every = sum(sum(kinds.values()) for kinds in self.counts.values())
        return f"{every} images, {good} good, {every - good} defective, {self.masks} masks"


@dataclass
class Report:
    """Reports on categories, or on folders of records."""

    where: str
    categories: list[CategoryReport]

    @property
    def errors(self) -> list[Issue]:
        return [issue for c in self.categories for issue in c.issues if issue.error]

    def as_dict(self) -> dict[str, Any]:
        return {"clean": not any(c.issues for c in self.categories), **asdict(self)}

    def text(self) -> str:
        """Returns the report as text for the terminal."""
        lines = [self.where]
        for category in self.categories:
            lines += ["", category.category]
            for split, kinds in category.counts.items():
                parts = ", ".join(f"{kind} {count}" for kind, count in kinds.items())
                lines.append(f"  {split}: {sum(kinds.values())} ({parts})")
            lines.append(f"  total: {category.total()}")
            kinds_of_images = list(category.images.items())
            lines += [f"  {kind}: {count} images" for kind, count in kinds_of_images[:SHOWN]]
            if len(kinds_of_images) > SHOWN:
                lines.append(f"  … {len(kinds_of_images)} sizes and modes in all, see --json")
            lines += _format_issues(category.issues)
        num_errors = len(self.errors)
        num_warnings = sum(len(c.issues) for c in self.categories) - num_errors
        found = f"errors: {num_errors}, warnings: {num_warnings}"
        lines += ["", found if num_errors + num_warnings else "no faults found"]
        return "\n".join(lines)


def inspect_source(
    builder: type[LayoutBuilder],
    source: Path,
    categories: Sequence[str] = (),
    progress: Progress = silent,
    size: tuple[int, int] | None = None,
    bad: str = "",
    masks: str = "",
) -> Report:
    """Decodes all images and masks of categories (by default all) below `source`.

    source: a data set in a layout of the builder; for `ImageFolders` also a plain folder of good
    images, with folders of defective ones, `bad`, and of their `masks`, as training takes them.
    size: (height, width) of the network, to count regions that are too thin for it. Raises
    UserError if there is no data set or no such category.
    """
    if is_archive(source):
        raise UserError(f"--check reads folders, not {source}: unpack it, or prepare it")
    try:
        root = find_root(check_source(builder, source), builder.LAYOUTS)
    except NoDataSet as error:
        if not builder.PLAIN:
            raise
        return _inspect_plain(source, categories, progress, size, bad, masks, error)
    if bad or masks:
        raise UserError(f"--bad and --masks are for a plain folder, but {root.path} has a layout")
    reports = []
    for category in choose(root, categories):
        report = CategoryReport(category)
        items = list_items(root.layout, root.folder(category), report.issues)
        _inspect(report, items, progress, size)
        if category in builder.COUNTS:
            report.issues += _count_issues(report, builder.COUNTS[category])
        reports.append(report)
    return Report(str(root.path), reports)


def _inspect_plain(
    source: Path,
    categories: Sequence[str],
    progress: Progress,
    size: tuple[int, int] | None,
    bad: str,
    masks: str,
    error: UserError,
) -> Report:
    """Inspects folders that hold good images only. Raises `error` for one without images."""
    reports = []
    for name in categories or [""]:
        base = source / name
        if not _has_images(base):
            inside = [e.name for e in list_entries(base) if e.is_dir() and _has_images(e)]
            hint = f"; images are in its folders {', '.join(inside[:SHOWN])}" if inside else ""
            raise UserError(f"{error}, or one with images of good parts{hint}") from error
        report = CategoryReport(name or source.resolve().name)
        _inspect(report, list_plain_items(base, bad, masks, report.issues), progress, size)
        reports.append(report)
    return Report(str(source), reports)


def inspect_prepared(data_dir: Path) -> Report:
    """Compares all records in a folder with their manifests. Raises UserError if there are none."""
    folders = manifests.find(data_dir) if data_dir.is_dir() else []
    if not folders:
        raise UserError(f"nothing is prepared in --data_dir {data_dir}: prepare it without --check")
    return Report(str(data_dir), [_inspect_records(folder) for folder in folders])


def _format_issues(issues: Sequence[Issue]) -> list[str]:
    lines = [f"  error: {issue.text}" for issue in issues if issue.error]
    warnings = [issue for issue in issues if not issue.error]
    for kind in dict.fromkeys(issue.kind for issue in warnings):
        texts = [issue.text for issue in warnings if issue.kind == kind]
        lines += [f"  warning: {text}" for text in texts[:SHOWN]]
        if len(texts) > SHOWN:
            lines.append(f"  … and {len(texts) - SHOWN} more warnings of {kind}, see --json")
    return lines


def _has_images(folder: Path) -> bool:
    return any(entry.suffix.lower() in EXTENSIONS for entry in list_entries(folder))


def _inspect(
    report: CategoryReport, items: Sequence[Item], progress: Progress, size: tuple[int, int] | None
) -> None:
    """Decodes the items of a category into its report."""
    with ThreadPoolExecutor(4) as pool:
        looked = pool.map(partial(look_at, size=size), items)
        looks = list(progress(looked, len(items), f"check {report.category}"))
    for item in items:
        kinds = report.counts.setdefault(item.split, {})
        kinds[item.defect] = kinds.get(item.defect, 0) + 1
    report.masks = sum(item.mask is not None for item in items)
    report.images = dict(Counter(look.kind for look in looks if look.kind).most_common())
    for look in looks:
        report.issues += look.issues
    report.issues += stem_issues(items, report.issues) + _duplicates(looks) + _unused_bits(items)


def _unused_bits(items: Sequence[Item]) -> list[Issue]:
    """Warns of nearly black 16-bit training images; unreadable ones have issues already."""
    images = [item.image for item in items if item.split == "train"]
    with contextlib.suppress(UserError):
        warning = bits_warning(images)
        return [Issue("bits", warning)] if warning else []
    return []


def _duplicates(looks: Sequence[Look]) -> list[Issue]:
    """Finds test images that are also training images, by their bytes or else by their pixels."""
    train = [look for look in looks if look.item.split == "train"]
    same_bytes = {look.bytes_digest: look for look in train}
    same_pixels = {look.pixel_digest: look for look in train}
    issues = []
    for look in looks:
        if look.item.split == "train" or not look.pixel_digest:
            continue
        how, twin = "file", same_bytes.get(look.bytes_digest)
        if twin is None:
            how, twin = "pixels", same_pixels.get(look.pixel_digest)
        if twin is not None:
            text = f"{look.item.name} is in training too, the same {how}: {twin.item.name}"
            issues.append(Issue("duplicates", text))
    return issues


def _count_issues(report: CategoryReport, published: tuple[int, int, int]) -> list[Issue]:
    train, test = (report.counts.get(split, {}) for split in ("train", "test"))
    good = test.get("good", 0)
    counted = (sum(train.values()), good, sum(test.values()) - good)
    if counted == published:
        return []
    parts = "train {}, test good {}, test defective {}".format
    return [Issue("counts", f"{parts(*counted)} images where {parts(*published)} were published")]


def _inspect_records(folder: Path) -> CategoryReport:
    report = CategoryReport(str(folder))
    try:
        manifest = manifests.read(folder)
    except UserError as error:
        report.issues.append(Issue("manifest", str(error), error=True))
        return report
    size = manifest["image_size"]
    report.category = f"{manifest['dataset']} {manifest['category']} in {folder}"
    report.counts = manifest["counts"]
    report.masks = sum(row[5] for row in manifest["records"].get("test", []) if row[2])
    rows = [row for split in manifest["records"].values() for row in split]
    mode = "L" if manifest["channels"] == 1 else "RGB"
    sizes = Counter(tuple(size or row[3:5]) for row in rows)
    report.images = {f"{w}×{h} {mode}": count for (h, w), count in sizes.most_common()}
    for text in manifests.shard_faults(folder, manifest):
        report.issues.append(Issue("records", f"{text}: remove {folder} and prepare it", True))
    return report
