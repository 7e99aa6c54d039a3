"""Writes a trained run as one file for another machine or another program.

python -m vtadl_jax.export --workdir W --format saved --output part.vtadl
python -m vtadl_jax.export --workdir W --format stablehlo --output part.stablehlo
python -m vtadl_jax.export --workdir W --format onnx --output part.onnx --precision float16
python -m vtadl_jax.export --format torch --workdir W --autoencoder VT_AE.pt --mixture G_estimate.pt

'saved': weights, calibration, config and licences in one file, for `Predictor.from_file`, predict
and serve. 'stablehlo': the program itself by jax.export, for cpu, cuda and tpu, that takes uint8
images of any size. 'mlir': a bare StableHLO module for compilers such as IREE, for one image of
--image_size. 'onnx': for ONNX Runtime, images of one size (--image_size), which Python resizes to;
layers of encoders and decoders in float32, float16 or int8. All hold everything from the resize to
the decision. 'torch' gives a run of the
detector 'official' back to the authors' PyTorch code, as two state dicts of the newest checkpoint;
names ending in .safetensors are written without PyTorch.
Exit codes: 0 done, 2 a mistake the user can fix, 130 interrupted.
"""

import functools
import sys
from pathlib import Path

from absl import flags

from vtadl_jax.errors import UserError
from vtadl_jax.evaluation.calibration import Calibration
from vtadl_jax.evaluation.trained_run import Run, load_calibration, load_run
from vtadl_jax.export import torch
from vtadl_jax.runtime import sharding
from vtadl_jax.runtime.command import run_command
from vtadl_jax.runtime.console import say

FORMATS = ("saved", "stablehlo", "mlir", "onnx", "torch")
FLAGS = flags.FlagValues()
_define = functools.partial(flags.DEFINE_string, flag_values=FLAGS)
_FORMAT = flags.DEFINE_enum("format", "saved", FORMATS, "What to write.", flag_values=FLAGS)
_WORKDIR = _define("workdir", "", "Of the run.")
_OUTPUT = _define("output", "", "The file to write; must not exist.")
_PLATFORMS = flags.DEFINE_list(
    "platforms", ["cpu", "cuda", "tpu"], "That a StableHLO program is for.", flag_values=FLAGS
)
_INSIDE = flags.DEFINE_bool(
    "weights_inside", False, "Make weights constants of a StableHLO program.", flag_values=FLAGS
)
_PRECISION = flags.DEFINE_enum(
    "precision",
    "float32",
    ["float32", "float16", "int8"],
    "Of the layers of encoders and decoders in an ONNX file.",
    flag_values=FLAGS,
)
_IMAGE_SIZE = flags.DEFINE_list(
    "image_size",
    [],
    "height,width of the images that an ONNX file or a module takes and resizes. Default: the "
    "network's size.",
    flag_values=FLAGS,
)
_REGIONS = flags.DEFINE_integer(
    "regions",
    0,
    "Anomalous regions that a StableHLO program or a module returns of each image; 0: none.",
    0,
    256,
    flag_values=FLAGS,
)
_AUTOENCODER = _define("autoencoder", "", "Where the auto-encoder's state dict goes (torch).")
_MIXTURE = _define("mixture", "", "Where the mixture network's state dict goes (torch).")


def run() -> int:
    """Exports the run that the flags name."""
    if not _WORKDIR.value:
        raise UserError("no --workdir: give the folder of a run")
    workdir = Path(_WORKDIR.value).expanduser()
    return _torch(workdir) if _FORMAT.value == "torch" else _file(workdir)


def _torch(workdir: Path) -> int:
    for flag in (_AUTOENCODER, _MIXTURE):
        if not flag.value:
            raise UserError(f"no --{flag.name}: see --help")
    paths = [Path(flag.value).expanduser() for flag in (_AUTOENCODER, _MIXTURE)]
    step = torch.export_run(workdir, *paths)
    say(f"step {step}: {paths[0]}, {paths[1]}")
    return 0


def _image_size() -> tuple[int, int] | None:
    given = _IMAGE_SIZE.value
    if not given:
        return None
    if len(given) != 2 or not all(side.strip().isdigit() and int(side) for side in given):
        raise UserError(f"--image_size={','.join(given)}: give height,width in pixels, as 480,640")
    return int(given[0]), int(given[1])


def _file(workdir: Path) -> int:
    for flag, formats in (
        (_PRECISION, ("onnx",)),
        (_IMAGE_SIZE, ("onnx", "mlir")),
        (_REGIONS, ("stablehlo", "mlir")),
    ):
        if flag.present and _FORMAT.value not in formats:
            known = " and ".join(formats)
            raise UserError(f"--{flag.name} is of --format={known}, not {_FORMAT.value}: leave it")
    image_size = _image_size()
    if not _OUTPUT.value:
        raise UserError(f"no --output: give the file to write, as part.{_FORMAT.value}")
    path = Path(_OUTPUT.value).expanduser()
    if path.exists():
        raise UserError(f"--output {path} exists: give another path, or remove it")
    if not path.parent.is_dir():
        raise UserError(f"--output {path}: {path.parent} is not a folder: create it first")
    if _FORMAT.value == "onnx":
        if path.suffix != ".onnx":
            raise UserError(f"--output {path}: a file for ONNX Runtime is named NAME.onnx")
        from vtadl_jax.export.onnx.opened import check_installed

        check_installed()
    found = load_run(workdir, sharding.make_mesh(1))
    calibration = load_calibration(found)
    if found.geometry.regions is not None and found.geometry.regions.area is None:
        say(
            "note: this run has a region for each image (data.regions), which the file can't take: "
            "it inspects images everywhere"
        )
    if _FORMAT.value == "saved":
        from vtadl_jax.export.saved import save_run

        about = save_run(found, calibration, path)
    elif _FORMAT.value == "mlir":
        return _module(found, calibration, path, image_size)
    elif _FORMAT.value == "onnx":
        from vtadl_jax.export.onnx.written import export_run as export_onnx

        about = export_onnx(found, calibration, path, _PRECISION.value, image_size)
    else:
        from vtadl_jax.export.stablehlo import export_run

        about = export_run(
            found, calibration, path, _PLATFORMS.value, _INSIDE.value, _REGIONS.value
        )
        say(f"readable until {about['readable_until']}")
    size = path.stat().st_size / 2**20
    say(f"{about['detector']} at step {about['step']}: {path}, {size:.1f} MiB")
    again = f"python -m vtadl_jax.validate --reference {workdir} --exported {path}"
    say(f"check it: {again} --input DIR")
    return 0


def _module(
    found: Run, calibration: Calibration, path: Path, image_size: tuple[int, int] | None
) -> int:
    from vtadl_jax.export.stablehlo import write_module

    sides = image_size or found.config.image_size
    outputs = write_module(found, calibration, path, sides, _REGIONS.value)
    say(f"input: uint8 [1, {sides[0]}, {sides[1]}, {found.config.data.channels}]")
    for number, output in enumerate(outputs):
        say(f"output {number}: {output}")
    say(f"{path}, {path.stat().st_size / 2**20:.1f} MiB")
    return 0


def main(argv: list[str]) -> int:
    return run_command(FLAGS, argv, __doc__, run, "the file under way was not written")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
