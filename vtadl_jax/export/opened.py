"""Opens files of exports as predictors, whatever their format."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vtadl_jax.data.decode import AnyImage, loaded
from vtadl_jax.data.regions.region import Regions
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.errors import UserError
from vtadl_jax.evaluation.calibration import Calibration
from vtadl_jax.evaluation.predictor import Intake, Prediction, Predictor
from vtadl_jax.export.bundle import read_bundle


class ExportedPredictor(Predictor):
    """Predictor by an exported function, which does everything but decode.

    call: images uint8 [B, h, w, C] → outputs of `deploy.deployed`, in numpy. any_size: whether it
    takes images of any height and width; otherwise they are resized on the host. batch_size: of the
    calls; smaller batches are padded with blank images.
    """

    def __init__(
        self,
        call: Callable[[np.ndarray], dict[str, np.ndarray]],
        calibration: Calibration,
        geometry: Geometry,
        *,
        channels: int,
        batch_size: int,
        threshold: float,
        any_size: bool,
        num_threads: int = 4,
    ):
        if not math.isfinite(threshold):
            raise UserError(f"threshold {threshold}: give a finite number")
        self.calibration, self.channels, self.folder = calibration, channels, None
        self.batch_size, self.num_threads = batch_size, num_threads
        self.threshold = float(threshold)
        self._geometry, self._call, self._any_size = geometry, call, any_size
        self._windows = None  # they are inside the program

    def take_in(
        self, image: AnyImage, use: Callable[[np.ndarray], Any] | None = None
    ) -> tuple[Intake, Any]:
        """Loads an image as `Predictor.take_in`; its intake has the image's own size."""
        if not self._any_size:
            return super().take_in(image, use)
        with loaded(image, self.channels, self._geometry.bits) as pixels:
            height, width = pixels.shape[:2]
            inside = None
            if self._geometry.regions is not None:
                inside = self._geometry.inside((height, width))  # refuses another aspect
            whole = pixels if pixels.ndim == 3 else pixels[..., None]
            whole = np.repeat(whole, self.channels // whole.shape[2], axis=2)
            used = None if use is None else use(pixels)
            return Intake(np.array(whole), (height, width), inside), used

    def predict_batch(self, images: Sequence[Intake]) -> Iterator[Prediction]:
        """Scores at most `batch_size` images, those of one size at once; yields predictions."""
        found: dict[int, Prediction] = {}
        sizes = list(dict.fromkeys(intake.image.shape for intake in images))
        for size in sizes:
            chosen = [i for i, intake in enumerate(images) if intake.image.shape == size]
            batch = [images[i].image for i in chosen]
            batch += [np.zeros_like(batch[0])] * (self.batch_size - len(batch))
            outputs = self._call(np.stack(batch))
            for row, i in enumerate(chosen):
                found[i] = self._prediction(outputs, row, images[i])
        yield from (found[i] for i in range(len(images)))

    def _prediction(self, outputs: dict[str, np.ndarray], row: int, intake: Intake) -> Prediction:
        anomaly_map = None
        if "anomaly_map" in outputs:
            anomaly_map = np.asarray(outputs["anomaly_map"][row])
            if anomaly_map.shape != intake.map_size:
                size = self._geometry.size
                whole = anomaly_map if anomaly_map.shape == size else None
                if whole is not None:
                    anomaly_map = self._whole_map(whole, intake)
        p_value = float(outputs["p_value"][row])
        return Prediction(
            score=float(outputs["score"][row]),
            threshold=self.threshold,
            is_defective=bool(outputs["defective"][row]),
            anomaly_map=anomaly_map,
            terms=self.calibration.by_name(outputs["terms"][row]),
            recon=None,
            unlike_training=self.calibration.reason(outputs["description"][row]),
            p_value=None if math.isnan(p_value) else p_value,
            description=outputs["description"][row],
            expert_p_values=self.calibration.term_p_values(outputs["terms"][row]),
        )


def manifest_geometry(manifest: dict[str, Any], path: Path) -> Geometry:
    """Returns the geometry that a manifest describes. Raises UserError for damaged regions."""
    image, regions = manifest["image"], Regions.from_dict(manifest.get("regions"), path)
    sizes = tuple(image["size"]), tuple(image["resize"])
    return Geometry(*sizes, image["fit"], image["bits"], regions)


def open_model(path: Path, *, batch_size: int = 0, threshold: float | None = None) -> Predictor:
    """Opens a file of an export as a predictor.

    batch_size: 0 takes the file's own. Raises UserError for a file that is damaged, of a newer
    version, or not of `vtadl_jax.export`.
    """
    # Each format is imported where it is read: they know `ExportedPredictor`.
    if path.suffix == ".onnx":
        from vtadl_jax.export.onnx.opened import open_onnx

        return open_onnx(path, batch_size, threshold)
    bundle = read_bundle(path)
    if bundle.kind == "saved":
        from vtadl_jax.export.saved import open_saved

        return open_saved(bundle, batch_size, threshold)
    from vtadl_jax.export.stablehlo import open_program

    return open_program(bundle, batch_size, threshold)
