"""Scores images with a trained run from a Python program.

predictor = Predictor.from_workdir("runs/mvtec-screw")
prediction = predictor("part.png")
if prediction.is_defective: ...
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh
from PIL import Image

from vtadl_jax.data.decode import load_image
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.detectors.contract import Detector
from vtadl_jax.errors import UserError
from vtadl_jax.evaluation.calibration import Calibration
from vtadl_jax.evaluation.scoring import Scorer
from vtadl_jax.evaluation.trained_run import load_calibration, load_run
from vtadl_jax.runtime import sharding


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Prediction for one image.

    score: calibrated, larger is more anomalous. is_defective: score ≥ threshold. anomaly_map:
    float32 [h, w] at the image's own size, None for a detector without maps. terms: the raw score
    terms by name. recon: uint8 [H, W, C], the reconstruction at the network's size, None for a
    detector without reconstruction.
    """

    score: float
    threshold: float
    is_defective: bool
    anomaly_map: np.ndarray | None
    terms: dict[str, float]
    recon: np.ndarray | None


class Predictor:
    """Scorer of images of any size. Compiles once, in `warm_up` or at the first images.

    batch_size: number of images of the compiled program; smaller batches are padded with blank
    images. mesh: devices that a batch is sharded over; by default the first device. Raises
    UserError if the batch does not divide over them.
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
        mesh: Mesh | None = None,
    ):
        self.calibration, self.channels = calibration, channels
        self.batch_size, self.num_threads = batch_size, num_threads
        self.threshold = calibration.image_threshold if threshold is None else threshold
        if not np.isfinite(self.threshold):
            raise UserError(f"threshold {self.threshold}: give a finite number")
        self._geometry = geometry
        mesh = sharding.make_mesh(1) if mesh is None else mesh
        sharding.check_batch("batch_size", batch_size, mesh)
        self._scorer = Scorer(detector, (*geometry.size, channels), batch_size, mesh)
        self._variables = self._scorer.place(variables)

    @classmethod
    def from_workdir(
        cls,
        workdir: str | Path,
        *,
        batch_size: int = 0,
        threshold: float | None = None,
        mesh: Mesh | None = None,
    ) -> "Predictor":
        """Loads the newest checkpoint of a workdir and its calibration.

        batch_size: 0 uses that of evaluation, which reproduces its scores bit for bit (other sizes
        round differently); 1 has the lowest latency for single images.

        Raises:
          UserError: no run, no checkpoint or no calibration in the workdir.
        """
        mesh = sharding.make_mesh(1) if mesh is None else mesh
        run = load_run(Path(workdir), mesh)
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
            mesh=mesh,
        )

    def __call__(self, images: Any) -> Any:
        """Scores one image → a Prediction; a list, tuple or array [B, h, w, C] of them → a list.

        An image is a path, a PIL image, uint8 or float (in [0, 1]) [h, w], [h, w, 1] or [h, w, 3].
        Raises UserError for anything else and for files that can't be read.
        """
        many = isinstance(images, list | tuple) or getattr(images, "ndim", 0) == 4
        loaded = [self._pixels(image) for image in (images if many else [images])]
        found: list[Prediction] = []
        for start in range(0, len(loaded), self.batch_size):
            found += self._predict(loaded[start : start + self.batch_size])
        return found if many else found[0]

    def warm_up(self) -> Prediction:
        """Compiles now, so that the first images are as fast as later ones.

        Returns the prediction for a blank image; its fields show whether the detector makes maps.
        """
        height, width = self._geometry.size
        return self._predict([np.zeros((height, width), np.uint8)])[0]

    def _pixels(self, image: Any) -> np.ndarray:
        if isinstance(image, str | Path):
            return load_image(Path(image), self.channels)
        if isinstance(image, Image.Image):
            image = image.convert("L" if self.channels == 1 else "RGB")
        return load_image(_as_uint8(np.asarray(image)), self.channels)

    def _predict(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        batch = [self._geometry.image(image, self.channels) for image in images]
        blank = [np.zeros_like(batch[0])] * (self.batch_size - len(batch))
        scores = self._scorer(self._variables, np.stack(batch + blank))
        values = self.calibration.image_scores(scores.terms[: len(batch)])
        found = []
        for i, (image, value) in enumerate(zip(images, values, strict=True)):
            anomaly_map = None
            if scores.anomaly_map is not None:
                anomaly_map = self._geometry.invert(scores.anomaly_map[i], image.shape[:2])
            found.append(
                Prediction(
                    score=float(value),
                    threshold=float(self.threshold),
                    is_defective=bool(value >= self.threshold),
                    anomaly_map=anomaly_map,
                    terms=self.calibration.by_name(scores.terms[i]),
                    recon=None if scores.recon is None else scores.recon[i],
                )
            )
        return found


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
