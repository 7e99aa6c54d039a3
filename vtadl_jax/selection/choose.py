"""Ranks the variants of a plan on several sets, and writes the tables.

By 'drawn' a set's variants are ranked by defects drawn on its held-out good images, by 'sets' by
the test images of the other sets. Neither opens the set's own test images. With `agreed`, the test
images of all sets show how good both rankings were.
"""

from collections.abc import Mapping, Sequence

from vtadl_jax.errors import UserError
from vtadl_jax.evaluation.selection import (
    COLUMNS,
    DRAWN,
    MEAN,
    TEST,
    Agreement,
    Array,
    Part,
    agreement,
    by_other_sets,
    column,
)
from vtadl_jax.plans import Experiment
from vtadl_jax.report.selection import Row, rows_by_drawn, rows_by_sets, write_tables
from vtadl_jax.runtime.console import say
from vtadl_jax.selection.runs import measure
from vtadl_jax.selection.sets import (
    SHEET,
    ImageSet,
    Prepared,
    Protocol,
    command_of,
    config_of,
    prepare,
)

SETS = "sets"  # the other way to rank; evaluation.selection.DRAWN is the first
Figures = dict[str, list[Part]]  # set → figures of each variant on one part
RULES = {DRAWN: "drawn defects", SETS: "other sets"}


def choose(
    variants: Sequence[Experiment],
    sets: Sequence[ImageSet],
    protocol: Protocol,
    by: str = DRAWN,
    agreed: bool = False,
) -> str:
    """Trains and scores what is not stored, writes the tables, and returns their Markdown.

    The tables are written after each set. Raises UserError, before anything is trained, for a plan
    that can't be compared.
    """
    if len(variants) < 2:
        raise UserError("--plan names one variant only: there is nothing to choose")
    if by == SETS and len(sets) < 2:
        raise UserError("--by sets needs two sets at least: give more with --data")
    configs = {one.name: [config_of(variant, one) for variant in variants] for one in sets}
    parts = {DRAWN: by == DRAWN or agreed, TEST: by == SETS or agreed}
    wanted = [part for part, needed in parts.items() if needed]
    figures: dict[str, Figures] = {part: {} for part in wanted}
    prepared = {
        one.name: prepare(one, configs[one.name], protocol, draw=DRAWN in wanted) for one in sets
    }
    text, ranked = "", set[str]()
    for image_set in sets:
        name = image_set.name
        rows = []
        for number, (variant, config) in enumerate(zip(variants, configs[name], strict=True), 1):
            say(f"{name}: {variant.name} ({number} of {len(variants)})")
            rows.append(measure(variant, image_set, config, prepared[name], protocol, wanted))
        for part in wanted:
            figures[part][name] = [row[part] for row in rows]
        text, ranked = _tabulate(variants, sets, prepared, figures, protocol, by, agreed)
    for name in prepared.keys() - ranked:
        say(f"note: {name} has no ranking: no other set has good and defective test images")
    return text


def _tabulate(
    variants: Sequence[Experiment],
    sets: Sequence[ImageSet],
    prepared: Mapping[str, Prepared],
    figures: Mapping[str, Figures],
    protocol: Protocol,
    by: str,
    agreed: bool,
) -> tuple[str, set[str]]:
    """Writes the tables of the sets that are done; returns their Markdown and the ranked sets."""
    tables: dict[str, list[Row]] = {}
    notes: dict[str, str] = {}
    for image_set in sets:
        name = image_set.name
        commands = [(v.name, command_of(v, image_set).command) for v in variants]
        if by == DRAWN:
            if name in figures[DRAWN]:
                tables[name] = rows_by_drawn(name, commands, figures[DRAWN][name])
                notes[name] = _note(name, prepared[name], agreed)
        else:
            order = by_other_sets(_columns(figures[TEST], MEAN), name)
            if order is not None:
                tables[name] = rows_by_sets(name, commands, order)
                notes[name] = "By the test images of the other sets; its own count for nothing."
    agreements = _agreements(figures) if agreed else {}
    return write_tables(protocol.workdir, tables, notes, agreements), set(tables)


def _note(name: str, prepared: Prepared, agreed: bool) -> str:
    test = "Test images count for the agreement only." if agreed else "No test image was opened."
    return (
        f"{len(prepared.drawn)} defects drawn on {len(prepared.held)} held-out good images "
        f"(`{name}/{SHEET}`), {len(prepared.train)} images to train and calibrate; 95 % intervals "
        f"over images. {test}"
    )


def _columns(figures: Figures, metric: str) -> dict[str, Array]:
    """Returns a metric of each variant for the sets that have it."""
    found = {name: column(parts, metric) for name, parts in figures.items()}
    return {name: values for name, values in found.items() if values is not None}


def _agreements(
    figures: Mapping[str, Figures],
) -> dict[str, dict[str, dict[str, Agreement | None]]]:
    """Returns rule → set → metric → agreement with the test images, for sets that have some."""
    done = [name for name, parts in figures[TEST].items() if parts[0].defined]
    real = {metric: _columns(figures[TEST], metric) for metric in COLUMNS}
    found: dict[str, dict[str, dict[str, Agreement | None]]] = {}
    for rule, title in RULES.items():
        found[title] = {name: {} for name in done}
        for name in done:
            for metric in COLUMNS:
                if rule == DRAWN:
                    predicted = column(figures[DRAWN][name], metric)
                else:
                    predicted = by_other_sets(real[metric], name)
                true = real[metric].get(name)
                both = None
                if predicted is not None and true is not None:
                    both = agreement(predicted, true)
                found[title][name][metric] = both
    return found
