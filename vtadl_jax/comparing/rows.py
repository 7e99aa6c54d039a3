"""Flattens the cells of a comparison into rows of plain values, with the published ones beside."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from vtadl_jax.comparing.methods import METHODS
from vtadl_jax.report.published_comparison import COSTS, published_pro

Row = dict[str, Any]
COMPLETE = "complete"
METRICS = {
    "image_auroc": "image AUROC",
    "pixel_auroc": "pixel AUROC",
    "aupro": "AU-PRO (0.3)",
    "aupro_0.05": "AU-PRO (0.05)",
    "image_f1_max": "best F1",
}
ONE_CLASS = "good images"  # value of `needs` of a method that learns from no defects


def row_of(cell: Mapping[str, Any]) -> Row:
    """Returns a cell as one row; values that it has not are None."""
    method = METHODS[cell["method"]]
    row: Row = {
        "category": cell["category"],
        "method": cell["method"],
        "title": method.title,
        "group": method.group,
        "status": cell["status"],
        "reason": cell.get("reason", ""),
    }
    if cell["status"] != COMPLETE:
        return row
    training, needs, memory = cell["training"], cell["needs"], cell["memory"]
    for name in METRICS:
        found = cell["metrics"].get(name) or {}
        row[name], row[f"{name}_spread"] = found.get("mean"), found.get("spread")
    folds = cell["folds"]
    cpu = memory["by_device"].get("cpu", {})
    notes = (cell["weights"]["note"], method.note)
    row |= {
        "thesis_pro": published_pro(method.published, cell["category"]),
        "needs": needs["images"],
        "supervised": needs["images"] != ONE_CLASS,
        "needs_weights": needs["weights"],
        "pretrained": cell["weights"]["pretrained"],
        "note": "; ".join(filter(None, notes)),
        "losses": cell["losses"],
        "stages": f"{len(cell['stages'])}: {', '.join(cell['stages'])}",
        "folds": f"{len(folds)} of {cell['folds_of']}" if cell["folds_of"] else "",
        "num_test_good": sum(f["num_test_images"] - f["num_test_anomalous"] for f in folds),
        "num_test_defective": sum(f["num_test_anomalous"] for f in folds),
        "image_size": "×".join(map(str, cell["image_size"])),
        "steps": training["steps"],
        "full_steps": training["full_steps"],
        "epochs": training["epochs"],
        "full_epochs": training["full_epochs"],
        "step_seconds": training["step_seconds"],
        "seconds_per_100_epochs": training["seconds_per_100_epochs"],
        "seconds": training["seconds"],
        "load_in_training": training["load"],
        **_values(cell["parameters"], training["steps"]),
        "forward_bytes": cpu.get("forward"),
        "train_step_bytes": memory["train_step"],
        "train_batch": memory["train_batch"],
        "model_bytes": cpu.get("model"),
        "whole_bytes": cpu.get("whole"),
        "flops": cpu.get("flops"),
        "onnx_bytes": cell["onnx"]["bytes"],
        "onnx_reason": cell["onnx"]["reason"],
        "commit": cell["commit"],
        "command": cell["command"],
    }
    for where, found in cell["latency"].items():
        row[f"latency {where}"] = found["seconds"]
    row["latency_load"] = cell["latency"].get("cpu float32", {}).get("load")
    cost = COSTS.get(method.published)
    if cost is not None:
        row |= {
            "thesis_parameters": cost.parameters,
            "thesis_seconds_per_100_epochs": cost.seconds_per_100_epochs,
            "thesis_latency_cpu": cost.cpu,
            "thesis_latency_gpu": cost.gpu[0],
            "thesis_latency_gpu_half": cost.gpu[1],
        }
    return row


def _values(found: Mapping[str, int], steps: int) -> Row:
    """Returns numbers of values; parameters of a method without steps are written by its fit."""
    trained = found["trained"] if steps else 0
    return {
        "trained_values": trained,
        "frozen_values": found["frozen"],
        "statistics_values": found["statistics"] + found["trained"] - trained,
    }


def complete(rows: Sequence[Row], category: str = "") -> list[Row]:
    """Returns the rows of complete cells, of one category or of all."""
    return [r for r in rows if r["status"] == COMPLETE and category in ("", r["category"])]


def categories_of(rows: Sequence[Row]) -> list[str]:
    """Returns the categories with complete cells, in order."""
    return list(dict.fromkeys(r["category"] for r in complete(rows)))


def first_of_each(rows: Sequence[Row]) -> list[Row]:
    """Returns the first complete row of each method: costs hardly depend on the category."""
    found: dict[str, Row] = {}
    for row in complete(rows):
        found.setdefault(row["method"], row)
    return list(found.values())


def latencies_of(rows: Sequence[Row]) -> list[str]:
    """Returns where latencies were measured or estimated: 'cpu float32' and so on."""
    names = dict.fromkeys(k for row in rows for k in row if k.startswith("latency "))
    return [name.removeprefix("latency ") for name in names]


def to_csv(rows: Sequence[Row]) -> str:
    """Returns all values of all cells."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
