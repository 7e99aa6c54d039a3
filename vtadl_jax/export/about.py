"""What an export says of its run: method, sizes, decision, figures, licences; and a page of it."""

import base64
import html
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from vtadl_jax.evaluation.calibration import Calibration, largest_rate
from vtadl_jax.runtime.files import read_json

if TYPE_CHECKING:  # it imports what an opened file does not need
    from vtadl_jax.evaluation.trained_run import Run

OVERLAYS, SIDE = 6, 320  # pictures on the page, and the pixels of their longer side
FIGURES = ("image_auroc", "pixel_auroc", "aupro")
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;"
    "color-scheme:light dark}td,th{text-align:left;padding:.2rem 1rem .2rem 0;vertical-align:top}"
    "img{max-width:100%;margin:.3rem;border-radius:4px}"
)


def about_run(run: "Run", calibration: Calibration) -> dict[str, Any]:
    """Returns the entries of an export's manifest about its run, ready for JSON."""
    config = run.config
    rate = largest_rate(
        calibration.image_false_alarm_rate, calibration.num_images, calibration.num_folds
    )
    threshold = config.eval.image_threshold
    return {
        "detector": config.detector,
        "category": config.data.category,
        "step": run.step,
        "image": {
            "size": list(config.image_size),
            "resize": list(config.data.resize or config.image_size),
            "fit": config.data.fit,
            "bits": config.data.bits,
            "channels": config.data.channels,
        },
        "regions": None if run.geometry.regions is None else run.geometry.regions.to_dict(),
        "decision": {
            "threshold": calibration.image_threshold if threshold is None else threshold,
            "pixel_threshold": calibration.pixel_threshold,
            "false_alarm_rate": calibration.image_false_alarm_rate,
            "false_alarm_bound": rate if calibration.num_images else None,
            "good_images": calibration.num_images,
            "calibrated_by": calibration.calibrated_by,
            "map_range": [calibration.map_low, calibration.map_high],
        },
        "terms": list(calibration.terms),
        "figures": _figures(run.workdir),
        "licences": _licences(run),
    }


def _figures(workdir: Path) -> dict[str, float]:
    """Returns the metrics of the last evaluation, of those that it has."""
    try:
        results = read_json(workdir / "results.json")
    except (OSError, ValueError):
        return {}
    found = {name: results.get(name) for name in FIGURES}
    return {name: value for name, value in found.items() if isinstance(value, int | float)}


def _licences(run: "Run") -> list[str]:
    lines = ["The program, vtadl_jax: Apache-2.0."]
    if weights := run.config.init_from:
        names = ", ".join(Path(name).name for name in weights.split(","))
        lines.append(f"Pretrained weights of {names}: their licence is that of their authors.")
    lines.append("What was learned from images may be subject to the licence of the images.")
    return lines


def preview(workdir: Path, about: dict[str, Any]) -> str:
    """Returns a page that shows what an export is: its entries, and overlays of its run."""
    decision, image = about["decision"], about["image"]
    rows = {
        "method": about["detector"],
        "category": about["category"] or "one",
        "step": about["step"],
        "image": f"{image['size'][0]} × {image['size'][1]} pixels, {image['fit']}, "
        f"{'grey' if image['channels'] == 1 else 'color'}",
        "threshold": f"{decision['threshold']:.4g}, false-alarm rate at most "
        f"{100 * (decision['false_alarm_bound'] or 1):.3g} %, by {decision['good_images']} good "
        f"images ({decision['calibrated_by']})",
        **{name: f"{value:.3f}" for name, value in about["figures"].items()},
        "licences": " ".join(about["licences"]),
    }
    table = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(str(value))}</td></tr>"
        for name, value in rows.items()
    )
    pictures = "".join(
        f'<img alt="{html.escape(path.stem)}" src="data:image/jpeg;base64,{_thumbnail(path)}">'
        for path in _overlays(workdir)
    )
    title = html.escape(f"{about['detector']} {about['category']}".strip())
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style><h1>{title}</h1><table>{table}</table>{pictures}</html>\n"
    )


def _overlays(workdir: Path) -> list[Path]:
    """Returns some overlays of the run's evaluation, spread over their names."""
    files = sorted((workdir / "overlays").glob("*.png"))
    return files[:: max(len(files) // OVERLAYS, 1)][:OVERLAYS]


def _thumbnail(path: Path) -> str:
    stream = io.BytesIO()
    with Image.open(path) as picture:
        small = picture.convert("RGB")
        small.thumbnail((2 * SIDE, SIDE))
        small.save(stream, "JPEG", quality=85)
    return base64.b64encode(stream.getvalue()).decode()
