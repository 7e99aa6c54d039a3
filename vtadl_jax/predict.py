"""Scores new images with a trained run.

python -m vtadl_jax.predict --workdir runs/mvtec-screw --input DIR_OR_FILE_OR_GLOB --output OUT

or, in place of --workdir, --model FILE of vtadl_jax.export.

Writes OUT/predictions.csv and, for every image, an overlay and its anomaly map at the image's own
size, if the detector makes maps; the anomalous regions of all, OUT/regions.csv and regions.json;
and OUT/report.html, the page of all decisions, on which a person can sort images for
vtadl_jax.update. --meta FILE or --meta_pattern says where and when images were taken: they are
counted by station and time. Images that are not scored are in OUT/left_out.csv. Exit codes: 0
all scored, 1 some images are left out (they are listed, the others are scored), 2 a mistake the
user can fix, 130 interrupted, 143 told to stop (SIGTERM). The scores so far are kept.
"""

import contextlib
import functools
import math
import signal
import sys
from pathlib import Path

from absl import flags

from vtadl_jax.data.finding import Found, find_images
from vtadl_jax.errors import UserError, printable
from vtadl_jax.evaluation.drift import DriftMonitor
from vtadl_jax.evaluation.predictor import Predictor
from vtadl_jax.report.groups import PERIODS, Groups, by_pattern, read_meta
from vtadl_jax.report.names import cell
from vtadl_jax.report.pdf import find_browser, print_pdf
from vtadl_jax.report.prediction_page import PAGE, Sheet, write_prediction_page
from vtadl_jax.report.predictions import Outcome, predict, table
from vtadl_jax.report.region_files import MOST, Regions
from vtadl_jax.runtime.command import run_command
from vtadl_jax.runtime.compilation_cache import use_own_cache
from vtadl_jax.runtime.console import say
from vtadl_jax.runtime.files import writing

FLAGS = flags.FlagValues()
_define = functools.partial(flags.DEFINE_string, flag_values=FLAGS)
_WORKDIR = _define("workdir", "", "Folder of the trained run.")
_MODEL = _define("model", "", "File that vtadl_jax.export wrote, in place of --workdir.")
_INPUT = _define("input", "", "Images: a folder (and its sub-folders), a file or a glob pattern.")
_OUTPUT = _define("output", "", "Folder for the results; must be new or empty.")
_MAPS = flags.DEFINE_enum(
    "maps", "npy", ["npy", "tiff", "none"], "File type of the float32 maps.", flag_values=FLAGS
)
_OVERLAYS = flags.DEFINE_bool("overlays", True, "Also draw pictures.", flag_values=FLAGS)
_THRESHOLD = flags.DEFINE_float(
    "threshold", None, "Defect if score >= threshold. Default: calibrated.", flag_values=FLAGS
)
_REGIONS = flags.DEFINE_bool(
    "regions", True, "Write the anomalous regions of the maps.", flag_values=FLAGS
)
_INSPECT = _define(
    "inspect",
    "",
    "Folder with a mask or polygons for each image, named like it, of a run whose data.regions is "
    "such a folder.",
)
_DRIFT = flags.DEFINE_bool(
    "drift",
    True,
    "Tell when images stop to be like the good ones; their order is that of their names.",
    flag_values=FLAGS,
)
_MM = flags.DEFINE_float(
    "mm_per_pixel", 0.0, "Side of a pixel in mm: regions have sizes in mm, too.", flag_values=FLAGS
)
_MIN_AREA = flags.DEFINE_integer(
    "min_area", 1, "Regions of fewer pixels are left out.", 1, flag_values=FLAGS
)
_REPORT = flags.DEFINE_bool(
    "report", True, "Write the page report.html of decisions, drift and images.", flag_values=FLAGS
)
_PDF = flags.DEFINE_bool(
    "pdf", False, "Print the page as report.pdf, too; needs Chromium.", flag_values=FLAGS
)
_META = _define("meta", "", "CSV with the columns file, time, station: images are counted by them.")
_PATTERN = _define(
    "meta_pattern",
    "",
    "Regular expression with the groups station and time, found in the names, in place of --meta.",
)
_PERIOD = flags.DEFINE_enum(
    "period", "day", sorted(PERIODS), "What images are counted by.", flag_values=FLAGS
)
TERMINATED = 143
NAMED = 20  # names on a line of the terminal


