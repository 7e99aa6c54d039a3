"""One run a category, and one table of all of them."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from ml_collections import ConfigDict

from vtadl_jax import config as config_lib
from vtadl_jax.data.sources import all_categories
from vtadl_jax.errors import UserError
from vtadl_jax.report.published import PUBLISHED
from vtadl_jax.report.tables import category_table, to_markdown, write_tables
from vtadl_jax.workdir import CONFIG, load_config
from vtadl_jax.writers import say

ALL = "all"  # the name that stands for every category
RESULTS = "results.json"
PUBLISHED_SETS = {"mvtec_layout": "mvtec_ad", "btad_layout": "btad", "mnist": "mnist"}


def run_all(config: ConfigDict, workdir: Path, run: Callable[[ConfigDict, Path], dict]) -> None:
    """`run` every category of the config's data in a folder of its own in `workdir`; complete runs
    are left as they are. Raises UserError naming the category that it stops at."""
    categories = all_categories(config)
    for number, category in enumerate(categories, 1):
        one = config.copy_and_resolve_references()
        with one.unlocked():
            one.data.category = category
        folder = workdir / category
        if is_complete(one, folder):
            say(f"{category} ({number} of {len(categories)}): complete")
            continue
        say(f"{category} ({number} of {len(categories)})")
        try:
            run(one, folder)
        except UserError as error:
            raise UserError(f"{category}: {error}") from error
        tabulate(workdir)
    tabulate(workdir, show=True)


def is_complete(config: ConfigDict, folder: Path) -> bool:
    """Whether the folder holds results of this very config, trained as long as it says."""
    try:
        results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    config_lib.check_same_run(config, folder / CONFIG)
    return results.get("schedule") == schedule_of(config)


def schedule_of(config: ConfigDict) -> dict[str, int]:
    """How long the config trains, as results keep it."""
    return {name: config[name] for name in ("num_train_steps", "num_epochs")}


def runs_in(workdir: Path) -> list[Path]:
    """The runs of a sweep's workdir. Raises UserError if there are none."""
    found = sorted(path.parent for path in workdir.glob(f"*/{CONFIG}"))
    if not found:
        raise UserError(f"{workdir} holds no runs: give the workdir of a sweep over categories")
    return found


def tabulate(workdir: Path, show: bool = False) -> None:
    """summary.md, .csv and .json of the results in the runs of `workdir`."""
    runs = runs_in(workdir)
    results = dict(_results(runs))
    if not results:
        return
    table = category_table(results, published=published_for(load_config(runs[0]), results))
    paths = write_tables(workdir, table)
    if show:
        print(to_markdown(table))
        say(f"see {', '.join(map(str, paths))}")


def published_for(config: ConfigDict, categories: Iterable[str]) -> str | None:
    """Name of the published tables that hold one of these categories, by where they are from."""
    name = PUBLISHED_SETS.get(config.data.source, "")
    known = {category for table in PUBLISHED.get(name, ()) for category in table.rows}
    return name if known & set(categories) else None


def _results(runs: Iterable[Path]):
    for run in runs:
        path = run / RESULTS
        if path.is_file():
            yield run.name, json.loads(path.read_text(encoding="utf-8"))
