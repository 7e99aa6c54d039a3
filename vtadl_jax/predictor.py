"""A trained run as a function of images, for programs that score as they go.

predictor = Predictor.from_workdir("runs/mvtec-screw")
prediction = predictor("part.png")
if prediction.is_defective: ...
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from vtadl_jax import sharding
from vtadl_jax.calibration import Calibration
from vtadl_jax.data.decode import load_image
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.errors import UserError
from vtadl_jax.models.detector import Detector
from vtadl_jax.workdir import load_calibration, load_run


@dataclasses.dataclass(frozen=True)
class Prediction:
    """score: calibrated, larger is more anomalous; is_defective: score ≥ threshold; anomaly_map:
    float32 [h, w] at the image's own size; terms: the raw parts of the score by name; recon:
    uint8 [H, W, C], the reconstruction at the network's size, empty for methods without one."""

    score: float
    threshold: float
    is_defective: bool
    anomaly_map: np.ndarray
    terms: dict[str, float]
    recon: np.ndarray


class Predictor:
    """Loaded once; compiled once, by `warm_up` or at the first images, which may have any size.

    batch_size: how many images the compiled program takes; fewer are filled up with blank ones.
    """

    def __init__(
        self,
        detector: Detector,
        variables: Any,
        geometry: Geometry,
        calibration: Calibration,
        *,
        channels: int = 3,
        batch_size: int = 1,
        num_threads: int = 4,
        threshold: float | None = None,
    ):
        self.calibration, self.channels = calibration, channels
        self.batch_size, self.num_threads = batch_size, num_threads
        self.threshold = calibration.image_threshold if threshold is None else threshold
        self._geometry, self._variables = geometry, variables
        self._score = jax.jit(detector.score)

    @classmethod
    def from_workdir(
        cls, workdir: str | Path, *, batch_size: int = 0, threshold: float | None = None
    ) -> "Predictor":
        """Of the newest checkpoint and its calibration. Sums are rounded alike for the same
        batch_size only: 0 takes that of evaluation, which gives its scores bit for bit; 1 answers
        single images soonest.

        Raises:
          UserError: no run, no checkpoint or no calibration of it in the workdir.
        """
        run = load_run(Path(workdir), sharding.make_mesh(1))
        config = run.config
        if threshold is None:
            threshold = config.eval.image_threshold
        return cls(
            run.detector,
            run.variables,
            run.geometry,
            load_calibration(run),
            channels=config.data.channels,
            batch_size=batch_size or config.eval.batch_size,
            num_threads=config.data.num_threads,
            threshold=threshold,
        )

    def __call__(self, images: Any) -> Any:
        """One image → a Prediction; a list, tuple or array [B, h, w, C] of them → a list.

        An image is a path, a PIL image, uint8 or float (in [0, 1]) [h, w], [h, w, 1] or [h, w, 3].
        Raises UserError for anything else and for files that can't be read.
        """
        many = isinstance(images, list | tuple) or getattr(images, "ndim", 0) == 4
        loaded = [self._pixels(image) for image in (images if many else [images])]
        found: list[Prediction] = []
        for start in range(0, len(loaded), self.batch_size):
            found += self._predict(loaded[start : start + self.batch_size])
        return found if many else found[0]

    def warm_up(self) -> None:
        """Compile now, so that the first images wait no longer than others."""
        height, width = self._geometry.size
        self._predict([np.zeros((height, width), np.uint8)])

    def _pixels(self, image: Any) -> np.ndarray:
        if isinstance(image, str | Path):
            return load_image(Path(image), self.channels)
        if isinstance(image, Image.Image):
            image = image.convert("L" if self.channels == 1 else "RGB")
        return load_image(_as_uint8(np.asarray(image)), self.channels)

    def _predict(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        batch = [self._geometry.image(image, self.channels) for image in images]
        blank = [np.zeros_like(batch[0])] * (self.batch_size - len(batch))
        scores = jax.device_get(self._score(self._variables, np.stack(batch + blank)))
        values = self.calibration.image_scores(scores.terms[: len(batch)])
        return [
            Prediction(
                score=float(value),
                threshold=float(self.threshold),
                is_defective=bool(value >= self.threshold),
                anomaly_map=self._geometry.invert(scores.anomaly_map[i], image.shape[:2]),
                terms=dict(zip(self.calibration.terms, map(float, scores.terms[i]), strict=True)),
                recon=scores.recon[i],
            )
            for i, (image, value) in enumerate(zip(images, values, strict=True))
        ]


def _as_uint8(image: np.ndarray) -> np.ndarray:
    if image.dtype == np.uint8:
        return image
    if not np.issubdtype(image.dtype, np.floating):
        raise UserError(f"image of {image.dtype}: give uint8, or floats in [0, 1]")
    if not (np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1):
        raise UserError(
            f"float image with values from {image.min():g} to {image.max():g}: scale it to [0, 1]"
        )
    return np.rint(image * 255).astype(np.uint8)
