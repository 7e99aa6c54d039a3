"""The tables of a comparison, as sections that the Markdown and the page share."""

import statistics
from collections.abc import Sequence

from vtadl_jax.comparing.rows import (
    COMPLETE,
    METRICS,
    Row,
    categories_of,
    complete,
    first_of_each,
    latencies_of,
)
from vtadl_jax.compiling.sections import Section
from vtadl_jax.compiling.wording import duration, si

OVERVIEW = "AU-PRO (0.3) by category"
PRO_NOTE = (
    "PRO in the thesis is another measure than AU-PRO, on other splits: neither its thresholds nor "
    "its limit are given; it shows an order at most. Supervised rows are of folds whose parts were "
    "not trained on, the others of the whole test set: do not rank one against the other without "
    "saying so. Best F1 is at a threshold chosen on the test images."
)
COST_NOTE = (
    "Values: trained by the optimizer; frozen, pretrained; statistics that a pass over the images "
    "or steps wrote (means, memory banks). Forward: temporaries of the program that scores one "
    "image, which are its activations; train step: temporaries of a whole step, with the "
    "activations kept for the backward pass, for the batch in brackets; model: all variables; "
    "whole: variables, image, results, temporaries and code. Bytes are what the compiler plans "
    "for this machine, in float32. 100 epochs: extrapolated from measured steps. Program: of all "
    "the cell's runs, from reading images to results."
)


def tables_of(rows: Sequence[Row]) -> list[Section]:
    """Returns the tables: quality by category, costs, needs, latency, and cells without results."""
    found = [quality(rows, category) for category in categories_of(rows)]
    if len(found) > 1:
        found.insert(0, overview(rows))
    if found:
        found += [costs(rows), latency(rows), needs(rows)]
    if missing := [row for row in rows if row["status"] != COMPLETE]:
        found.append(without_results(missing))
    return found


def overview(rows: Sequence[Row]) -> Section:
    """Returns the AU-PRO of each method on each category; a mean only over all of them."""
    categories, made = categories_of(rows), []
    for method in dict.fromkeys(row["method"] for row in complete(rows)):
        own = {row["category"]: row for row in complete(rows) if row["method"] == method}
        values = [own[name]["aupro"] if name in own else None for name in categories]
        known = [value for value in values if value is not None]
        mean = statistics.fmean(known) if len(known) == len(categories) else None
        title, needs = next((row["title"], short_needs(row)) for row in own.values())
        made.append((title, needs, *(_number(v, ".3f") for v in (*values, mean))))
    names = ("method", "needs", *(f"{name}>" for name in (*categories, "mean")))
    return Section(OVERVIEW, names, made)


def quality(rows: Sequence[Row], category: str) -> Section:
    """Returns how well methods found the defects of a category, best AU-PRO first."""
    chosen = sorted(complete(rows, category), key=lambda r: -(r["aupro"] or 0.0))
    made = []
    for row in chosen:
        metrics = [_metric(row[name], row[f"{name}_spread"]) for name in METRICS]
        images = f"{row['num_test_good']} + {row['num_test_defective']}"
        tested = f"{images}, {row['folds']} folds"
        made.append(
            (
                row["title"],
                short_needs(row),
                row["pretrained"],
                trained_for(row),
                tested if row["folds"] else images,
                *metrics,
                _number(row["thesis_pro"], ".2f"),
            )
        )
    names = (
        *("method", "needs", "pretrained", "epochs trained", "tested: good + defective"),
        *(f"{title}>" for title in METRICS.values()),
        "PRO in the thesis>",
    )
    return Section(category, names, made, PRO_NOTE)


def costs(rows: Sequence[Row]) -> Section:
    """Returns values, bytes and training times of each method, of its first category."""
    made = []
    for row in first_of_each(rows):
        made.append(
            (
                row["title"],
                si(row["trained_values"]),
                si(row["frozen_values"]),
                si(row["statistics_values"]),
                in_bytes(row["forward_bytes"]),
                f"{in_bytes(row['train_step_bytes'])} ({row['train_batch']})"
                if row["train_step_bytes"]
                else "–",
                in_bytes(row["model_bytes"]),
                in_bytes(row["whole_bytes"]),
                in_bytes(row["onnx_bytes"]) if row["onnx_bytes"] else "not exported",
                duration(row["seconds_per_100_epochs"]),
                duration(row["seconds"]),
                si(row.get("thesis_parameters")),
                duration(row.get("thesis_seconds_per_100_epochs")),
            )
        )
    numbers = (
        *("trained", "frozen", "statistics", "forward", "train step", "model", "whole"),
        *("ONNX file", "100 epochs", "program", "thesis: parameters", "thesis: 100 epochs"),
    )
    names = ("method", *(f"{name}>" for name in numbers))
    reasons = dict.fromkeys(r["onnx_reason"] for r in first_of_each(rows) if r["onnx_reason"])
    note = COST_NOTE + "".join(f" ONNX: {reason}." for reason in reasons)
    return Section("Costs", names, made, note)


def latency(rows: Sequence[Row]) -> Section:
    """Returns the seconds of one image on each device, measured or estimated."""
    places = latencies_of(rows)
    made = []
    for row in first_of_each(rows):
        published = [row.get(f"thesis_latency_{name}") for name in ("cpu", "gpu", "gpu_half")]
        own = [row.get(f"latency {place}") for place in places]
        load = _number(row["latency_load"], ".1f")
        made.append((row["title"], row["image_size"], *map(duration, own), load,
                     *map(duration, published)))  # fmt: skip
    numbers = ("image", *places, "load", "thesis: CPU", "thesis: GPU", "thesis: GPU, half")
    names = ("method", *(f"{name}>" for name in numbers))
    note = (
        "Median of up to 20 calls of the compiled scoring of one image, without reading and "
        "resizing it, on all cores; TPU: the compiler's estimated cycles at the chip's clock. "
        "Load: mean number of processes that waited for a core; above the number of cores, "
        "times are too long. The thesis's times are of its machine, probably of 512 × 512 images; "
        "its half precision is float16."
    )
    return Section("Latency of one image", names, made, note)


def needs(rows: Sequence[Row]) -> Section:
    """Returns what each method needs and how it is made."""
    made = [
        (
            row["title"],
            row["group"],
            row["needs"],
            row["needs_weights"] or "none",
            row["losses"],
            row["stages"],
            row["note"] or "–",
        )
        for row in first_of_each(rows)
    ]
    names = ("method", "group", "images", "frozen network", "losses", "stages", "note")
    return Section("What each method needs", names, made)


def without_results(rows: Sequence[Row]) -> Section:
    """Returns the cells that have no results, with the reason."""
    made = [(r["category"], r["title"], r["status"], r["reason"]) for r in rows]
    names = ("category", "method", "status", "reason")
    return Section("Cells without results", names, made)


def in_bytes(value: float | None) -> str:
    """Formats a number of bytes, decimally as the axes of the charts."""
    return si(value, "B")


def short_needs(row: Row) -> str:
    """Returns 'good images', 'masks' or 'labels'."""
    return next((word for word in ("masks", "labels") if word in row["needs"]), "good images")


def trained_for(row: Row) -> str:
    """Returns the epochs of a row, and of how many where it stopped early."""
    if row["epochs"] is None:
        return "fitted"
    if row["steps"] >= row["full_steps"]:
        return f"{row['epochs']:.3g}"
    return f"{row['epochs']:.2g} of {row['full_epochs']:.3g}"


def _metric(value: float | None, spread: float | None) -> str:
    return _number(value, ".3f") + (f" ± {spread:.3f}" if spread is not None else "")


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
