"""The studies of the command `vtadl_jax.compile`: each compiles, prints tables and writes files."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vtadl_jax import experiment, options
from vtadl_jax.compiling import (
    comparing,
    every_method,
    flag_search,
    measured,
    page,
    pareto,
    scaling,
    sections,
    versions,
    writing,
    xla_flags,
)
from vtadl_jax.compiling.largest import find_largest
from vtadl_jax.compiling.program import lower_step
from vtadl_jax.compiling.reading import SCHEMA, Reading, read_step
from vtadl_jax.compiling.topology import Target
from vtadl_jax.config import Config
from vtadl_jax.errors import UserError
from vtadl_jax.runtime.console import say
from vtadl_jax.runtime.sharding import num_slices
from vtadl_jax.runtime.versions import compiler_versions


@dataclasses.dataclass(frozen=True)
class Request:
    """What is compiled, and how.

    text, overrides: the config as on the command line; images: a device, 0 for the config's batch;
    training_images: of a category, for the time of the whole training; output: folder of files.
    """

    text: str
    overrides: Sequence[str]
    config: Config
    name: str
    step: str
    images: int
    implementations: Mapping[str, str]
    xla: Mapping[str, xla_flags.Value]
    training_images: int
    output: Path

    @property
    def cache(self) -> Path:
        return self.output / "programs"

    def stem(self, topology: str) -> Path:
        """Returns the files' path without their endings."""
        return self.output / file_name(self.name, self.step, topology)

    def read(self, target: Target, images: int | None = None, **more: Any) -> Reading:
        """Compiles the step and returns its reading. more: arguments of `read_step`."""
        arguments = {"config": self.config, "name": self.name, "step": self.step, **more}
        return read_step(
            target=target,
            images_per_device=self.images if images is None else images,
            cache=self.cache,
            **{"implementations": self.implementations, "xla": self.xla, **arguments},
        )


def file_name(name: str, step: str, topology: str) -> str:
    return f"{name}-{step}-{topology}".replace(":", "-").replace("*", "x")


def load_config(text: str, overrides: Sequence[str] = ()) -> tuple[Config, str]:
    """Returns the config of 'configs/mvtec.py:screw' and its name; unknown channels become RGB."""
    config, name = experiment.load(text, overrides)
    return experiment.assume_color(config), name


def load_other(text: str) -> Reading | Config:
    """Returns what --against names: a written report, or a config to compile."""
    path = Path(text.partition(":")[0])
    return load_reading(path) if path.suffix == ".json" else load_config(text)[0]


def load_reading(path: Path) -> Reading:
    """Reads a report's JSON. Raises UserError for other files and for reports of other versions."""
    try:
        reading = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise UserError(f"--against {path} can't be read ({e}): give a report's JSON") from e
    if not isinstance(reading, dict) or reading.get("schema") != SCHEMA or "fits" not in reading:
        raise UserError(f"--against {path} is not a report of this version: make it again")
    return reading


def report(
    request: Request,
    target: Target,
    *,
    dump: bool = False,
    record: bool = False,
    largest: bool = False,
    trace: Mapping[str, Any] | None = None,
) -> Reading:
    """Compiles and reads a step, prints and writes its report. Returns the reading.

    trace: measured times, of `measured.read_trace`.
    """
    stem = request.stem(target.name)
    reading = request.read(target, dump=stem if dump else None, record=record)
    if largest:
        reading["largest_batch"] = find_largest(
            lambda images: request.read(target, images), reading, target, say
        )
    title, subtitle = sections.title(reading), sections.subtitle(reading)
    tables = sections.sections(reading, request.training_images)
    if trace is not None and reading["fits"]:
        reading["measured"] = measured.beside(reading, trace)
        tables += measured.sections(reading["measured"])
    html = page.reading_page(title, subtitle, reading, tables, request.training_images)
    data = {"schema": SCHEMA, **reading}
    writing.write_study(stem, data, title, subtitle, tables, html=html)
    return reading


def compare(
    request: Request, target: Target, reading: Reading, other: Reading | Config, against: str
) -> None:
    """Prints and writes the differences from `other`, which --against names."""
    stem = Path(against.partition(":")[0]).stem
    if isinstance(other, Config):
        other = request.read(target, config=other, name=stem, implementations={})
    write_comparison(request, target, other, reading, stem)


def write_comparison(
    request: Request, target: Target, before: Reading, after: Reading, name: str
) -> None:
    """Prints and writes the differences of two readings. name: of the one that is not ours."""
    for one in (before, after):
        if not one["fits"]:
            raise UserError(f"{sections.title(one)} does not fit: there is nothing to compare")
    title = f"{sections.title(after)} against {sections.title(before)}"
    tables = [*comparing.comparison(before, after), *versions.sections(before, after)]
    stem = request.output / f"{request.stem(target.name).name}-against-{name}"
    data = {"before": before, "after": after}
    writing.write_study(stem, data, title, sections.subtitle(after), tables)


