"""Scores images with a trained run from a Python program.

predictor = Predictor.from_workdir("runs/mvtec-screw")
prediction = predictor("part.png")
if prediction.is_defective: ...
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh
from PIL import Image

from vtadl_jax.data.decode import AnyImage, loaded
from vtadl_jax.data.regions.area import read_area
from vtadl_jax.data.regions.per_image import Folder
from vtadl_jax.data.regions.region import lowest_outside
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.detectors.contract import Detector
from vtadl_jax.errors import UserError
from vtadl_jax.evaluation.calibration import Calibration
from vtadl_jax.evaluation.novelty import describe
from vtadl_jax.evaluation.scorer import Scorer
from vtadl_jax.runtime import sharding


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Prediction for one image.

    score: calibrated, larger is more anomalous. threshold: what the score was compared with, that
    of the calibration or the one given to `Predictor`. is_defective: score ≥ threshold, or the
    image is unlike all good ones. anomaly_map: float32 [h, w] at the image's own size, None for a
    detector without maps. terms: the raw score terms by name. recon: uint8 [H, W, C], the
    reconstruction at the network's size, None for a detector without one. unlike_training: what is
    unlike all training images, as "darker than the darkest …"; '' if nothing is. p_value: how
    rarely a good image scores as high (`Calibration.p_values`); None for runs of older versions.
    description: brightness, contrast and so on, [D] of `novelty.describe`, for `DriftMonitor`.
    expert_p_values: the same by the score of each expert alone, of a detector with experts.
    """

    score: float
    threshold: float
    is_defective: bool
    anomaly_map: np.ndarray | None
    terms: dict[str, float]
    recon: np.ndarray | None
    unlike_training: str = ""
    p_value: float | None = None
    description: np.ndarray | None = None
    expert_p_values: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Intake:
    """An image as the network takes it: uint8 [H, W, C], and the (h, w) of its anomaly map.

    inside: bool [H, W], where it is inspected; None: everywhere."""

    image: np.ndarray
    map_size: tuple[int, int]
    inside: np.ndarray | None = None


