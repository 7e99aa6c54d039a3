"""What XLA makes of a step.

python -m vtadl_jax.compile --config configs/mvtec.py --topology v5e:2x2

Lowers and compiles the very functions that training, evaluation and prediction use, from shapes
alone: no data, no state and no device of the target. The TPU's compiler comes with the extra `tpu`
and runs on any Linux machine. Writes a table to the terminal, and JSON, Markdown and HTML to
--output. A batch is the config's, over all devices here, for each device of a topology.

  --against other.json | configs/other.py   what differs from that report, or from that config
  --sweep v5e:1x1,2x2,4x4,8x8,16x16         the same step over growing slices

Exit codes: 0 done, 1 the program does not fit, 2 a mistake the user can mend, 130 interrupted.
"""

import importlib.util
import json
import sys
from pathlib import Path

import jax
from absl import flags
from ml_collections import ConfigDict

from vtadl_jax import config as config_lib
from vtadl_jax.compiling import comparing, forms, page, scaling, search, sections, writing
from vtadl_jax.compiling.program import STEPS
from vtadl_jax.compiling.reading import SCHEMA, Reading, read_step, write_json
from vtadl_jax.compiling.topology import LOCAL, Target, find_target
from vtadl_jax.compiling.wording import mib
from vtadl_jax.errors import UserError
from vtadl_jax.writers import say

_TOPOLOGY = flags.DEFINE_string("topology", LOCAL, "'local', or as v5e:4x4, 2*v5e:4x4.")
_STEP = flags.DEFINE_string(
    "step", "train", "train, eval or predict; or a part of a train step: decoder, mixture or ssim."
)
_IMAGES = flags.DEFINE_integer("images_per_device", 0, "0: the config's batch.", lower_bound=0)
_TRAINING = flags.DEFINE_integer(
    "training_images", 209, "Of a category, for the length of the whole training.", lower_bound=1
)
_SEARCH = flags.DEFINE_bool(
    "search_batch", False, "Find the largest batch that fits: up to 7 more compilations."
)
_AGAINST = flags.DEFINE_string("against", "", "A report's JSON, or a config file, to compare with.")
_SWEEP = flags.DEFINE_string("sweep", "", "Topologies, smallest first.")
_STRONG = flags.DEFINE_integer(
    "images_in_all", 256, "Of the sweep's strong scaling; 0: weak only.", lower_bound=0
)
_DUMP = flags.DEFINE_bool("dump", False, "Also write StableHLO, and HLO before and after XLA.")
_FORMS = flags.DEFINE_string(
    "forms", "", "Other forms of operations than the target's, as ops.ssim=cpu; see forms.py."
)
_NAME = flags.DEFINE_string("name", "", "Of the report's files; '': the config's.")
_OUTPUT = flags.DEFINE_string("output", "compiled", "Folder of the reports.")


def report(config: ConfigDict, name: str, target: Target, output: Path) -> Reading:
    """Read a step, show and write its report. Returns the reading."""
    stem = output / file_name(name, _STEP.value, target.name)
    reading = read_step(
        config,
        name,
        target,
        _STEP.value,
        _IMAGES.value,
        output / "programs",
        stem if _DUMP.value else None,
        forms.parse(_FORMS.value),
    )
    if _SEARCH.value:
        reading["largest_batch"] = find_largest(config, name, target, reading, output)
    show(stem, reading)
    return reading


def show(stem: Path, reading: Reading) -> None:
    title, subtitle = sections.title(reading), sections.subtitle(reading)
    tables = sections.sections(reading, _TRAINING.value)
    print(writing.terminal(title, subtitle, tables))
    write_json(stem.with_suffix(".json"), {"schema": SCHEMA, **reading})
    page.write(stem.with_suffix(".md"), writing.markdown(title, subtitle, tables))
    html = page.reading_page(title, subtitle, reading, tables, _TRAINING.value)
    page.write(stem.with_suffix(".html"), html)
    say(f"see {stem}.html, .md and .json")


def find_largest(
    config: ConfigDict, name: str, target: Target, reading: Reading, output: Path
) -> dict | None:
    """The largest batch of a device, as data; None where its memory is not known."""
    if target.chip is None:
        say("the memory of these devices is not in the table: no largest batch is searched")
        return None

    def fit(found: Reading, images: int) -> search.Fit:
        return search.Fit(images, found["fits"], found["memory"]["needed"])

    def measure(images: int) -> search.Fit:
        say(f"trying {images} images a device")
        found = read_step(
            config,
            name,
            target,
            _STEP.value,
            images,
            output / "programs",
            forms=forms.parse(_FORMS.value),
        )
        say(f"  {'fits' if found['fits'] else 'does not fit'}: {mib(found['memory']['needed'])}")
        return fit(found, images)

    first = fit(reading, round(reading["program"]["images_per_device"]))
    found = search.largest_batch(measure, first, target.chip.hbm_bytes)
    return {
        "images": found.images,
        "too_many": found.too_many,
        "tried": [vars(one) for one in found.tried],
    }


