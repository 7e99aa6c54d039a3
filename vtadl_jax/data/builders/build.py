"""Makes record folders from a source: checks everything, then builds the missing categories.

Builds each category in a hidden folder and moves it into place by one rename, so that a process may
be killed at any time.
"""

import contextlib
import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from absl import logging

from vtadl_jax.data import manifest as manifests
from vtadl_jax.data.archives import archive_stem, check_free, extract, is_archive
from vtadl_jax.data.builders.base import LayoutBuilder
from vtadl_jax.data.builders.btad import Btad
from vtadl_jax.data.builders.config import CategoryConfig, category_config, config_name
from vtadl_jax.data.builders.image_folders import ImageFolders
from vtadl_jax.data.builders.mvtec_ad import MvtecAd
from vtadl_jax.data.builders.staging import remove_stale, staging
from vtadl_jax.data.builders.survey import Progress, Root, Survey, find_root, silent, survey
from vtadl_jax.data.depth import bits_warning
from vtadl_jax.errors import UserError

BUILDERS: dict[str, type[LayoutBuilder]] = {
    "mvtec_ad": MvtecAd,
    "btad": Btad,
    "folder": ImageFolders,
}
Size = tuple[int, int] | None


@dataclass(frozen=True)
class Job:
    """Settings of a build: data set, output folder, size, and progress output."""

    builder: type[LayoutBuilder]
    data_dir: Path
    image_size: Size = None
    progress: Progress = silent
    say: Callable[[str], None] = lambda text: None

    def folder(self, category: str) -> Path:
        """Returns the folder for a category's records."""
        name = config_name(category, self.image_size)
        return self.data_dir / self.builder.name / name / str(self.builder.VERSION)


def prepare(job: Job, source: Path, categories: Sequence[str] = ()) -> list[Path]:
    """Makes records of categories (by default all) of `source`; returns their folders.

    Verifies and keeps finished categories. Raises UserError for faults in the source before
    anything is written, for a source other than that of finished records, for damaged records and
    for a full disk.
    """
    remove_stale(job.data_dir)
    if not is_archive(source):
        root = find_root(check_source(job.builder, source), job.builder.LAYOUTS)
        missing = _survey_missing(job, root, categories)
        if missing:
            with staging(job.data_dir) as work:
                _build_all(job, missing, None, work)
        return [job.folder(category) for category in choose(root, categories)]
    digest = manifests.file_digest(source)
    finished = _finished_from(job, digest, categories)
    if finished:
        for folder, manifest in finished:
            _verify(job, folder, manifest)
        return [folder for folder, _ in finished]
    with staging(job.data_dir) as work:
        job.say(f"unpack {source}")
        unpacked = work / "source" / archive_stem(source)
        extract(source, unpacked, job.progress)
        root = find_root(unpacked, job.builder.LAYOUTS)
        archive = {"sha256": digest, "categories": root.names}
        _build_all(job, _survey_missing(job, root, categories), archive, work)
    return [job.folder(category) for category in choose(root, categories)]


def check_source(builder: type[LayoutBuilder], source: Path) -> Path:
    """Raises UserError, with how to get the data, unless `source` is a folder."""
    if source.is_dir():
        return source
    why = "is neither a folder nor an archive" if source.exists() else "does not exist"
    instructions = builder.MANUAL_DOWNLOAD_INSTRUCTIONS
    raise UserError(f"--source {source} {why}: {instructions}")


def choose(root: Root, categories: Sequence[str]) -> list[str]:
    """Returns the categories to prepare. Raises UserError for one that `root` does not hold."""
    for category in categories:
        if category not in root.names:
            near = difflib.get_close_matches(category, root.names, 1)
            hint = f"did you mean '{near[0]}'? " if near else ""
            raise UserError(
                f"--category {category} is not in {root.path}: {hint}{', '.join(root.names)} "
                f"{'are' if len(root.names) > 1 else 'is'}"
            )
    return list(dict.fromkeys(categories)) or list(root.names)


def _survey_missing(job: Job, root: Root, categories: Sequence[str]) -> dict[str, Survey]:
    """Surveys every category; returns the surveys of those without records."""
    missing = {}
    for category in choose(root, categories):
        if not manifests.is_name(category):
            raise UserError(f"category {category!r} in {root.path} is no plain name: rename it")
        found = survey(root, category, job.progress, size=job.image_size)
        for line in found.notes:
            job.say(line)
        job.builder.check_counts(category, found)
        folder = job.folder(category)
        if not folder.exists():
            missing[category] = found
            continue
        manifest = manifests.read(folder)
        difference = manifests.source_difference(manifest, found.files)
        if difference:
            raise UserError(
                f"{folder} was made of other files, {difference}: give another --data_dir, or "
                "remove that folder to make it anew"
            )
        _verify(job, folder, manifest)
    return missing


def _finished_from(
    job: Job, digest: str, categories: Sequence[str]
) -> list[tuple[Path, manifests.Manifest]]:
    """Returns the folders that were made from an archive, if all wanted categories are finished."""
    found = {}
    for folder in manifests.find(job.data_dir / job.builder.name):
        manifest = manifests.read(folder)
        archive = manifest["source"]["archive"]
        same = archive and archive["sha256"] == digest
        if same and folder == job.folder(manifest["category"]):
            found[manifest["category"]] = (folder, manifest)
            categories = categories or archive["categories"]
    complete = categories and all(category in found for category in categories)
    return [found[category] for category in categories] if complete else []


def _verify(job: Job, folder: Path, manifest: manifests.Manifest) -> None:
    faults = manifests.shard_faults(folder, manifest)
    if faults:
        raise UserError(f"{faults[0]}: remove {folder} and run again")
    job.say(f"{folder} is prepared already")


def _build_all(
    job: Job, missing: dict[str, Survey], archive: dict[str, Any] | None, work: Path
) -> None:
    tfds.disable_progress_bar()  # our progress bar counts images
    with _without_warnings():
        builders = [
            job.builder(
                data_dir=str(work / "records"),
                config=_config(job, category, found.channels),
                surveyed=found,
                archive=archive,
                progress=job.progress,
            )
            for category, found in missing.items()
        ]
    needed = sum(builder.estimated_bytes() for builder in builders)
    check_free(job.data_dir, needed, "write the records")
    for category, builder in zip(missing, builders, strict=True):
        folder = job.folder(category)
        job.say(f"write {folder}")
        train = [record.image for record in missing[category].splits.train]
        if (warning := bits_warning(train)) is not None:
            job.say(f"warning: {warning}, from the files: records have 8 bits")
        try:
            builder.download_and_prepare(file_format="array_record")
            folder.parent.mkdir(parents=True, exist_ok=True)
            builder.data_path.rename(folder)
        except OSError as error:
            raise UserError(
                f"cannot write {folder} ({error.strerror or error}): fix that and run again, "
                "finished categories are kept"
            ) from error


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Suppresses the warning of tensorflow-datasets for categories that its class does not list."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _config(job: Job, category: str, channels: int) -> CategoryConfig | str:
    """Returns the config argument for tensorflow-datasets, which takes listed configs by name."""
    name = config_name(category, job.image_size)
    if name in job.builder.builder_configs:
        return name
    return category_config(category, job.image_size, channels)
