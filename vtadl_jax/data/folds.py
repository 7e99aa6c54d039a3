"""Cross-validation for supervised methods: folds of the test images, by kind of defect and by part.

Data sets for one-class methods have defects and masks among the test images only. A supervised
method that is to be tested on all of them is trained once for each fold, on the defects of the
other folds. Photographs of one part stay in one fold. Opens no files.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from vtadl_jax.data.records import Record, Splits, natural_key, shuffled
from vtadl_jax.errors import UserError
from vtadl_jax.runtime.text_table import plural


def fold_splits(
    splits: Splits, folds: int, fold: int, seed: int, group_gap: int = 0, masked: bool = False
) -> Splits:
    """Returns the splits of one fold: its images to test on, the others' defects to train on.

    Every kind of image is spread over `folds` by names and seed; every test image is in the test
    set of exactly one fold. Good test images of other folds are not used. group_gap: as in
    `groups_of`; no group is on both sides, so good training images of a group with images to test
    on are left out, too. masked: train on defects with a mask only. A note says what is used and
    what is not. Raises UserError for folds that cannot be.
    """
    defective = [record for record in splits.test if record.label]
    check_folds(folds, fold)
    if not defective:
        raise UserError(
            f"data.folds {folds}: there are no defective test images to train and test on: give "
            f"--config.data.bad=DIR and --config.data.masks=DIR, or test/DEFECT and "
            f"ground_truth/DEFECT"
        )
    if len(defective) < folds:
        raise UserError(
            f"data.folds {folds}: there are {len(defective)} defective test images: use fewer "
            f"folds, or add defective images"
        )
    groups = groups_of([*splits.test, *splits.train], group_gap)
    tested = {record.name for record in splits.test}
    divided = [[r for r in group if r.name in tested] for group in groups]
    places = assign([group for group in divided if group], folds, seed)
    test = tuple(record for record in splits.test if places[record.name] == fold)
    others = [record for record in defective if places[record.name] != fold]
    if not any(record.label for record in test) or not others:
        count = sum(any(record.label for record in group) for group in groups)
        remedy = "use fewer folds" if not group_gap else "use fewer folds, or a smaller gap"
        share = "none" if others else "all"
        raise UserError(
            f"data.folds {folds}, data.group_gap {group_gap}: the defective images are in "
            f"{plural(count, 'group')}, and fold {fold} tests on {share} of them: "
            f"{remedy}"
        )
    learned = [record for record in others if record.mask is not None or not masked]
    if not learned:
        raise UserError(
            f"data.folds {folds}: the other folds have no defective images with a mask to train "
            f"on: give --config.data.masks=DIR, or ground_truth/DEFECT beside test/DEFECT"
        )
    names = {record.name for record in test}
    shared = {r.name for group in groups if any(r.name in names for r in group) for r in group}
    train = [record for record in splits.train if record.name not in shared]
    if not train:
        raise UserError(
            f"data.group_gap {group_gap}: all good training images are in groups with images to "
            f"test on: use a smaller gap"
        )
    unused = {
        "good test images of other folds": len(splits.test) - len(test) - len(others),
        "defective images without a mask": len(others) - len(learned),
        "good training images of a group with images to test on": len(splits.train) - len(train),
    }
    note = _note(fold, folds, train, learned, test, unused)
    if group_gap:
        note += f"; {_grouped([*splits.test, *splits.train], groups, group_gap)}"
    return replace(splits, train=(*train, *learned), test=test, notes=(*splits.notes, note))


def check_folds(folds: int, fold: int) -> None:
    """Raises UserError unless there are at least two folds and `fold` is one of them."""
    if folds < 2:
        raise UserError(f"data.folds {folds}: use 2 or more, for example 5; 0 for none")
    if not 0 <= fold < folds:
        raise UserError(f"data.fold {fold}: data.folds {folds} has the folds 0 to {folds - 1}")


def groups_of(records: Iterable[Record], gap: int) -> list[list[Record]]:
    """Groups images of one part, by the last number in their file's name.

    Images whose numbers follow each other closer than `gap` are a group, of whatever kind they are:
    cameras number their pictures, and those of one part come one after the other. With gap 0, and
    for names without a number, every image is a group of its own.
    """
    groups: list[list[Record]] = []
    before: int | None = None
    for record in sorted(records, key=lambda r: (number_of(r) or 0, natural_key(r.name))):
        number = number_of(record)
        if number is not None and before is not None and number - before < gap:
            groups[-1].append(record)
        else:
            groups.append([record])
        before = number
    return groups


def number_of(record: Record) -> int | None:
    """Returns the last number in the name of an image's file, None without one."""
    digits = re.findall(r"\d+", PurePosixPath(record.name).stem)
    return int(digits[-1]) if digits else None


def assign(groups: Sequence[Sequence[Record]], folds: int, seed: int) -> dict[str, int]:
    """Returns the fold of each image, by name; all of a group are in one.

    Each group goes where its kind of image is rarest, the largest groups first; of equal folds to
    the one with the fewest images. Groups of one size are taken in an order that depends on seed
    and names only.
    """
    by_first = {group[0].name: group for group in groups}
    ordered = [by_first[record.name] for record in shuffled([g[0] for g in groups], seed)]
    ordered.sort(key=lambda group: (kind_of(group), -len(group)))  # stable
    found: dict[str, int] = {}
    of_kind: Counter[tuple[str, int]] = Counter()
    total: Counter[int] = Counter()
    for group in ordered:
        kind = kind_of(group)
        place = min(range(folds), key=lambda i: (of_kind[kind, i], total[i], i))
        of_kind.update((record.defect, place) for record in group)
        total[place] += len(group)
        found |= {record.name: place for record in group}
    return found


def kind_of(group: Sequence[Record]) -> str:
    """Returns the most frequent defect of a group, 'good' without one."""
    defects = Counter(record.defect for record in group if record.label)
    return max(sorted(defects), key=lambda name: defects[name]) if defects else "good"


def _note(fold: int, folds: int, train, learned, test, unused: dict[str, int]) -> str:
    num_test = sum(record.label for record in test)
    left = "; ".join(f"{count} {what}" for what, count in unused.items() if count)
    return (
        f"fold {fold} of {folds}: {len(train)} good and {len(learned)} defective images to train "
        f"on, {len(test) - num_test} good and {num_test} defective ones to test on"
        f"{f'; not used: {left}' if left else ''}"
    )


def _grouped(records: Sequence[Record], groups: Sequence[Sequence[Record]], gap: int) -> str:
    defective = sum(any(record.label for record in group) for group in groups)
    without = sum(number_of(record) is None for record in records)
    more = f"; {without} without a number in the name are each their own" if without else ""
    return (
        f"{len(records)} images in {plural(len(groups), 'group')} of numbers closer than {gap}, "
        f"{defective} of them with defects, none on both sides{more}"
    )
