"""Turns a prediction into what programs read: plain values for JSON, and the map in two forms."""

import base64
import io
import math
from typing import Any

import numpy as np
from PIL import Image

from vtadl_jax.errors import UserError, printable
from vtadl_jax.evaluation.regions import find_regions
from vtadl_jax.report import colormap
from vtadl_jax.serving.batching import Scored
from vtadl_jax.serving.limits import Limits, Refused
from vtadl_jax.serving.models import Model

MOST_REGIONS = 100  # in an answer; `regions_found` is the number of all
MAP_TYPES = {"png": "image/png", "npy": "application/x-npy"}
MAP_LIMIT = 2**24  # pixels of a map in an answer
NAME_LENGTH = 200


def answer_of(
    name: str, scored: Scored, model: Model, limits: Limits, map_format: str = "none"
) -> dict[str, Any]:
    """Returns the answer for one image, as docs/serve.md describes it.

    map_format: 'png', 'npy' or 'none'. Raises Refused: 422 for a score that is not finite, 413 for
    a map that is too large for an answer.
    """
    prediction = scored.prediction
    if not math.isfinite(prediction.score):
        raise Refused(
            422,
            f"the score is {prediction.score}, which is no decision: evaluate the run again, or "
            f"train it again",
        )
    found = {
        "name": shown_name(name),
        "decision": "defective" if prediction.is_defective else "good",
        "score": prediction.score,
        "threshold": prediction.threshold,
        "p_value": prediction.p_value,
        "unlike_training": prediction.unlike_training,
        "terms": {key: _number(value) for key, value in prediction.terms.items()},
        **_places(prediction.anomaly_map, model, limits.min_area),
    }
    if map_format != "none":
        found["map"] = _map_of(prediction.anomaly_map, model, map_format)
    seconds = (scored.decode, scored.wait, scored.score)
    found["seconds"] = dict(zip(("decode", "wait", "score"), map(_rounded, seconds), strict=True))
    return found


def shown_name(name: str) -> str:
    """Returns an image's name as it is shown: printable, and cut to 200 characters."""
    text = printable(name)
    return text if len(text) <= NAME_LENGTH else f"{text[: NAME_LENGTH - 1]}…"


def encode_map(anomaly_map: np.ndarray, model: Model, map_format: str) -> bytes:
    """Returns the file of a map: 'npy', float32 [h, w]; 'png', in colours from `map_low` to
    `map_high` of the calibration, as all pictures of the run."""
    stream = io.BytesIO()
    if map_format == "npy":
        np.save(stream, np.ascontiguousarray(anomaly_map, np.float32), allow_pickle=False)
    else:
        low, high = model.calibration.map_low, model.calibration.map_high
        colours = colormap.apply(np.nan_to_num(anomaly_map, nan=low), low, high)
        Image.fromarray(colours).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def take_in(model: Model, content: bytes, limits: Limits) -> Any:
    """Decodes the bytes of an image for a model, as `Predictor` does.

    Raises Refused: 413 for too many pixels, which the header tells, 400 for what can't be read.
    """
    width, height = _header_size(content)
    if width * height > limits.max_pixels:
        raise Refused(
            413,
            f"the image has {width}×{height} pixels, more than the {limits.max_pixels} of "
            f"--max_pixels: cut it into tiles",
        )
    try:
        return model.take_in(content)[0]
    except UserError as error:
        raise Refused(400, str(error)) from error


def _header_size(content: bytes) -> tuple[int, int]:
    from vtadl_jax.data.formats import FORMATS

    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return image.size
    except Exception:  # whoever decodes it has the reason
        return 0, 0


def _places(anomaly_map: np.ndarray | None, model: Model, min_area: int) -> dict[str, Any]:
    """Returns size and regions; None for a method without maps."""
    threshold = model.calibration.pixel_threshold
    if anomaly_map is None or threshold is None:
        return {"size": None, "pixel_threshold": None, "regions": None, "regions_found": None}
    height, width = anomaly_map.shape
    regions = find_regions(anomaly_map, threshold, min_area)
    return {
        "size": {"height": height, "width": width},
        "pixel_threshold": threshold,
        "regions": [
            {
                "box": dict(zip(("top", "left", "bottom", "right"), region.box, strict=True)),
                "area": region.area,
                "share": region.area / (height * width),
                "peak": _number(region.peak),
                "peak_at": dict(zip(("row", "column"), region.peak_at, strict=True)),
                "mean": _number(region.mean),
            }
            for region in regions[:MOST_REGIONS]
        ],
        "regions_found": len(regions),
    }


def _map_of(anomaly_map: np.ndarray | None, model: Model, map_format: str) -> Any:
    if anomaly_map is None:
        return None
    if anomaly_map.size > MAP_LIMIT:
        raise Refused(
            413,
            f"the map has {anomaly_map.size} pixels, more than the {MAP_LIMIT} of an answer: ask "
            f"without a map, or cut the image into tiles",
        )
    return {
        "type": MAP_TYPES[map_format],
        "low": model.calibration.map_low,
        "high": model.calibration.map_high,
        "base64": base64.b64encode(encode_map(anomaly_map, model, map_format)).decode(),
    }


def _number(value: float) -> float | None:
    """Returns a number that JSON has, None for one that is not finite."""
    return float(value) if math.isfinite(value) else None


def _rounded(seconds: float) -> float:
    return round(seconds, 6)