class Terminated(BaseException):
    """The system told the program to stop (SIGTERM)."""


def report_left_out(out: Path, found: Found, outcome: Outcome) -> None:
    """Names on the terminal what was not scored; writes left_out.csv if these may be images."""
    for name, reason in outcome.left_out:
        text = reason if printable(name) in reason else f"{name} {reason}"
        print(f"skipped: {printable(text)}", file=sys.stderr)
    if found.passed_over:
        names = ", ".join(map(printable, found.passed_over[:NAMED]))
        more = f" and {len(found.passed_over) - NAMED} more" if found.passed_over[NAMED:] else ""
        say(f"passed over, as they are hidden or no images: {names}{more}")
    if outcome.left_out:
        with table(out / "left_out.csv", ("name", "reason")) as (writer, _):
            writer.writerows((cell(name), cell(reason)) for name, reason in outcome.left_out)


def run() -> int:
    """Scores the images that the flags name."""
    if not _WORKDIR.value and not _MODEL.value:
        raise UserError("no --workdir: give the folder of a run, or --model FILE of an export")
    if _WORKDIR.value and _MODEL.value:
        raise UserError(f"--workdir {_WORKDIR.value} and --model {_MODEL.value}: give one of them")
    for flag in (_INPUT, _OUTPUT):
        if not flag.value:
            raise UserError(f"no --{flag.name}: give it ({FLAGS[flag.name].help})")
    threshold = _THRESHOLD.value
    if threshold is not None and not math.isfinite(threshold):
        raise UserError(f"--threshold {threshold}: give a finite number")
    found = find_images(_INPUT.value)
    out = Path(_OUTPUT.value).expanduser()
    with writing(out):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"--output {out} exists and is not an empty folder: give another")
    if not (math.isfinite(_MM.value) and _MM.value >= 0):
        raise UserError(f"--mm_per_pixel {_MM.value}: give a size in mm, or 0 if it is not known")
    if _PDF.value:
        if not _REPORT.value:
            raise UserError("--pdf prints the page, and --noreport writes none: leave one of them")
        find_browser()  # before images are scored
    outcome, regions = Outcome(left_out=list(found.left_out)), None
    outcome.groups = grouped(found)
    stopped = True
    previous = signal.signal(signal.SIGTERM, _stop)
    try:
        predictor = _open(threshold)
        if line := inspected_everywhere(predictor, found):
            say(line)
        at = predictor.calibration.pixel_threshold
        if _REGIONS.value and at is not None:
            regions = Regions(at, _MM.value, _MIN_AREA.value)
        if _DRIFT.value:
            outcome.drift = DriftMonitor(predictor.calibration, traced=_REPORT.value)
        if _REPORT.value:
            outcome.sheet = Sheet(found.root, len(found.images), predictor.calibration)
        rest = _MAPS.value, _OVERLAYS.value, outcome, regions
        predict(predictor, found.images, found.root, out, *rest)
        stopped = False
    except Terminated:
        say("stopped by SIGTERM")
    finally:
        signal.signal(signal.SIGTERM, previous)
        if stopped and (out / "predictions.csv").is_file():
            with contextlib.suppress(UserError):  # the error on its way says more
                _conclude(out, found, outcome, regions, predictor.threshold)
    if not stopped:
        _conclude(out, found, outcome, regions, predictor.threshold)
        if _PDF.value:
            print_pdf(out / PAGE, out / "report.pdf")
            say(f"printed: {printable(out / 'report.pdf')}")
    return TERMINATED if stopped else bool(outcome.left_out)


