"""Sets of images for a choice of variants: which they are, what is held out, what is drawn.

Trains nothing and opens no test image.
"""

import dataclasses
import zlib
from collections.abc import Sequence
from pathlib import Path

from vtadl_jax import experiment
from vtadl_jax import options as options_lib
from vtadl_jax.config import Config
from vtadl_jax.data.files import list_entries, product_name
from vtadl_jax.data.manifest import is_name
from vtadl_jax.data.records import Record, split_holdout
from vtadl_jax.data.sources import load_good
from vtadl_jax.data.synthetic.drawn_set import draw_set
from vtadl_jax.errors import UserError
from vtadl_jax.evaluation.selection import DRAWN
from vtadl_jax.plans import Experiment
from vtadl_jax.report.selection import write_sheet
from vtadl_jax.runtime.command import split_config
from vtadl_jax.runtime.console import say
from vtadl_jax.runtime.files import read_json, write_json

OWN = ("data.root", "data.category", "data.bad", "data.masks")  # fields that the command sets
SHEET, SET_FILE = "drawn.png", "set.json"  # in a set's folder
FEW = 8  # held-out images, below which figures of images are coarse


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """A set of images: `data.root`, `data.category` and a name for its folder."""

    name: str
    root: str
    category: str

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags of `python -m vtadl_jax.main` that name it."""
        category = (f"--config.data.category={self.category}",) if self.category else ()
        return (f"--config.data.root={self.root}", *category)


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What all variants share.

    workdir: of all runs. held_out: share of the good images that none is trained on. num_drawn:
    defects. num_resamples: of the bootstrap. seed: of the split and the drawing.
    """

    workdir: Path
    held_out: float = 0.25
    num_drawn: int = 80
    num_resamples: int = 300
    seed: int = 0


def parse_sets(texts: Sequence[str]) -> list[ImageSet]:
    """Returns the sets of `DIR` or `DIR:CATEGORY,CATEGORY`.

    A DIR that holds folders in MVTec AD's layout means all of them. Raises UserError for a folder
    that is absent and for two sets of one name.
    """
    found: list[ImageSet] = []
    for text in texts:
        root, _, names = (text, "", "") if Path(text).is_dir() else text.rpartition(":")
        folder = Path(root or text).expanduser()
        if not folder.is_dir():
            raise UserError(f"--data {text}: no folder {folder}: give DIR or DIR:CATEGORY,CATEGORY")
        categories = [name.strip() for name in names.split(",") if name.strip()] or [
            entry.name for entry in list_entries(folder) if (entry / "train" / "good").is_dir()
        ]
        for name in categories:
            if not (folder / name).is_dir():
                raise UserError(f"--data {text}: no folder {folder / name}: check the category")
        found += [ImageSet(name, str(folder), name) for name in categories] or [
            ImageSet(product_name(str(folder)), str(folder), "")
        ]
    for number, one in enumerate(found):
        if not is_name(one.name):
            raise UserError(f"--data: {one.name!r} cannot be the name of a folder: rename it")
        if one.name in {other.name for other in found[:number]}:
            raise UserError(f"--data names {one.name!r} twice: rename one of the folders")
    if not found:
        raise UserError("no --data: give --data DIR or --data DIR:CATEGORY,CATEGORY")
    return found


def config_of(variant: Experiment, image_set: ImageSet) -> Config:
    """Returns a variant's config for a set.

    Raises UserError for a line that chooses images, or that can't be trained on good ones.
    """
    arguments = [word.replace("{data}", image_set.root) for word in variant.arguments]
    if variant.name == DRAWN:
        raise UserError(f"{variant.name}: this is the folder of drawn defects: rename the line")
    own, text, fields = split_config(["select", *arguments])
    if own[1:] or not text:
        raise UserError(f"{variant.name}: give --config FILE and --config.FIELD=VALUE only")
    for field in fields:
        name = field.removeprefix("--config.").partition("=")[0]
        if name in OWN:
            raise UserError(f"{variant.name}: {field}: --data chooses the images: leave it out")
    config, _ = experiment.load(text, fields)
    if experiment.make_detector(experiment.assume_color(config)).needs:
        raise UserError(
            f"{variant.name}: detector {config.detector!r} learns from defects, and here only good "
            f"images are trained on: leave it out"
        )
    places = {"data.root": image_set.root, "data.category": image_set.category}
    return options_lib.replace(
        config, {**places, "eval.num_pictures": 0, "eval.num_bootstrap": 0, "seed": 0}
    )


def command_of(variant: Experiment, image_set: ImageSet) -> Experiment:
    """Returns a variant with its set, whose `command` trains it on all good images."""
    words = [word.replace("{data}", image_set.root) for word in variant.arguments]
    return Experiment(variant.name, (*words, *image_set.flags))


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Records of a set: to train on, held out, and the drawn ones (empty if not asked for)."""

    train: tuple[Record, ...]
    held: tuple[Record, ...]
    drawn: tuple[Record, ...]


def prepare(
    image_set: ImageSet, configs: Sequence[Config], protocol: Protocol, draw: bool
) -> Prepared:
    """Splits a set's good images, and draws defects and their picture; opens no test image.

    Raises UserError for variants that read their images differently.
    """
    shared = ("source", "bits", "test_fraction")
    for config in configs[1:]:
        for name in shared:
            one, two = getattr(configs[0].data, name), getattr(config.data, name)
            if one != two:
                raise UserError(
                    f"data.{name} is {one!r} and {two!r} in this plan: variants are compared on "
                    f"the same images: use one value"
                )
    train, held = split_holdout(
        load_good(configs[0]).train, protocol.held_out, protocol.seed, "--held_out"
    )
    if not held:
        raise UserError(f"--held_out {protocol.held_out}: no image is held out: use 0.1 to 0.5")
    if len(held) < FEW:
        say(f"warning: {image_set.name}: only {len(held)} held-out images: figures are coarse")
    folder = protocol.workdir / image_set.name
    folder.mkdir(parents=True, exist_ok=True)
    _check_set(folder / SET_FILE, image_set, train, held)
    drawn: tuple[Record, ...] = ()
    if draw:
        place, bits = folder / DRAWN, configs[0].data.bits
        drawn = draw_set(place, held, train, protocol.num_drawn, protocol.seed, bits)
        if not (folder / SHEET).is_file():
            write_sheet(folder / SHEET, drawn)
        say(f"{image_set.name}: {len(drawn)} defects on {len(held)} images: {folder / SHEET}")
    return Prepared(train, held, drawn)


def _check_set(
    path: Path, image_set: ImageSet, train: Sequence[Record], held: Sequence[Record]
) -> None:
    """Writes which images a set's folder is about. Raises UserError if it is about others."""
    names = "\n".join(r.name for r in (*train, *held)).encode(errors="replace")
    mark = f"{zlib.crc32(names):08x}"
    now = {"root": str(Path(image_set.root).resolve()), "category": image_set.category}
    now |= {"train": str(len(train)), "held_out": str(len(held)), "images": mark}
    try:
        before = read_json(path)
    except FileNotFoundError:
        return write_json(path, now)
    except ValueError as error:
        raise UserError(f"{path} can't be read ({error}): remove {path.parent}") from error
    if before != now:
        other = [f"{k} {before.get(k)!r}, now {v!r}" for k, v in now.items() if before.get(k) != v]
        raise UserError(
            f"{path.parent} is about other images ({'; '.join(other)}): give another --workdir, or "
            f"remove that folder"
        )
    return None
