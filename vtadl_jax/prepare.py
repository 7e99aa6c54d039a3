"""Converts raw images to array records.

python -m vtadl_jax.prepare --dataset mvtec_ad --source DIR_OR_ARCHIVE --data_dir OUT

Rerunning continues: finished categories are verified and kept. With --check it writes no records
and reports on --source, also a plain folder of good images, or verifies the records in --data_dir.
With --check --suspects it also ranks the training images by how novel each is to the others, and
writes suspects.csv, suspects.html with pictures and suspects.txt, a list for update --remove.
Exit codes: 0 done, 2 a mistake or fault that can be fixed, 130 interrupted.
"""

import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from vtadl_jax.errors import UserError
from vtadl_jax.runtime.command import run_command
from vtadl_jax.runtime.console import say, track

# Not absl's global flags: another imported module may define a --json, too.
FLAGS = flags.FlagValues()
_define = functools.partial(flags.DEFINE_string, flag_values=FLAGS)
_DATASET = _define("dataset", "folder", "mvtec_ad, btad, or folder: any images in such a layout.")
_SOURCE = _define("source", "", "Folder of raw images, or .tar.xz, .tar.gz, .tar or .zip of it.")
_DATA_DIR = _define("data_dir", "", "Folder of the records.")
_IMAGE_SIZE = _define("image_size", "", "512 or 512,640 (height,width); empty: the original size.")
_CATEGORY = flags.DEFINE_list(
    "category", [], "Categories to prepare, separated by commas; empty: all.", flag_values=FLAGS
)
_CHECK = flags.DEFINE_bool("check", False, "Report only; write no records.", flag_values=FLAGS)
_BAD = _define("bad", "", "With --check of a plain folder: folder of defective images.")
_MASKS = _define("masks", "", "With --check of a plain folder: folder of the masks of --bad.")
_JSON = _define("json", "", "With --check: also write the report to this file.")
_SUSPECTS = flags.DEFINE_bool(
    "suspects", False, "With --check: rank the training images by novelty.", flag_values=FLAGS
)
_SUSPECTS_DIR = _define("suspects_dir", "suspects", "Folder of what --suspects writes.")
_SUSPECTS_COUNT = flags.DEFINE_integer(
    "suspects_count",
    0,
    "Images that --suspects lists; 0: those of p <= 0.05, at least 10.",
    0,
    flag_values=FLAGS,
)
_FEATURES = _define(
    "features", "filters", "A frozen network that --suspects ranks by, beside filters."
)
_INIT_FROM = _define("init_from", "", "File of the weights of --features (docs/weights.md).")


def parse_size(text: str) -> tuple[int, int] | None:
    """Parses '512' or '512,640' → (height, width), '' → None. Raises UserError for other text."""
    if not text:
        return None
    parts = text.replace("x", ",").strip("() ").split(",")
    if len(parts) in (1, 2) and all(p.strip().isdecimal() and int(p) > 0 for p in parts):
        return int(parts[0]), int(parts[-1])
    raise UserError(f"--image_size {text}: give pixels, as 512, or height,width, as 512,640")


def prepare(
    dataset: str,
    source: Path,
    data_dir: Path,
    image_size: tuple[int, int] | None = None,
    categories: Sequence[str] = (),
) -> list[Path]:
    """Makes records of `source` in `data_dir` and returns the folder of each category.

    Raises UserError as `builders.build.prepare`.
    """
    from vtadl_jax.data.builders import build

    job = build.Job(builder_of(dataset), data_dir, image_size, track, say)
    return build.prepare(job, source, categories)


def builder_of(dataset: str):
    """Returns the builder class of a --dataset. Raises UserError if there is none."""
    from vtadl_jax.data.builders import build  # tensorflow-datasets imports slowly

    if dataset not in build.BUILDERS:
        raise UserError(f"--dataset {dataset!r}: use one of {', '.join(build.BUILDERS)}")
    return build.BUILDERS[dataset]


