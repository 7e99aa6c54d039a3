"""Measures what defective images among the training images cost a fitted detector.

python -m vtadl_jax.benchmarks.contaminated --config configs/subspace.py:screw \
  --config.data.root=DIR --shares 0.1,0.4 --json FILE

For each share, that many defective test images, drawn by seed, join the good training images and
leave the test set; if half of them are too few for the share, good images are left out. Three fits
have the same test images: to the good ones, to all, and to all but those that data.trim leaves out.
Prints a Markdown table with the share of the intruders among the first 1.5 × their number of the
ranking. Rerun the same command to continue: shares in --json are not measured again.
Exit codes: 0 done, 2 a mistake.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from vtadl_jax import experiment
from vtadl_jax.benchmarks.false_alarms import Bench, fit_and_calibrate, in_memory
from vtadl_jax.benchmarks.timing import check_json, write_json
from vtadl_jax.config import Config
from vtadl_jax.data.records import Record, shuffled
from vtadl_jax.errors import UserError
from vtadl_jax.metrics import auroc
from vtadl_jax.runtime.console import say
from vtadl_jax.training.division import decide
from vtadl_jax.training.trimming import rank

FLAGS = flags.FlagValues()
_SHARES = flags.DEFINE_list(
    "shares", ["0.1", "0.4"], "Shares of defective training images.", flag_values=FLAGS
)
_TRIM = flags.DEFINE_float(
    "trim", 0.0, "Share that data.trim leaves out; 0: that of the intruders.", 0, 0.6,
    flag_values=FLAGS,
)  # fmt: skip
_JSON = flags.DEFINE_string("json", "", "File of the figures.", flag_values=FLAGS)
LISTED = 1.5  # times the number of intruders: how far down the ranking a person looks
MOST_TAKEN = 0.5  # of the defective test images
TITLES = (
    "share", "good", "intruders", "found", "clean", "contaminated", "trimmed", "left out",
    "intruders of these",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Training images with intruders among them, and the test images without these."""

    good: tuple[Record, ...]
    intruders: tuple[Record, ...]
    test: tuple[Record, ...]

    @property
    def train(self) -> tuple[Record, ...]:
        """All training images, in the order of their names, the intruders as good ones."""
        hidden = (dataclasses.replace(r, label=0, defect="good") for r in self.intruders)
        return tuple(sorted((*self.good, *hidden), key=lambda record: record.name))


def mix(train: Sequence[Record], test: Sequence[Record], share: float, seed: int) -> Mixture:
    """Returns training images of which a share is defective test images.

    Raises UserError if that leaves no intruder or fewer than two good images.
    """
    good, bad = shuffled(train, seed), shuffled([r for r in test if r.label], seed)
    most = int(MOST_TAKEN * len(bad))
    count = min(round(share / (1 - share) * len(good)), most)
    if count == most:
        good = good[: round(count * (1 - share) / share)]
    if count < 1 or len(good) < 2:
        raise UserError(
            f"--shares {share:g}: {len(good)} good training and {len(bad)} defective test images "
            f"are too few for it"
        )
    gone = {record.name for record in bad[:count]}
    left = tuple(record for record in test if record.name not in gone)
    return Mixture(tuple(good), tuple(bad[:count]), left)


