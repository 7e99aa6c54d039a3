"""Writes a run as an ONNX file.

The file is `deploy.deployed` for images of one size and batches of any: pixels come in; score,
p-value, decision, terms and map go out. 'threshold' and 'pixel_threshold' are inputs that may be
left out. Manifest and calibration are in the file's metadata.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vtadl_jax import __version__
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.errors import UserError
from vtadl_jax.evaluation.calibration import Calibration
from vtadl_jax.evaluation.trained_run import Run
from vtadl_jax.export.about import about_run
from vtadl_jax.export.bundle import FORMAT
from vtadl_jax.export.deploy import deployed
from vtadl_jax.export.onnx.opened import CALIBRATION, MANIFEST, USED, check_installed, make_session
from vtadl_jax.export.settings import settings_of
from vtadl_jax.runtime.console import say
from vtadl_jax.runtime.files import replacing
from vtadl_jax.runtime.versions import compiler_versions

PRECISIONS = ("float32", "float16", "int8")
SETTABLE = ("threshold", "pixel_threshold")
MOST_BYTES = 2**31 - 2**24  # of a protobuf, less what describes the graph
MOST_IMAGES = 32  # that ranges of activations are measured on
AGREE = 0.01  # between ONNX Runtime and JAX for the images of `_probes`: a wrong graph has more


def export_run(
    run: Run,
    calibration: Calibration,
    path: Path,
    precision: str = "float32",
    sides: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Writes a run as an ONNX file; returns what its manifest says of it.

    precision: of the layers of encoders and decoders. sides: (h, w) that images come in, which
    the file resizes; by default they come in the network's size. Raises UserError for a method that
    ONNX can't hold, a model above 2 GiB, a precision that no layer can have, and for int8 if the
    run's good images can't be read.
    """
    check_installed()
    if run.config.data.windows.side:
        raise UserError(
            f"data.windows.side {run.config.data.windows.side}: an ONNX file scores an image at "
            f"once, without a loop over windows: use --format=saved or stablehlo"
        )
    from vtadl_jax.export.onnx import precision as lower

    size = sides or run.config.image_size
    shape = (*size, run.config.data.channels)
    settings = settings_of(calibration, run.config.eval.image_threshold)
    variables = jax.device_get(run.variables)
    model = _model(run, variables, settings, shape)
    apart = _check(model, run, variables, settings, shape)
    say(f"checked: ONNX Runtime and JAX differ by {apart:.1g} (relative; noise and blank images)")
    layers = 0
    if precision == "float16":
        layers = lower.in_half(model)
    elif precision == "int8":
        model, layers = lower.in_int8(model, _good_images(run, size))
    if precision != "float32":
        if not layers:
            raise UserError(
                f"--precision={precision}: {run.config.detector!r} has no layer that may be "
                f"rounded; its densities and distances stay in float32: use --precision=float32"
            )
        say(f"{layers} layers are in {precision}; densities, distances and maps in float32")
    about = {
        **about_run(run, calibration),
        "precision": precision,
        "image_size": list(size),
        "opset": model.opset_import[0].version,
    }
    manifest = {
        "format": FORMAT,
        "kind": "onnx",
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {"vtadl_jax": __version__, **compiler_versions()},
        **about,
    }
    _write(model, path, {MANIFEST: manifest, CALIBRATION: calibration.to_dict()})
    return about


def function_of(run: Run) -> Callable[[Any, Any, Any], dict[str, Any]]:
    """Returns the function (images, (variables, settings), settable) → outputs by name."""
    deploy = deployed(run.detector, run.geometry)

    def function(images: Any, fixed: Any, settable: Mapping[str, Any]) -> dict[str, Any]:
        variables, settings = fixed
        outputs = deploy(variables, {**settings, **settable}, images)
        return {**outputs, USED: settable["threshold"] + 0}

    return function


def _model(run: Run, variables: Any, settings: Any, shape: tuple[int, int, int]) -> Any:
    from vtadl_jax.export.onnx.graph import Unsupported
    from vtadl_jax.export.onnx.model import to_onnx

    total = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(variables))
    too_large = UserError(
        f"the model has {total / 2**30:.1f} GiB, and an ONNX file may have 2: use --format=saved"
    )
    if total > MOST_BYTES:
        raise too_large
    chosen = {name: settings[name] for name in SETTABLE}
    try:
        model = to_onnx(function_of(run), shape, (variables, settings), chosen)
    except Unsupported as error:
        raise UserError(
            f"{run.config.detector!r} can't be written as ONNX: {error}: use --format=saved or "
            f"--format=stablehlo"
        ) from error
    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) > MOST_BYTES:
        raise too_large
    return model


def _probes(shape: tuple[int, int, int]) -> np.ndarray:
    """Returns images for a check of the graph: noise, a ramp and a blank one, [3, H, W, C]."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 255, shape[1])[None, :, None] * np.ones(shape)
    return np.stack([rng.integers(0, 256, shape), ramp, np.full(shape, 128)]).astype(np.uint8)


def _check(model: Any, run: Run, variables: Any, settings: Any, shape: tuple) -> float:
    """Returns the largest relative difference of a standardized term between ONNX Runtime and JAX,
    for numbers of images that were not traced. Raises UserError if it is not small.
    """
    images = _probes(shape)
    chosen = {name: settings[name] for name in SETTABLE}
    ours = jax.jit(function_of(run))(images, (variables, settings), chosen)
    session, names = make_session(model.SerializeToString()), ["terms", "score"]
    whole = session.run(names, {"images": images})
    alone = [session.run(names, {"images": images[i : i + 1]}) for i in range(len(images))]
    exact, spread = np.asarray(ours["terms"]), settings["spread"]
    size = np.maximum(np.abs(exact - settings["mean"]), spread)
    worst = 0.0
    for terms in (whole[0], np.concatenate([one[0] for one in alone])):
        worst = max(worst, float((np.abs(terms - exact) / size).max()))
    if not worst <= AGREE:
        raise UserError(
            f"{run.config.detector!r} as ONNX scores otherwise than the run, by {worst:.2g} of a "
            f"term: use --format=saved or --format=stablehlo"
        )
    return worst


def _good_images(run: Run, size: Sequence[int]) -> list[np.ndarray]:
    """Returns good images, held out if there are such, as the file takes them."""
    from vtadl_jax.data.pipeline import load_example
    from vtadl_jax.data.sources import load_splits
    from vtadl_jax.training.division import divide

    config = run.config
    try:
        splits = load_splits(config, run.detector.needs, draw=False)
    except UserError as error:
        raise UserError(
            f"--precision=int8 measures the ranges of layers on the run's good images, which can't "
            f"be read: {error}"
        ) from error
    division = divide(config, splits.train)
    good = [r for r in (division.holdout or division.fitted) if not r.label]
    chosen = good[:: -(-len(good) // MOST_IMAGES)]
    geometry = run.geometry if tuple(size) == run.config.image_size else Geometry(
        (int(size[0]), int(size[1])), None, "stretch", run.geometry.bits
    )  # fmt: skip
    return [load_example(r, geometry, config.data.channels)["image"] for r in chosen]


def _write(model: Any, path: Path, metadata: Mapping[str, Any]) -> None:
    for name, value in metadata.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = name, json.dumps(value)
    model.producer_name, model.producer_version = "vtadl_jax", __version__
    with replacing(path) as file:
        file.write(model.SerializeToString())
