"""Converts raw images to array records.

python -m vtadl_jax.prepare --dataset mvtec_ad --source DIR_OR_ARCHIVE --data_dir OUT

Rerunning continues: finished categories are verified and kept. With --check it writes no records
and reports on --source, or verifies the records in --data_dir.
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
_JSON = _define("json", "", "With --check: also write the report to this file.")


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
    if _CHECK.value and not _SOURCE.value and _DATA_DIR.value:
        return report(inspect.inspect_prepared(data_dir))
    if not _SOURCE.value:
        raise UserError(f"no --source: {builder.MANUAL_DOWNLOAD_INSTRUCTIONS}")
    if _CHECK.value:
        return report(inspect.inspect_source(builder, source, _CATEGORY.value, track))
    if not _DATA_DIR.value:
        raise UserError("no --data_dir: give the folder for the records")
    folders = prepare(_DATASET.value, source, data_dir, size, _CATEGORY.value)
    say(f"{data_dir / builder.name} holds {', '.join(f.parent.name for f in folders)}")
    return 0


def report(found) -> int:
    print(found.text())
    if _JSON.value:
        text = json.dumps(found.as_dict(), indent=2, ensure_ascii=False)
        try:
            Path(_JSON.value).write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise UserError(f"--json {_JSON.value}: {error.strerror}, give another") from error
    return 2 if found.errors else 0


def main(argv: list[str]) -> int:
    return run_command(FLAGS, argv, __doc__, run, "run the same command to continue")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