class Contamination:
    """A fitted detector and its data set, to be contaminated."""

    def __init__(self, config: Config):
        self.bench = Bench(config)
        self.config = self.bench.config
        self.splits, self.arrays = self.bench.splits, self.bench.pretrained
        every = in_memory((*self.splits.train, *self.splits.test), self.bench.geometry, self.config)
        self.small = {record.name: record.image for record in every}

    def row(self, share: float, trimmed: float) -> dict[str, Any]:
        """Measures a share of intruders; trimmed: the share that is left out."""
        mixture = mix(self.splits.train, self.splits.test, share, self.config.seed)
        train, wanted = mixture.train, {record.name for record in mixture.intruders}
        ranking = rank(self.config, train, self.arrays)
        listed = {record.name for record in ranking.first(round(LISTED * len(wanted)))}
        gone = {record.name for record in ranking.first(round(trimmed * len(train)))}
        kept = [record for record in train if record.name not in gone]
        return {
            "share": share,
            "good": len(mixture.good),
            "intruders": len(wanted),
            "found": len(listed & wanted) / len(wanted),
            "clean": self.auroc(mixture.good, mixture.test),
            "contaminated": self.auroc(train, mixture.test),
            "trimmed": self.auroc(kept, mixture.test),
            "left_out": len(gone),
            "intruders_left_out": len(gone & wanted),
        }

    def auroc(self, train: Sequence[Record], test: Sequence[Record]) -> float:
        """Returns the image AUROC of a fit."""
        train, test = ([self.reduced(r) for r in records] for records in (train, test))
        bench = self.bench
        config, _ = decide(self.config, bench.detector, train)
        evaluator = bench.evaluator(config)
        evaluator.scorer = bench.scorer
        variables, calibration = fit_and_calibrate(
            evaluator, bench.detector, bench.initial, train, bench.geometry
        )
        outputs = evaluator.run(variables, test, "score")
        scores = calibration.image_scores(outputs.terms, outputs.descriptions)
        return float(auroc(scores, outputs.labels))

    def reduced(self, record: Record) -> Record:
        """Returns the record with its pixels at the network's size."""
        return dataclasses.replace(record, image=self.small[record.name], mask=None)


def table_of(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the lines of a Markdown table."""
    lines = [f"| {' | '.join(TITLES)} |", f"|{'--:|' * len(TITLES)}"]
    for row in rows:
        cells = [
            f"{100 * row['share']:g} %",
            str(row["good"]),
            str(row["intruders"]),
            f"{100 * row['found']:.0f} %",
            *(f"{row[name]:.3f}" for name in ("clean", "contaminated", "trimmed")),
            str(row["left_out"]),
            str(row["intruders_left_out"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def measured(path: str, about: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the rows that are in the file already. Raises UserError if it is of other figures."""
    if not path or not Path(path).is_file():
        return []
    try:
        stored = json.loads(Path(path).read_text(encoding="utf-8"))
        rows = list(stored["rows"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"--json {path} can't be read ({error}): give another file") from error
    if any(stored.get(name) != value for name, value in about.items()):
        raise UserError(f"--json {path} has figures of another config: give another file")
    return rows


def run(text: str, overrides: Sequence[str]) -> None:
    """Measures what the command line names; prints and writes the figures."""
    if not text:
        raise UserError("no config: give --config FILE, as --config configs/subspace.py:screw")
    check_json(_JSON.value)
    shares = [share_of(text) for text in _SHARES.value]
    config, name = experiment.load(text, overrides)
    about = {"config": name, "overrides": list(overrides), "text": text, "trim": _TRIM.value}
    rows = measured(_JSON.value, about)
    left = [share for share in shares if share not in {row["share"] for row in rows}]
    contamination = Contamination(config) if left else None
    for share in left:
        assert contamination is not None, "made for shares that are left"
        rows.append(contamination.row(share, _TRIM.value or share))
        write_json({**about, "rows": rows}, _JSON.value)
        say(f"share {share:g} measured")
    print("\n".join(table_of([row for row in rows if row["share"] in shares])))


def share_of(text: str) -> float:
    """Returns a share. Raises UserError for one outside (0, 0.6]."""
    try:
        share = float(text)
    except ValueError:
        share = np.nan
    if not 0 < share <= 0.6:
        raise UserError(f"--shares {text}: give shares of the training images, as 0.1,0.4")
    return share


def main(argv: list[str]) -> int:
    return experiment.run_experiment_command(
        FLAGS, argv, __doc__, run, "rerun the same command to continue"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv))