def load_other(text: str) -> Reading | ConfigDict:
    """What --against names: a report that was written, or a config yet to be compiled."""
    path = Path(text.partition(":")[0])
    return load_reading(path) if path.suffix == ".json" else load_config(text)


def compare(reading: Reading, other: Reading | ConfigDict, target: Target, output: Path) -> None:
    """Show and write what differs from --against."""
    stem = Path(_AGAINST.value.partition(":")[0]).stem
    if isinstance(other, ConfigDict):
        before = read_step(other, stem, target, _STEP.value, _IMAGES.value, output / "programs")
    else:
        before = other
    for one in (before, reading):
        if not one["fits"]:
            raise UserError(f"{sections.title(one)} does not fit: there is nothing to compare")
    title = f"{sections.title(reading)} against {sections.title(before)}"
    tables = comparing.comparison(before, reading)
    subtitle = sections.subtitle(reading)
    print("\n" + writing.terminal(title, subtitle, tables))
    name = file_name(reading["program"]["config"], _STEP.value, target.name)
    path = output / f"{name}-against-{stem}"
    write_json(path.with_suffix(".json"), {"before": before, "after": reading})
    page.write(path.with_suffix(".md"), writing.markdown(title, subtitle, tables))
    html = page.page(title, subtitle, [page.table(t) for t in tables])
    page.write(path.with_suffix(".html"), html)
    say(f"see {path}.html, .md and .json")


def sweep(config: ConfigDict, name: str, output: Path) -> None:
    shapes = scaling.topologies(_SWEEP.value)
    found = scaling.study(
        config,
        name,
        shapes,
        _STEP.value,
        images_per_device=_IMAGES.value or config.batch_size,
        images_in_all=_STRONG.value,
        cache=output / "programs",
        progress=say,
    )
    chip = shapes[0].partition(":")[0]
    title = f"{name}, {_STEP.value} step from {shapes[0]} to {shapes[-1]}"
    subtitle = sections.subtitle(found["weak"][-1])
    tables = scaling.sections(found, _TRAINING.value)
    print(writing.terminal(title, subtitle, tables))
    stem = output / file_name(name, _STEP.value, f"{chip}-sweep")
    write_json(stem.with_suffix(".json"), {"schema": SCHEMA, **found})
    page.write(stem.with_suffix(".md"), writing.markdown(title, subtitle, tables))
    parts = [
        page.charts(f"{kind.capitalize()} scaling", scaling.curves(found[kind], _TRAINING.value))
        for kind in scaling.KINDS
        if any(r["fits"] for r in found[kind])
    ]
    html = page.page(title, subtitle, [*parts, *(page.table(t) for t in tables)])
    page.write(stem.with_suffix(".html"), html)
    say(f"see {stem}.html, .md and .json")


def file_name(name: str, step: str, topology: str) -> str:
    return f"{name}-{step}-{topology}".replace(":", "-").replace("*", "x")


def load_reading(path: Path) -> Reading:
    """A report's JSON. Raises UserError for another file, or one of another version."""
    try:
        reading = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise UserError(f"--against {path} can't be read ({e}): give a report's JSON") from e
    if not isinstance(reading, dict) or reading.get("schema") != SCHEMA or "fits" not in reading:
        raise UserError(f"--against {path} is not a report of this version: make it again")
    return reading


def load_config(text: str) -> ConfigDict:
    """'configs/mvtec.py:screw' as it is, without the command line's overrides."""
    path, _, argument = text.partition(":")
    spec = importlib.util.spec_from_file_location("vtadl_jax_other_config", path)
    if spec is None or spec.loader is None or not Path(path).is_file():
        raise UserError(f"--against {path}: no such file: give a report's JSON or a config file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config(*([argument] if argument else []))
        config_lib.check_values(config)
        config_lib.assume_color(config)
    except (AttributeError, ImportError, KeyError, SyntaxError, TypeError) as e:
        raise UserError(f"--against {path}: {' '.join(str(e).split())}") from e
    return config


def run(argv: list[str]) -> int:
    config, name = config_lib.parse_flags(argv)
    name = _NAME.value or name
    config_lib.check_values(config)
    config_lib.assume_color(config)
    if _STEP.value not in STEPS:
        raise UserError(f"--step {_STEP.value}: use {', '.join(STEPS)}")
    other = load_other(_AGAINST.value) if _AGAINST.value else None  # a mistake is told at once
    if (_SWEEP.value or _TOPOLOGY.value != LOCAL) and not jax.config.values["jax_platforms"]:
        # Only the TPU's compiler is wanted: JAX is not to look for a TPU on this machine.
        jax.config.update("jax_platforms", "cpu")
    output = Path(_OUTPUT.value)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"--output {output}: {e.strerror}: give another folder") from e
    if _SWEEP.value:
        sweep(config, name, output)
        return 0
    target = find_target(_TOPOLOGY.value)
    reading = report(config, name, target, output)
    if other is not None:
        compare(reading, other, target, output)
    return 0 if reading["fits"] else 1


def main(argv: list[str]) -> int:
    try:
        return run(argv)
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: programs that were read are kept in --output", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv))
