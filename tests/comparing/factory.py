"""Cells of a comparison that nobody trained: the fields of a real one, figures made up."""

from typing import Any

from vtadl_jax.comparing.methods import METHODS


def fake_cell(method: str = "spade", category: str = "bottle", **fields: Any) -> dict[str, Any]:
    """A complete cell; a supervised one has one of five folds."""
    masks = method in ("unet", "unet_tiny", "segnet")
    metrics = {"image_auroc": 0.91, "pixel_auroc": 0.95, "aupro": 0.8, "aupro_0.05": 0.5}
    metrics["image_f1_max"] = 0.9
    fold = {
        **{"fold": 0, "run": "fold-0" if masks else "run", "metrics": metrics},
        **{"num_train_images": 30, "num_train_anomalous": 4},
        **{"num_test_images": 12, "num_test_anomalous": 5},
    }
    return {
        "method": method,
        "category": category,
        "arguments": ["--config", "configs/x.py"],
        "minutes": 2.0,
        "num_folds": 1,
        "status": "complete",
        "reason": "",
        "command": "python -m vtadl_jax.main --config configs/x.py",
        "commit": "abc",
        "weights": {"pretrained": "no", "note": ""},
        "losses": METHODS[method].losses,
        "needs": {
            "images": "good and defective images with masks" if masks else "good images",
            "weights": METHODS[method].encoder,
            "optional_weights": "",
        },
        "stages": ["fit", "calibrate"],
        "image_size": [256, 256],
        "training": {
            **{"steps": 40, "full_steps": 1000, "batch_size": 8, "images": 80},
            **{"step_seconds": 1.5, "measured": 2, "compile_seconds": 9.0, "memory": {}},
            **{"minutes": 2.0, "epochs": 4.0, "full_epochs": 100.0},
            **{"seconds_per_100_epochs": 1500.0, "seconds": 99.0, "runs": 1, "load": 0.5},
        },
        "parameters": {"trained": 3_352_257, "frozen": 0, "statistics": 12},
        "memory": {
            "by_device": {"cpu": {"forward": 2**20, "model": 2**24, "whole": 2**25, "flops": 1e9}},
            **{"train_step": 2**28, "train_batch": 8, "how": ""},
        },
        "latency": {
            "cpu float32": {"seconds": 0.02, "calls": 20, "load": 0.1},
            "cpu bfloat16": {"seconds": None, "reason": "no such product"},
        },
        "onnx": {"bytes": None, "reason": "not exported: this version has no ONNX exporter"},
        "folds": [fold],
        "folds_of": 5 if masks else 0,
        "metrics": {name: {"mean": value, "spread": None} for name, value in metrics.items()},
        **fields,
    }
