"""Checks that an exported file scores as the run that it was made of.

python -m vtadl_jax.validate --reference W --exported FILE --input DIR

Scores the images of --input, a folder, a file or a glob pattern, by both; without --input, the
run's test images and, if its data are there, held-out good images. Prints the largest and the mean
difference of scores and maps, the decisions that differ, latencies and sizes; --output FILE.json
writes them. Exit codes: 0 the same within the tolerances, 1 not the same, 2 a mistake the user can
fix, 130 interrupted.
"""

import functools
import sys
from pathlib import Path

from absl import flags

from vtadl_jax.data.finding import find_images
from vtadl_jax.errors import UserError, printable
from vtadl_jax.evaluation.predictor import Predictor
from vtadl_jax.export.validation import Tolerances, compare, known_images, latencies, to_lines
from vtadl_jax.runtime.command import run_command
from vtadl_jax.runtime.compilation_cache import use_own_cache
from vtadl_jax.runtime.console import say
from vtadl_jax.runtime.files import write_json

FLAGS = flags.FlagValues()
_define = functools.partial(flags.DEFINE_string, flag_values=FLAGS)
_REFERENCE = _define("reference", "", "Folder of the run.")
_EXPORTED = _define("exported", "", "File that vtadl_jax.export wrote of it.")
_INPUT = _define("input", "", "Images: a folder, a file or a glob pattern.")
_OUTPUT = _define("output", "", "JSON file for the result.")
_LIMIT = flags.DEFINE_integer("limit", 64, "Images at most, spread.", 1, flag_values=FLAGS)
_SCORES = flags.DEFINE_float(
    "score_tolerance",
    None,
    "Largest relative difference of a score. Default: 1e-4, or by the file's precision.",
    flag_values=FLAGS,
)
_MAPS = flags.DEFINE_float(
    "map_tolerance",
    None,
    "Largest difference of a map, as a share of its color range. Default: ten times that of "
    "scores.",
    flag_values=FLAGS,
)


def run() -> int:
    """Compares the run and the file that the flags name."""
    for flag in (_REFERENCE, _EXPORTED):
        if not flag.value:
            raise UserError(f"no --{flag.name}: see --help")
    workdir, file = (Path(f.value).expanduser() for f in (_REFERENCE, _EXPORTED))
    use_own_cache()
    exported = Predictor.from_file(file)
    reference = Predictor.from_workdir(workdir)
    images = find_images(_INPUT.value).images if _INPUT.value else known_images(workdir)
    chosen = images[:: -(-len(images) // _LIMIT.value)]
    if len(chosen) < len(images):
        say(f"{len(chosen)} of {len(images)} images are compared: --limit={len(images)} for all")
    tolerances = Tolerances.of(file, _SCORES.value, _MAPS.value)
    found = compare(reference, exported, chosen, tolerances)
    found |= {"reference": str(workdir), "exported": str(file), "bytes": file.stat().st_size}
    makers = {
        "reference": lambda size: Predictor.from_workdir(workdir, batch_size=size),
        "exported": lambda size: Predictor.from_file(file, batch_size=size),
    }
    found["latency"] = latencies(makers, chosen[0])
    for line in to_lines(found):
        say(line)
    if _OUTPUT.value:
        path = Path(_OUTPUT.value).expanduser()
        write_json(path, found)
        say(f"written to {printable(path)}")
    return int(not found["passed"])


def main(argv: list[str]) -> int:
    return run_command(FLAGS, argv, __doc__, run, "nothing was written")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
