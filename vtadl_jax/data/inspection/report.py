"""Report on raw images or prepared records before training: their contents and faults.

`looks` lists and decodes; here is what follows from all of it, and the report. Writes nothing.
"""

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vtadl_jax.data import manifest as manifests
from vtadl_jax.data.archives import is_archive
from vtadl_jax.data.builders.base import LayoutBuilder
from vtadl_jax.data.builders.build import check_source, choose
from vtadl_jax.data.builders.survey import Progress, Root, find_root, silent
from vtadl_jax.data.depth import bits_warning
from vtadl_jax.data.inspection.statistics import Issue, Item, Look, list_items, look_at
from vtadl_jax.errors import UserError

SHOWN = 10  # printed lines per kind; the JSON file has all


@dataclass
class CategoryReport:
    """Report on a category: images by split and defect, by size and mode, and issues."""

    category: str
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    issues: list[Issue] = field(default_factory=list)


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
) -> Report:
    """Decodes all images and masks of categories (by default all) below `source`.

    Raises UserError if there is no data set or no such category.
    """
    if is_archive(source):
        raise UserError(f"--check reads folders, not {source}: unpack it, or prepare it")
    root = find_root(check_source(builder, source), builder.LAYOUTS)
    chosen = choose(root, categories)
    reports = [_inspect(root, category, builder.COUNTS, progress) for category in chosen]
    return Report(str(root.path), reports)


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


def _inspect(
    root: Root,
    category: str,
    published: Mapping[str, tuple[int, int, int]],
    progress: Progress,
) -> CategoryReport:
    report = CategoryReport(category)
    items = list_items(root.layout, root.folder(category), report.issues)
    with ThreadPoolExecutor(4) as pool:
        looks = list(progress(pool.map(look_at, items), len(items), f"check {category}"))
    for item in items:
        kinds = report.counts.setdefault(item.split, {})
        kinds[item.defect] = kinds.get(item.defect, 0) + 1
    report.images = dict(Counter(look.kind for look in looks if look.kind).most_common())
    for look in looks:
        report.issues += look.issues
    report.issues += _duplicates(looks) + _unused_bits(items)
    if category in published:
        report.issues += _count_issues(report, published[category])
    return report


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
    rows = [row for split in manifest["records"].values() for row in split]
    mode = "L" if manifest["channels"] == 1 else "RGB"
    sizes = Counter(tuple(size or row[3:5]) for row in rows)
    report.images = {f"{w}×{h} {mode}": count for (h, w), count in sizes.most_common()}
    for text in manifests.shard_faults(folder, manifest):
        report.issues.append(Issue("records", f"{text}: remove {folder} and prepare it", True))
    return report