class Predictor:
    """Scorer of images of any size. Compiles once, in `warm_up` or at the first images.

    batch_size: number of images of the compiled program; smaller batches are padded with blank
    images. folder: files of where each image is inspected, by name, of a run with a region for
    each; an image without one is inspected everywhere. mesh: devices that a batch is sharded over;
    by default the first device. Raises UserError if the batch does not divide over them.
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
        folder: Folder | None = None,
        mesh: Mesh | None = None,
    ):
        self.folder = folder
        self.calibration, self.channels = calibration, channels
        self.batch_size, self.num_threads = batch_size, num_threads
        self.threshold = calibration.image_threshold if threshold is None else threshold
        if not math.isfinite(self.threshold):
            raise UserError(f"threshold {self.threshold}: give a finite number")
        self._geometry = geometry
        mesh = sharding.make_mesh(1) if mesh is None else mesh
        sharding.check_batch("batch_size", batch_size, mesh)
        has_regions = geometry.regions is not None
        shape = (*geometry.size, channels)
        self._scorer = Scorer(detector, shape, batch_size, mesh, has_regions)
        self._variables = self._scorer.place(variables)

    @classmethod
    def from_workdir(
        cls,
        workdir: str | Path,
        *,
        batch_size: int = 0,
        threshold: float | None = None,
        regions: str | Path = "",
        mesh: Mesh | None = None,
    ) -> "Predictor":
        """Loads the newest checkpoint of a workdir and its calibration.

        batch_size: 0 uses that of evaluation, which reproduces its scores bit for bit (other sizes
        round differently); 1 has the lowest latency for single images. regions: folder with a mask
        or polygons for each image, named like it, of a run whose `data.regions` is such a folder;
        images without one, and those that are no paths, are inspected everywhere.

        Raises:
          UserError: no run, no checkpoint or no calibration in the workdir, or regions for a run
            without a region for each image.
        """
        from vtadl_jax.evaluation.trained_run import load_calibration, load_run  # imports orbax

        mesh = sharding.make_mesh(1) if mesh is None else mesh
        run = load_run(Path(workdir), mesh)
        config = run.config
        folder, own = None, run.geometry.regions
        if regions:
            if own is None or own.area is not None:
                has = "inspects everything" if own is None else "has one region for all images"
                raise UserError(f"regions {regions}: the run {workdir} {has}: leave them out")
            folder = Folder.of(Path(regions).expanduser())
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
            folder=folder,
            mesh=mesh,
        )

    @classmethod
    def from_file(
        cls, path: str | Path, *, batch_size: int = 0, threshold: float | None = None
    ) -> "Predictor":
        """Opens a file of `python -m vtadl_jax.export`, without the workdir and its packages.

        batch_size, threshold: as in `from_workdir`. Needs neither orbax nor grain nor optax. Raises
        UserError for a file that is damaged, of a newer version or of another program.
        """
        from vtadl_jax.export.opened import open_model  # the formats know the predictor

        return open_model(Path(path), batch_size=batch_size, threshold=threshold)

    def __call__(self, images: Any) -> Any:
        """Scores one image → a Prediction; a list, tuple or array [B, h, w, C] of them → a list.

        An image is a path, the bytes of a file, a PIL image, or an array [h, w], [h, w, 1] or
        [h, w, 3] of uint8, uint16 or float (in [0, 1]). All ways give the same score: the EXIF
        orientation is applied to PIL images, too. Raises UserError for anything else, for files
        that can't be read, and for a score that is not finite.
        """
        many = isinstance(images, list | tuple) or getattr(images, "ndim", 0) == 4
        intakes = [self._pixels(image) for image in (images if many else [images])]
        found: list[Prediction] = []
        for start in range(0, len(intakes), self.batch_size):
            found += self.predict_batch(intakes[start : start + self.batch_size])
        for prediction in found:
            check_score(prediction.score)
        return found if many else found[0]

    @property
    def per_image(self) -> bool:
        """Whether the run has a region for each image (`data.regions` is a folder)."""
        regions = self._geometry.regions
        return regions is not None and regions.area is None

    def warm_up(self) -> Prediction:
        """Compiles now, so that the first images are as fast as later ones.

        Returns the prediction for a blank image; its fields show whether the detector makes maps.
        """
        height, width = self._geometry.size
        return next(self.predict_batch([self._pixels(np.zeros((height, width), np.uint8))]))

    def take_in(
        self, image: AnyImage, use: Callable[[np.ndarray], Any] | None = None
    ) -> tuple[Intake, Any]:
        """Loads an image of a type that `decode` takes; returns its intake and what `use` returns.

        use: called with the pixels at their own size, uint8 [h, w] or [h, w, 3], which are not
        kept. Raises UserError for an image, or its file of regions, that can't be read.
        """
        area = self._area_of(image)
        with loaded(image, self.channels, self._geometry.bits) as pixels:
            size, geometry = (pixels.shape[0], pixels.shape[1]), self._geometry
            whole = geometry.image(pixels, self.channels, area)
            inside = None if geometry.regions is None else geometry.inside(size, area)
            intake = Intake(whole, size, inside)
            used = None if use is None else use(pixels)
            del pixels  # before another image has its turn
            return intake, used

    def _pixels(self, image: Any) -> Intake:
        if isinstance(image, str):
            image = Path(image)
        elif isinstance(image, bytearray | memoryview):
            image = bytes(image)
        elif not isinstance(image, Path | bytes | Image.Image):
            try:
                image = np.asarray(image)
            except (TypeError, ValueError) as error:
                kind = type(image).__name__
                raise UserError(f"image of type {kind} is no array: {error}") from error
        return self.take_in(image)[0]

    def predict_batch(self, images: Sequence[Intake]) -> Iterator[Prediction]:
        """Scores at most `batch_size` images; yields predictions, each with its map, one by one."""
        batch = [intake.image for intake in images]
        blank = [np.zeros_like(batch[0])] * (self.batch_size - len(batch))
        insides = [i.inside for i in images if i.inside is not None]
        inside = None
        if insides:
            inside = np.stack(insides + [np.ones_like(insides[0])] * len(blank))
        scores = self._scorer(self._variables, np.stack(batch + blank), inside)
        descriptions = describe(np.stack(batch))
        values = self.calibration.image_scores(scores.terms[: len(batch)], descriptions)
        for i, (intake, value) in enumerate(zip(images, values, strict=True)):
            anomaly_map, reason = None, self.calibration.reason(descriptions[i])
            if scores.anomaly_map is not None:
                anomaly_map = self._whole_map(scores.anomaly_map[i], intake)
            yield Prediction(
                score=float(value),
                threshold=float(self.threshold),
                is_defective=bool(value >= self.threshold or reason),
                anomaly_map=anomaly_map,
                terms=self.calibration.by_name(scores.terms[i]),
                recon=None if scores.recon is None else scores.recon[i],
                unlike_training=reason,
                p_value=self.calibration.p_value(value),
                description=descriptions[i],
                expert_p_values=self.calibration.term_p_values(scores.terms[i]),
            )

    def inside_at(self, intake: Intake, size: tuple[int, int]) -> np.ndarray | None:
        """Returns which pixels are inspected of an image scaled to `size` (height, width), bool;
        None for all."""
        if intake.inside is None:
            return None
        return self._geometry.invert_inside(intake.inside, size)

    def _area_of(self, image: AnyImage) -> np.ndarray | None:
        """Returns where an image of a run with a region for each is inspected; None: everywhere."""
        if self.folder is None:
            return None
        path = self.folder.file_of(image.as_posix()) if isinstance(image, Path) else None
        return None if path is None else read_area(path).pixels

    def _whole_map(self, anomaly_map: np.ndarray, intake: Intake) -> np.ndarray:
        """Returns a map at the image's own size, the lowest value where it is not inspected."""
        if intake.inside is None:
            return self._geometry.invert(anomaly_map, intake.map_size)
        limit = self.calibration.pixel_threshold
        lowered = lowest_outside(anomaly_map, intake.inside, limit)
        inside = self._geometry.invert_inside(intake.inside, intake.map_size)
        return lowest_outside(self._geometry.invert(lowered, intake.map_size), inside, limit)


def check_score(score: float) -> None:
    """Raises UserError for a score that is not finite: it says neither good nor defective."""
    if not math.isfinite(score):
        raise UserError(
            f"the score is {score}, which is no decision: evaluate the run again, or train it again"
        )
