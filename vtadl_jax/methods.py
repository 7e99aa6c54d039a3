"""Lists the methods: what each one is, what it needs, its config to start with, measured figures.

python -m vtadl_jax.methods
python -m vtadl_jax.methods --method context_mdn     one method with its options

Figures are those of docs/results.md; - is not measured. Starts no training and reads no data.
Exit codes: 0 done, 2 a mistake the user can fix.
"""

import dataclasses
import functools
import json
import sys
from typing import Any

from absl import flags

from vtadl_jax import experiment
from vtadl_jax import options as schema
from vtadl_jax.config import Config
from vtadl_jax.detectors import DETECTORS, find_method
from vtadl_jax.detectors.contract import Detector
from vtadl_jax.detectors.descriptions import DATA, Description, Figures, descriptions, page_of
from vtadl_jax.errors import UserError
from vtadl_jax.networks.features import EXTRACTORS, FeatureOptions, make_features
from vtadl_jax.runtime.command import run_command
from vtadl_jax.runtime.text_table import paragraph, table

FLAGS = flags.FlagValues()
_bool = functools.partial(flags.DEFINE_bool, default=False, flag_values=FLAGS)
_MARKDOWN = _bool("markdown", help="Print the table as Markdown, as in docs/methods/index.md.")
_JSON = _bool("json", help="Print everything as JSON.")
_METHOD = flags.DEFINE_string(
    "method", "", "Name of a method: prints its details and options.", flag_values=FLAGS
)
BEGIN, END = "<!-- methods:begin -->", "<!-- methods:end -->"  # around the Markdown in the docs
COMMAND = "python -m vtadl_jax.main --config"


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a built detector tells: see `facts_of`.

    trained_on: kinds of training images. training: 'steps', 'one pass' or both. weights: whether it
    takes pretrained weights. networks: values of `model.features` that need them. terms: score
    terms.
    """

    trained_on: str
    training: str
    weights: str
    networks: tuple[str, ...]
    terms: tuple[str, ...]


def facts_of(name: str) -> Facts:
    """Returns the facts of a method from the detector that its config to start with builds."""
    config = config_of(name)
    detector = experiment.make_detector(config)
    networks = frozen_networks(name)
    return Facts(
        trained_on=trained_on(detector),
        training=training_of(detector, config),
        weights=weights_of(detector, networks),
        networks=networks,
        terms=detector.score_terms,
    )


def config_of(name: str) -> Config:
    """Returns the config to start with. Raises UserError for an unknown method."""
    find_method(name)
    return experiment.load(descriptions()[name].config)[0]


def trained_on(detector: Detector) -> str:
    if not detector.needs:
        return "good images"
    needs = " and ".join(f"{need}s" for need in sorted(detector.needs))
    return f"good and defective images with {needs}"


def training_of(detector: Detector, config: Config) -> str:
    trains = bool(config.num_train_steps or config.num_epochs)
    if detector.fit is None:
        return "steps"
    return "one pass, then steps" if trains else "one pass, no steps"


def weights_of(detector: Detector, networks: tuple[str, ...]) -> str:
    """Returns whether a method takes pretrained weights. networks: of `frozen_networks`."""
    if detector.pretrained_required:
        return "required"
    if detector.load_pretrained is not None:
        return "optional"
    return "of frozen networks" if networks else "none"


def frozen_networks(name: str) -> tuple[str, ...]:
    """Returns the values of `model.features` with which a method needs pretrained weights."""
    method = find_method(name)
    if not issubclass(method.options, FeatureOptions):
        return ()
    # A multiple of every network's patch or stride.
    made = {f: make_features(FeatureOptions(features=f), 1, (448, 448), 3) for f in EXTRACTORS}
    return tuple(name for name, features in made.items() if features.load is not None)


def as_dict(name: str) -> dict[str, Any]:
    """Returns everything about a method, for --json."""
    row = descriptions()[name]
    return {
        "method": name,
        "what": row.what,
        **dataclasses.asdict(facts_of(name)),
        "config": row.config,
        "page": page_of(name),
        "figures": [dataclasses.asdict(figures) for figures in row.figures],
    }


def listing() -> str:
    """Returns the table of all methods and that of their figures, as plain text."""
    facts = {name: facts_of(name) for name in descriptions()}
    lines = []
    for name, row in descriptions().items():
        found = facts[name]
        lines += [name, *paragraph(row.what, "  ")]
        lines += paragraph(f"trained on {found.trained_on}, {found.training}", "  ")
        lines += [f"  pretrained weights: {found.weights}"]
        lines += [f"  config {row.config}; page {page_of(name)}", ""]
    measured = [(name, f) for name, row in descriptions().items() for f in row.figures or (None,)]
    lines.append("Figures of docs/results.md, on CPU cores: AUROC of images and of pixels, AU-PRO,")
    lines += ["steps, seconds of the whole program; - is not measured", *_figures(measured)]
    lines += ["", "python -m vtadl_jax.methods --method NAME shows options, commands and notes."]
    return "\n".join(lines)


def _figures(measured: list[tuple[str, Figures | None]]) -> list[str]:
    header = ("method", "images and config", "image", "pixel", "AU-PRO", "steps", "seconds")
    rows = []
    for name, figures in measured:
        if figures is None:
            rows.append((name, *"------"))
            continue
        where = f"{figures.images}: {figures.command.split()[0].removeprefix('configs/')}"
        values = (figures.image_auroc, figures.pixel_auroc, figures.aupro)
        seconds = _dash(figures.seconds, "d")
        rows.append((name, where, *(_dash(v) for v in values), str(figures.steps), seconds))
    return table(header, rows, right=(False, False, True, True, True, True, True), wrap=1)


def _dash(value: float | None, form: str = ".3f") -> str:
    return "-" if value is None else format(value, form)


def details(name: str) -> str:
    """Returns one method with commands, figures, notes and options."""
    config, facts, about = config_of(name), facts_of(name), descriptions()[name]
    rows = [
        ("trained on", facts.trained_on),
        ("training", facts.training),
        ("pretrained weights", facts.weights),
        ("frozen networks", networks_line(facts.networks)),
        ("score terms", ", ".join(facts.terms)),
        ("start with", start_of(about, config, facts)),
        ("page", page_of(name)),
    ]
    rows = [row for row in rows if row[1]]
    lines = [name, *paragraph(about.what, "  "), "", *table(("", ""), rows), ""]
    lines += _measured(about)
    lines += [f"options, with the values of {about.config}:"]
    lines += schema.describe(config.model, "config.model.") or ["  none"]
    return "\n".join(lines)


def networks_line(networks: tuple[str, ...]) -> str:
    if not networks:
        return ""
    return (
        f"{len(networks)}, as model.features={networks[0]}; "
        f"python -m vtadl_jax.import_weights fetch lists them"
    )


def start_of(row: Description, config: Config, facts: Facts) -> str:
    """Returns the command that starts a method."""
    data = "" if config.data.root else f" {DATA}"
    weights = " --config.init_from=FILE" if facts.weights == "required" else ""
    return f"{COMMAND} {row.config}{data}{weights}"


def _measured(row: Description) -> list[str]:
    lines = []
    for figures in row.figures:
        values = (figures.image_auroc, figures.pixel_auroc, figures.aupro)
        seconds = f", {figures.seconds} s" if figures.seconds is not None else ""
        lines += [
            f"measured on {figures.images}: image AUROC / pixel AUROC / AU-PRO "
            f"{' / '.join(map(_dash, values))}; {figures.steps} steps{seconds}",
            f"  {COMMAND} {figures.command}",
        ]
        lines += paragraph(f"note: {figures.note}", "  ") if figures.note else []
        lines += [""]
    return lines or ["not measured", ""]


def markdown() -> str:
    """Returns the table of docs/methods/index.md, whose links are relative to that page."""
    lines = [
        "| method | what it is | trained on | weights | in `configs/` |",
        "|---|---|---|---|---|",
    ]
    for name, row in descriptions().items():
        facts = facts_of(name)
        how = f"{facts.trained_on}; {facts.training}"
        link = f"[`{name}`]({name}.md)"
        config = row.config.removeprefix("configs/")  # a narrow column
        lines.append(f"| {link} | {row.what} | {how} | {facts.weights} | `{config}` |")
    return "\n".join(lines)


def run() -> None:
    """Prints what the flags ask for."""
    if _MARKDOWN.value + _JSON.value > 1 or (_MARKDOWN.value and _METHOD.value):
        raise UserError("--markdown is of all methods and no JSON: give it alone")
    if _METHOD.value and _METHOD.value not in DETECTORS:
        find_method(_METHOD.value)
    chosen = [_METHOD.value] if _METHOD.value else list(descriptions())
    if _JSON.value:
        print(json.dumps([as_dict(name) for name in chosen], indent=2))
    elif _MARKDOWN.value:
        print(markdown())
    else:
        print(details(chosen[0]) if _METHOD.value else listing())


def main(argv: list[str]) -> int:
    return run_command(FLAGS, argv, __doc__, run, "nothing was written")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
