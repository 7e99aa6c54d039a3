"""Runs every category of a data set, and writes one table of all categories."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from vtadl_jax import config as config_lib
from vtadl_jax import options as options_lib
from vtadl_jax.config import Config
from vtadl_jax.data.manifest import is_name
from vtadl_jax.data.sources import all_categories, has_categories, is_category
from vtadl_jax.errors import UserError
from vtadl_jax.evaluation.results import RESULTS_FILE, Results
from vtadl_jax.report.published import PUBLISHED, published_methods
from vtadl_jax.report.tables import category_table, to_markdown, write_tables
from vtadl_jax.runtime.console import say
from vtadl_jax.training.stored import CONFIG, load_config

ALL = "all"  # value of data.category for every category
PUBLISHED_SETS = {
    "mvtec_layout": "mvtec_ad",
    "btad_layout": "btad",
    "mnist": "mnist",
    "fashion_mnist": "fashion_mnist",
    "kmnist": "kmnist",
    "cifar10": "cifar10",
}


def resolve_all(config: Config) -> tuple[Config, bool]:
    """Returns the config, and whether it asks for a run of every category; says what it took.

    `data.category` 'all' does, unless the data have a folder or category of that name. A plain
    folder named so is read by source 'folder', whatever the config file's argument chose.
    """
    if config.data.category != ALL:
        return config, False
    taken = config
    if config.data.source == "mvtec_layout" and not has_categories(config):
        taken = options_lib.replace(config, {"data.source": "folder"})
    if not is_category(taken, ALL):
        return config, True
    say(f"note: data.category 'all' is the one of that name in {config.data.root}, not every one")
    return taken, False


def run_all(config: Config, workdir: Path, run: Callable[[Config, Path], dict]) -> None:
    """Calls `run` for every category of the config's data, in a folder of its own in `workdir`.

    Skips complete runs. Raises UserError with the category that failed.
    """
    for one, folder in each_category(config, workdir):
        try:
            run(one, folder)
        except UserError as error:
            raise UserError(f"{folder.name}: {error}") from error
        tabulate(workdir)
    tabulate(workdir, show=True)


def each_category(config: Config, workdir: Path) -> Iterator[tuple[Config, Path]]:
    """Yields the config and the folder of every category that is not complete; says which it is.

    Raises UserError for a category that cannot be the name of a folder.
    """
    categories = all_categories(config)
    for category in categories:
        if not is_name(category):
            raise UserError(
                f"category {category!r} cannot be the name of a run's folder: rename it"
            )
    say(f"data.category 'all': a run for each of {', '.join(categories)}")
    for number, category in enumerate(categories, 1):
        one = options_lib.replace(config, {"data.category": category})
        folder = workdir / category
        if is_complete(one, folder):
            say(f"{category} ({number} of {len(categories)}): complete")
            continue
        say(f"{category} ({number} of {len(categories)})")
        yield one, folder


def is_complete(config: Config, folder: Path) -> bool:
    """Returns whether the folder holds results of the same config, data folder and length of
    training."""
    try:
        results = Results.load(folder / RESULTS_FILE)
    except UserError:
        return False
    stored = load_config(folder)
    config_lib.check_same_run(config, stored, folder)
    if stored.data.root != config.data.root:
        return False  # the run compares the images
    return results.schedule == config_lib.schedule_of(config)


def runs_in(workdir: Path) -> list[Path]:
    """Returns the runs in a sweep's workdir. Raises UserError if there are none."""
    found = sorted(path.parent for path in workdir.glob(f"*/{CONFIG}"))
    if not found:
        raise UserError(f"{workdir} holds no runs: give the workdir of a sweep over categories")
    return found


def tabulate(workdir: Path, show: bool = False) -> None:
    """Writes summary.md, .csv and .json of the results in the runs of `workdir`."""
    runs = runs_in(workdir)
    results = dict(_results(runs))
    if not results:
        return
    config = load_config(runs[0])
    name = published_for(config, results)
    methods = published_methods(name or "", config.detector)
    table = category_table(results, published=name, methods=methods)
    paths = write_tables(workdir, table)
    if show:
        print(to_markdown(table))
        say(f"see {', '.join(map(str, paths))}")


def published_for(config: Config, categories: Iterable[str]) -> str | None:
    """Returns the name of the published tables of the config's source, None without such tables.

    At least one of the categories must be in them, and a column for the config's detector.
    """
    name = PUBLISHED_SETS.get(config.data.source, "")
    if not published_methods(name, config.detector):
        return None
    known = {category for table in PUBLISHED.get(name, ()) for category in table.rows}
    return name if known & set(categories) else None


def _results(runs: Iterable[Path]) -> Iterator[tuple[str, Results]]:
    for run in runs:
        if (run / RESULTS_FILE).is_file():
            yield run.name, Results.load(run / RESULTS_FILE)