def compile_elsewhere(request: Request, python: Path, topology: str) -> Reading:
    """Returns the reading of the step, compiled by another interpreter's environment."""
    found = versions.versions_of(python)
    told = ", ".join(f"{key} {value}" for key, value in found.items())
    say(f"compiling with {python}: {told}")
    folder = request.output / f"with-{versions.name_of(found)}"
    chosen = ",".join(f"{name}={kind}" for name, kind in request.implementations.items())
    values = {
        "config": request.text,
        "name": request.name,
        "topology": topology,
        "step": request.step,
        "images_per_device": request.images,
        "implementations": chosen,
        "output": folder,
        "record": "true",
    }
    arguments = [f"--{key}={value}" for key, value in values.items() if value != ""]
    arguments += [f"--xla={name}={xla_flags.as_text(v)}" for name, v in request.xla.items()]
    file = folder / f"{file_name(request.name, request.step, topology)}.json"
    return versions.compile_with(python, [*arguments, *request.overrides], file)


def search_flags(request: Request, target: Target, goal: str) -> None:
    """Prints and writes what documented flags of the compiler do to the step."""
    known: list[xla_flags.Candidate] = []
    unknown: list[xla_flags.Candidate] = []
    for candidate in xla_flags.candidates(target):
        (known if xla_flags.is_known(target, candidate.flags) else unknown).append(candidate)
    program = lower_step(
        request.config, target, request.step, request.images, request.implementations
    )

    def read(flags: Mapping[str, xla_flags.Value]) -> Reading:
        return request.read(target, xla=flags, program=program)

    found = flag_search.search(read, request.xla, known, goal, say)
    title = f"{request.name}, {request.step} step on {target.name}: flags of the compiler"
    best = found.best.reading
    assert best is not None
    tables = flag_search.sections(found, target, goal, unknown)
    data = {"schema": SCHEMA, "goal": goal, "tried": flag_search.as_data(found)}
    stem = request.stem(f"{target.name}-flags")
    writing.write_study(stem, data, title, sections.subtitle(best), tables)


def trade(request: Request, target: Target, batches: Sequence[int]) -> None:
    """Prints and writes memory against time of the train step. batches: images a device."""

    def read(fields: pareto.Fields, images: int) -> Reading:
        return request.read(target, images, config=options.replace(request.config, fields))

    combinations = pareto.settings(request.config, target.size // num_slices(target.devices))
    points = pareto.study(read, combinations, batches, say)
    readings = [point.reading for point in points if point.reading is not None]
    if not readings:
        raise UserError(f"--pareto: no combination can be compiled: {points[0].trouble}")
    command = pareto.command_of(request.text, request.overrides, target.size)
    title = f"{request.name}, train step on {target.name}: memory against time"
    data = {"schema": SCHEMA, "points": pareto.as_data(points, command)}
    table = pareto.section(points, command)
    stem, subtitle = request.stem(f"{target.name}-pareto"), sections.subtitle(readings[0])
    writing.write_study(stem, data, title, subtitle, [table], [pareto.chart(points)])


def sweep(request: Request, text: str, images_in_all: int) -> None:
    """Prints and writes the step on growing slices. text: as 'v5e:1x1,2x2'."""
    shapes = scaling.topologies(text)
    found = scaling.study(
        request.config,
        request.name,
        shapes,
        request.step,
        images_per_device=request.images or request.config.batch_size,
        images_in_all=images_in_all,
        cache=request.cache,
        progress=say,
        xla=request.xla,
    )
    chip, count = shapes[0].partition(":")[0], request.training_images
    title = f"{request.name}, {request.step} step from {shapes[0]} to {shapes[-1]}"
    subtitle = sections.subtitle(found["weak"][-1])
    parts = [
        page.charts(f"{kind.capitalize()} scaling", scaling.curves(found[kind], count))
        for kind in scaling.KINDS
        if any(r["fits"] for r in found[kind])
    ]
    tables, data = scaling.sections(found, count), {"schema": SCHEMA, **found}
    writing.write_study(request.stem(f"{chip}-sweep"), data, title, subtitle, tables, parts)


def every(
    methods: str,
    steps: Sequence[str],
    topologies: Sequence[str],
    overrides: Sequence[str],
    output: Path,
    *,
    largest: bool,
    xla: Mapping[str, xla_flags.Value],
) -> None:
    """Prints and writes the table of methods. methods: 'all' or names; largest: of batches."""
    rows = every_method.study(
        every_method.chosen(methods),
        topologies,
        overrides,
        steps=steps,
        cache=output / "programs",
        largest=largest,
        progress=say,
        xla=xla,
    )
    where = ", ".join(topologies)
    title = f"{'every method' if methods == 'all' else methods} on {where}"
    told = ", ".join(f"{name} {value}" for name, value in compiler_versions().items())
    subtitle = f"{' '.join(overrides) or 'each config as it is'}; {told}"
    stem = output / file_name("methods", "-".join(steps), "-".join(topologies))
    data = {"schema": SCHEMA, "rows": every_method.as_data(rows)}
    writing.write_study(stem, data, title, subtitle, every_method.sections(rows))