def run() -> int:
    from vtadl_jax.data.inspection import report as inspect

    builder = builder_of(_DATASET.value)
    size = parse_size(_IMAGE_SIZE.value)
    source, data_dir = (Path(v.value).expanduser() for v in (_SOURCE, _DATA_DIR))
    check_suspects()
    if _CHECK.value and not _SOURCE.value and _DATA_DIR.value:
        return report(inspect.inspect_prepared(data_dir))
    if not _SOURCE.value:
        raise UserError(f"no --source: {builder.MANUAL_DOWNLOAD_INSTRUCTIONS}")
    if _CHECK.value:
        plain = {"bad": _BAD.value, "masks": _MASKS.value}
        found = inspect.inspect_source(builder, source, _CATEGORY.value, track, size, **plain)
        code = report(found)
        return code or (rank_suspects(found) if _SUSPECTS.value else 0)
    if _BAD.value or _MASKS.value:
        raise UserError("--bad and --masks are for --check: a plain folder cannot be prepared")
    if not _DATA_DIR.value:
        raise UserError("no --data_dir: give the folder for the records")
    folders = prepare(_DATASET.value, source, data_dir, size, _CATEGORY.value)
    say(f"{data_dir / builder.name} holds {', '.join(f.parent.name for f in folders)}")
    return 0


def check_suspects() -> None:
    """Raises UserError for flags of --suspects that do not fit the others."""
    if not _SUSPECTS.value:
        for flag in (_SUSPECTS_DIR, _SUSPECTS_COUNT, _FEATURES, _INIT_FROM):
            if flag.value != FLAGS[flag.name].default:
                raise UserError(f"--{flag.name} {flag.value} is read with --check --suspects only")
    elif not _CHECK.value or not _SOURCE.value:
        raise UserError("--suspects ranks images of a folder: give --check and --source DIR, too")
    elif bool(_INIT_FROM.value) != (_FEATURES.value != "filters"):
        raise UserError(
            f"--features {_FEATURES.value} and --init_from {_INIT_FROM.value!r}: a frozen network "
            f"needs both, filters neither"
        )


def rank_suspects(found) -> int:
    """Ranks the training images of every category of a report, and writes their files."""
    from vtadl_jax.data.sources.layouts import folder_layout
    from vtadl_jax.report.suspects import told, write_suspects
    from vtadl_jax.training.trimming import LEAST, rank_by

    place, folder = Path(found.where), Path(_SUSPECTS_DIR.value).expanduser()
    for category in (c.category for c in found.categories):
        inside = category if (place / category).is_dir() else ""
        splits = folder_layout(place, inside, _BAD.value, _MASKS.value, test=False)
        if len(splits.train) < LEAST:
            raise UserError(
                f"--suspects: {category} has {len(splits.train)} training images, and {LEAST} or "
                f"more can be ranked"
            )
        ranking = rank_by(splits.train, _FEATURES.value, _INIT_FROM.value)
        count = _SUSPECTS_COUNT.value or max(int((ranking.p_values <= 0.05).sum()), 10)
        out = folder / category if len(found.categories) > 1 else folder
        files = write_suspects(ranking, out, min(count, len(splits.train)))
        print(told(ranking, category, count).encode(errors="backslashreplace").decode())
        say(f"{category}: {', '.join(map(str, files))}")
    return 0


def report(found) -> int:
    # Names of files need not be UTF-8.
    print(found.text().encode(errors="backslashreplace").decode())
    if _JSON.value:
        text = json.dumps(found.as_dict(), indent=2, ensure_ascii=False)
        try:
            Path(_JSON.value).write_bytes(f"{text}\n".encode(errors="backslashreplace"))
        except OSError as error:
            raise UserError(f"--json {_JSON.value}: {error.strerror}, give another") from error
    return 2 if found.errors else 0


def main(argv: list[str]) -> int:
    return run_command(FLAGS, argv, __doc__, run, "run the same command to continue")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
