"""Exports a run as a StableHLO program by `jax.export`, which runs without this program's code.

The file holds the program for several platforms, the weights beside it, and the calibration; its
thresholds are inputs of the program. It takes images of any size, and batches of any number where
the method allows.
"""

import dataclasses
import datetime
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax import export

from vtadl_jax.errors import UserError
from vtadl_jax.evaluation.calibration import Calibration
from vtadl_jax.export.about import about_run
from vtadl_jax.export.bundle import WEIGHTS, Bundle, to_safetensors, write_bundle
from vtadl_jax.export.deploy import Deployed, deployed
from vtadl_jax.export.deploy_windows import deployed_windows
from vtadl_jax.export.opened import ExportedPredictor, manifest_geometry
from vtadl_jax.export.saved import CALIBRATION, LICENCES, calibration_of, named, to_json
from vtadl_jax.export.settings import settings_of
from vtadl_jax.ops.platform import on_platform
from vtadl_jax.runtime.console import say
from vtadl_jax.runtime.files import replacing
from vtadl_jax.training.stored import place_of

if TYPE_CHECKING:  # it imports what an opened file does not need
    from vtadl_jax.evaluation.trained_run import Run

PROGRAM, SETTINGS = "program.jax_export", "settings"
PLATFORMS = ("cpu", "cuda", "tpu")
READABLE = 180  # days that jax reads an older version's file: docs.jax.dev, "Compatibility"


@dataclasses.dataclass(frozen=True)
class Traced:
    """An exported program, and its batch size: None for any."""

    program: export.Exported
    batch_size: int | None


def export_run(
    run: "Run",
    calibration: Calibration,
    path: Path,
    platforms: Sequence[str] = PLATFORMS,
    weights_inside: bool = False,
    num_regions: int = 0,
) -> dict[str, Any]:
    """Writes a run as a StableHLO program; returns what its manifest says of it.

    weights_inside: as constants of the program, which then has no other input than the images, and
    a fixed threshold. num_regions: that it also returns, of each image. Raises UserError for a
    method that can't be exported, with the reason.
    """
    config = run.config
    variables = jax.device_get(run.variables)
    settings = settings_of(calibration, config.eval.image_threshold)
    function = deployed_run(run, num_regions)
    if weights_inside:
        whole = function

        def function(images):  # type: ignore[misc]
            return whole(variables, settings, images)

    given: tuple = () if weights_inside else (variables, settings)
    found = trace(function, given, config.data.channels, config.eval.batch_size, platforms)
    if found.batch_size is not None:
        say(
            f"note: batches have {found.batch_size} images: {config.detector!r} can't be traced "
            f"for any number"
        )
    readable = datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=READABLE)
    about = {
        **about_run(run, calibration),
        "platforms": list(found.program.platforms),
        "calling_convention": found.program.calling_convention_version,
        "batch_size": found.batch_size,
        "weights_inside": weights_inside,
        "readable_until": f"{readable}: later versions of jax may not read it; export again then",
    }
    arrays = {} if weights_inside else named(variables)
    arrays |= {} if weights_inside else {f"{SETTINGS}/{k}": v for k, v in settings.items()}
    members = {
        PROGRAM: bytes(found.program.serialize()),
        CALIBRATION: to_json(calibration.to_dict()),
        WEIGHTS: to_safetensors(arrays),
        LICENCES: "\n".join(about["licences"]).encode() + b"\n",
    }
    write_bundle(path, "stablehlo", about, members)
    return about


def deployed_run(run: "Run", num_regions: int = 0) -> Deployed:
    """Returns the whole way from an image to its decision, as `deploy.deployed`."""
    windows = run.config.data.windows
    if not windows.side:
        return deployed(run.detector, run.geometry, num_regions)
    if num_regions:
        raise UserError(
            f"--regions {num_regions}: a run with data.windows returns none: leave it out"
        )
    return deployed_windows(run.detector, run.geometry, windows, run.config.eval.batch_size)


