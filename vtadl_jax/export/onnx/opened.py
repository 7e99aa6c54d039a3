"""Opens an ONNX file of this program as a predictor: needs onnxruntime, neither JAX's programs nor
the run.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vtadl_jax import __version__
from vtadl_jax.data.decode import AnyImage, loaded
from vtadl_jax.errors import UserError
from vtadl_jax.evaluation.calibration import Calibration
from vtadl_jax.evaluation.predictor import Intake
from vtadl_jax.export.bundle import FORMAT
from vtadl_jax.export.opened import ExportedPredictor, manifest_geometry

MANIFEST, CALIBRATION = "vtadl_jax.manifest", "vtadl_jax.calibration"  # names in the metadata
USED = "threshold_used"  # the output that says what scores were compared with
PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
INSTALL = "pip install 'vtadl_jax[onnx]'"


def check_installed() -> None:
    """Raises UserError if the packages of the extra `onnx` are not there."""
    try:
        import onnx
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise UserError(f"ONNX files need {error.name or 'onnx'}: {INSTALL}") from error
    del onnx


def make_session(model: bytes | str, num_threads: int = 0) -> Any:
    """Returns a session of ONNX Runtime, on a GPU if its package and the machine have one."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = num_threads
    known = onnxruntime.get_available_providers()
    providers = [name for name in PROVIDERS if name in known]
    return onnxruntime.InferenceSession(model, options, providers=providers)


class OnnxPredictor(ExportedPredictor):
    """Predictor by an ONNX file. image_size: (h, w) that the file takes."""

    image_size: tuple[int, int]

    def take_in(
        self, image: AnyImage, use: Callable[[np.ndarray], Any] | None = None
    ) -> tuple[Intake, Any]:
        """Loads an image as `Predictor.take_in`.

        Raises UserError for an image of another size if the file is for images of one size that is
        not the network's.
        """
        if self.image_size == self._geometry.size:
            return super().take_in(image, use)  # resized here
        with loaded(image, self.channels, self._geometry.bits) as pixels:
            height, width = pixels.shape[:2]
            if (height, width) != self.image_size:
                raise UserError(
                    f"image of {height} × {width} pixels: the ONNX file is for "
                    f"{self.image_size[0]} × {self.image_size[1]}: export again with "
                    f"--image_size={height},{width}, or without it for any size here"
                )
            whole = pixels if pixels.ndim == 3 else pixels[..., None]
            whole = np.repeat(whole, self.channels // whole.shape[2], axis=2)
            return Intake(whole, (height, width)), None if use is None else use(pixels)


def open_onnx(path: Path, batch_size: int = 0, threshold: float | None = None) -> OnnxPredictor:
    """Opens an ONNX file of this program as a predictor; batch_size 0: one image at once.

    Raises UserError if onnxruntime is missing, and for a file that it can't read or that another
    program, or a newer version, wrote.
    """
    manifest, calibration, session = read_onnx(path)
    image = manifest["image"]
    given = {} if threshold is None else {"threshold": np.asarray(threshold, np.float32)}

    def call(images: np.ndarray) -> dict[str, np.ndarray]:
        names = [output.name for output in session.get_outputs()]
        outputs = dict(zip(names, session.run(names, {"images": images, **given}), strict=True))
        predictor.threshold = float(outputs[USED])
        return outputs

    predictor = OnnxPredictor(
        call,
        calibration,
        manifest_geometry(manifest, path),
        channels=image["channels"],
        batch_size=batch_size or 1,
        threshold=manifest["decision"]["threshold"] if threshold is None else threshold,
        any_size=False,
    )
    predictor.image_size = (manifest["image_size"][0], manifest["image_size"][1])
    # Threads start and the threshold that the file has now is read.
    call(np.zeros((1, *predictor.image_size, predictor.channels), np.uint8))
    return predictor


def read_onnx(path: Path) -> tuple[dict[str, Any], Calibration, Any]:
    """Returns (manifest, calibration, session of ONNX Runtime) of a file of `export_run`."""
    try:
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise UserError(f"{path}: ONNX files need onnxruntime: {INSTALL}") from error
    if not path.is_file():
        raise UserError(f"{path}: no such file: give one that vtadl_jax.export wrote")
    try:
        session = make_session(str(path))
    except Exception as error:  # the library's errors have no common base class
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} can't be read by ONNX Runtime ({reason}): export again") from error
    found = session.get_modelmeta().custom_metadata_map
    try:
        manifest = json.loads(found[MANIFEST])
        number = manifest["format"]
        calibration = Calibration.from_dict(json.loads(found[CALIBRATION]))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} has no manifest of vtadl_jax.export: give a file that it wrote"
        ) from error
    if type(number) is not int or number > FORMAT:
        version = manifest.get("versions", {}).get("vtadl_jax", "unknown")
        raise UserError(
            f"{path} is of format {number}, of vtadl_jax {version}; this is {__version__}, which "
            f"reads formats up to {FORMAT}: install that version"
        )
    return manifest, calibration, session