def _open(threshold: float | None) -> Predictor:
    use_own_cache()
    if _MODEL.value:
        if _INSPECT.value:
            raise UserError(
                f"--inspect {_INSPECT.value}: a file of vtadl_jax.export takes no region for each "
                f"image: give --workdir"
            )
        return Predictor.from_file(Path(_MODEL.value).expanduser(), threshold=threshold)
    workdir = Path(_WORKDIR.value).expanduser()
    return Predictor.from_workdir(workdir, threshold=threshold, regions=_INSPECT.value)


def inspected_everywhere(predictor: Predictor, found: Found) -> str:
    """Returns a line on images without a region, of a run with a region for each; '' if all have
    theirs."""
    if not predictor.per_image:
        return ""
    if predictor.folder is None:
        return (
            "note: this run has a region for each image (data.regions): these are inspected "
            "everywhere; give --inspect=DIR for their regions"
        )
    without = [p for p in found.images if predictor.folder.file_of(p.as_posix()) is None]
    if not without:
        return ""
    names = ", ".join(printable(found.name(path)) for path in without[:NAMED])
    more = f" and {len(without) - NAMED} more" if without[NAMED:] else ""
    return (
        f"note: {len(without)} of {len(found.images)} images have no file in --inspect "
        f"{predictor.folder.root} and are inspected everywhere: {names}{more}"
    )


def grouped(found: Found) -> Groups | None:
    """Returns the groups of --meta or --meta_pattern, None without; puts images in order of time.

    Says which images have no time and station. Raises UserError for a table that can't be read.
    """
    if _META.value and _PATTERN.value:
        raise UserError("--meta and --meta_pattern both say where images are from: give one")
    names = [found.name(path) for path in found.images]
    if _META.value:
        taken = read_meta(Path(_META.value).expanduser())
    elif _PATTERN.value:
        taken = by_pattern(_PATTERN.value, names)
    else:
        return None
    groups = Groups(taken, _PERIOD.value)
    for line in groups.notes(names):
        say(line)
    times = [taken[name].time if name in taken else None for name in names]
    if all(time is not None for time in times):
        order = sorted(range(len(names)), key=lambda i: (str(times[i]), i))
        found.images[:] = [found.images[i] for i in order]
        say("the images are taken in the order of their times")
    return groups


def _conclude(
    out: Path, found: Found, outcome: Outcome, regions: Regions | None, threshold: float
) -> None:
    report_left_out(out, found, outcome)
    if outcome.groups is not None:
        for name, _ in outcome.left_out:
            outcome.groups.skip(name)
        outcome.groups.save(out)
    if outcome.sheet is not None:
        run = Path(_WORKDIR.value or _MODEL.value).expanduser().resolve().name
        counts = outcome.scored, outcome.defective, len(outcome.left_out)
        rest = outcome.drift, outcome.alarms, outcome.groups
        write_prediction_page(out, outcome.sheet, run, threshold, counts, *rest)
    if regions is not None:
        regions.save(out / "regions.json")
        if regions.left_out:
            say(f"{regions.left_out} regions are not written, beyond {MOST} of an image")
    for alarm, name in outcome.alarms:
        say(f"drift: {alarm.sentence(printable(name))}")
    for name, reason in outcome.unlike[:NAMED]:
        say(f"{printable(name)} is unlike all training images: {reason.partition('; ')[0]}")
    if outcome.unlike[NAMED:]:
        say(f"and {len(outcome.unlike) - NAMED} more images: column unlike_training of the table")
    total = len(found.images) + len(found.left_out)
    decided = f"{outcome.defective} defective, {outcome.scored - outcome.defective} good"
    where = printable(out / "predictions.csv")
    say(f"{outcome.scored} of {total} images scored, {decided}: {where}")
    if outcome.sheet is not None:
        say(f"open {printable(out / PAGE)}")


def _stop(*_: object) -> None:
    raise Terminated


def main(argv: list[str]) -> int:
    return run_command(FLAGS, argv, __doc__, run, "the images scored so far are in --output")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