def write_module(
    run: "Run", calibration: Calibration, path: Path, sides: tuple[int, int], num_regions: int = 0
) -> list[str]:
    """Writes a bare StableHLO module for compilers such as IREE; returns its outputs in order.

    A portable artifact of MLIR bytecode, with weights and thresholds inside, whose only input is
    uint8 [1, *sides, C]. Raises UserError for a method that can't be exported.
    """
    variables = jax.device_get(run.variables)
    settings = settings_of(calibration, run.config.eval.image_threshold)
    function = deployed_run(run, num_regions)
    shape = (1, *sides, run.config.data.channels)
    images = jax.ShapeDtypeStruct(shape, np.uint8)
    # The implementations of no platform in particular: plain operations of StableHLO.
    plain = on_platform("any", lambda images: function(variables, settings, images))
    try:
        program = export.export(jax.jit(plain), platforms=["cpu"])(images)
    except (TypeError, ValueError, NotImplementedError, jax.errors.JAXTypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"this method can't be exported: {reason}") from error
    with replacing(path) as file:
        file.write(program.mlir_module_serialized)
    outputs = jax.tree.unflatten(program.out_tree, program.out_avals)
    return [f"{name} {value.dtype} {list(value.shape)}" for name, value in sorted(outputs.items())]


def trace(
    function: Callable, given: tuple, channels: int, batch_size: int, platforms: Sequence[str]
) -> Traced:
    """Exports function(*given, images) for any batch size, or for this one if it must be known."""
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(np.shape(a), np.asarray(a).dtype), given)
    reason = ""
    for batch in (None, batch_size):
        sides = export.symbolic_shape("h, w" if batch else "b, h, w")
        dims = (batch, *sides) if batch else sides
        images = jax.ShapeDtypeStruct((*dims, channels), np.uint8)
        try:
            exported = export.export(jax.jit(function), platforms=list(platforms))
            return Traced(exported(*shapes, images), batch)
        except (TypeError, ValueError, NotImplementedError, jax.errors.JAXTypeError) as error:
            reason = " ".join(str(error).split())[:300]
    raise UserError(f"this method can't be exported for {', '.join(platforms)}: {reason}")


def open_program(
    bundle: Bundle, batch_size: int = 0, threshold: float | None = None
) -> ExportedPredictor:
    """Returns the predictor of an exported program. Raises UserError if jax can't read it."""
    try:
        program = export.deserialize(bytearray(bundle.members[PROGRAM]))
    except Exception as error:  # whatever jax and flatbuffers raise is said in one line
        reason = " ".join(str(error).split())[:200]
        until = bundle.manifest.get("readable_until", "")
        raise UserError(
            f"{bundle.path} can't be read by jax {jax.__version__} ({reason}; readable until "
            f"{until}): export the run again"
        ) from error
    here = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    if here not in program.platforms:
        raise UserError(
            f"{bundle.path} is for {', '.join(program.platforms)}, and this machine has {here}: "
            f"export the run with --platforms={here}"
        )
    if threshold is not None and bundle.manifest["weights_inside"]:
        raise UserError(
            f"threshold {threshold}: that of {bundle.path} is inside the program: export the run "
            f"again without --weights_inside"
        )
    calibration = calibration_of(bundle)
    arrays = jax.tree.map(jax.numpy.asarray, bundle.arrays())
    inputs = _inputs(bundle, program, arrays, calibration, threshold)
    run = jax.jit(program.call)

    def call(images: np.ndarray) -> dict[str, np.ndarray]:
        return jax.device_get(run(*inputs, images))

    image, fixed = bundle.manifest["image"], bundle.manifest["batch_size"]
    return ExportedPredictor(
        call,
        calibration,
        manifest_geometry(bundle.manifest, bundle.path),
        channels=image["channels"],
        batch_size=fixed or batch_size or 1,
        threshold=bundle.manifest["decision"]["threshold"] if threshold is None else threshold,
        any_size=True,
    )


def _inputs(bundle: Bundle, program, arrays, calibration, threshold) -> tuple:
    """Returns the inputs of the program in addition to the images, in its own structure."""
    if bundle.manifest["weights_inside"]:
        return ()
    settings = {
        name.removeprefix(f"{SETTINGS}/"): arrays[name]
        for name in arrays
        if name.startswith(f"{SETTINGS}/")
    }
    if threshold is not None:
        settings |= settings_of(calibration, threshold)
    (args, _) = jax.tree.unflatten(program.in_tree, program.in_avals)
    variables = jax.tree_util.tree_map_with_path(lambda keys, _: arrays[place_of(keys)], args[0])
    return variables, settings
