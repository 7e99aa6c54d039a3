"""Builder of data sets in folders: writes one category's splits as shards of array records, with a
manifest.

A `ShardBasedBuilder`, not a `GeneratorBasedBuilder`: that one holds a split in memory to shuffle
it, and above a gigabyte it needs TensorFlow. This one holds at most one shard in memory.
"""

import dataclasses
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.core import writer as tfds_writer
from tensorflow_datasets.proto import tf_example_pb2

from vtadl_jax import __version__
from vtadl_jax.data import manifest as manifests
from vtadl_jax.data.builders import encode
from vtadl_jax.data.builders.config import CategoryConfig
from vtadl_jax.data.builders.survey import Progress, Survey, file_of, find_root, silent, survey
from vtadl_jax.data.records import Record
from vtadl_jax.data.sources.layouts import Layout
from vtadl_jax.errors import UserError

SHARD_BYTES = 128 << 20
LABELS = ("normal", "anomalous")
WORKERS = min(16, os.cpu_count() or 4)  # threads that decode and encode


class DatasetInfo(tfds.core.DatasetInfo):
    def initialize_from_bucket(self) -> None:
        """Does nothing: no bucket has these sets, and the lookup leaves empty folders in /tmp."""


class RecordWriter(tfds_writer.ExampleWriter):
    """Writer of uncompressed array records: PNG is compressed already, raw pixels must read fast.

    Sorts the features of an example: protobuf serializes maps in an order that differs between
    processes. So the same images give the same files.
    """

    def write(self, path: Any, examples: Iterable[tuple[Any, bytes]]) -> None:
        writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1,uncompressed")
        for _, example in examples:
            ordered = tf_example_pb2.Example.FromString(example)
            writer.write(ordered.SerializeToString(deterministic=True))
        try:
            writer.close()  # raises the errors of `write`, such as a full disk
        except RuntimeError as error:
            raise OSError(str(error)) from error


class LayoutBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Builder of images, masks and labels of one category. `progress` wraps the images' iterator.

    Features: image (uint8 [h, w, C]), mask (uint8 0 or 255 [h, w, 1]), has_mask (False for an
    anomalous image whose mask is not known), label (0 normal, 1 anomalous), defect, name.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar[list[CategoryConfig]] = []
    TITLE: ClassVar[str]
    LAYOUTS: ClassVar[tuple[Layout, ...]]
    PLAIN: ClassVar[bool] = False  # whether a plain folder of good images can be inspected
    COUNTS: ClassVar[dict[str, tuple[int, int, int]]] = {}  # train, test good, test defective
    DESCRIPTION: ClassVar[str]
    HOMEPAGE: ClassVar[str | None] = None
    CITATION: ClassVar[str | None] = None
    LICENSE: ClassVar[str | None] = None

    def __init__(
        self,
        *,
        surveyed: Survey | None = None,
        archive: dict[str, Any] | None = None,
        progress: Progress = silent,
        **options: Any,
    ):
        """Takes a builder's arguments, a finished survey and the archive for the manifest."""
        self.surveyed, self.archive, self.progress = surveyed, archive, progress
        super().__init__(**options)

    @property
    def channels(self) -> int:
        return self.surveyed.channels if self.surveyed else self.builder_config.channels

    def _info(self) -> DatasetInfo:
        config = self.builder_config
        if config is None:
            raise UserError(f"{self.name} needs a category: give config=category_config(NAME)")
        image: tfds.features.FeatureConnector = tfds.features.Image(
            shape=(None, None, self.channels), encoding_format="png"
        )
        if config.image_size:
            shape = (*config.image_size, self.channels)
            image = tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding="bytes")
        mask_size = config.image_size or (None, None)
        return DatasetInfo(
            builder=self,
            description=self.DESCRIPTION,
            homepage=self.HOMEPAGE,
            citation=self.CITATION,
            license=self.LICENSE,
            disable_shuffling=True,
            features=tfds.features.FeaturesDict(
                {
                    "image": image,
                    "mask": tfds.features.Image(shape=(*mask_size, 1), encoding_format="png"),
                    "has_mask": np.bool_,
                    "label": tfds.features.ClassLabel(names=LABELS),
                    "defect": tfds.features.Text(),
                    "name": tfds.features.Text(),
                }
            ),
        )

    @classmethod
    def check_counts(cls, category: str, found: Survey) -> None:
        """Raises UserError unless a category has the published numbers of images."""
        if not cls.COUNTS:
            return
        if category not in cls.COUNTS:
            raise UserError(
                f"'{category}' is not a category of {cls.TITLE} ({', '.join(cls.COUNTS)}): choose "
                "with --category, or prepare a private variant with --dataset folder"
            )
        test = found.splits.test
        good = sum(record.label == 0 for record in test)
        counted = (len(found.splits.train), good, len(test) - good)
        if counted != cls.COUNTS[category]:
            parts = "train {}, test good {}, test defective {}".format
            raise UserError(
                f"{category} of {cls.TITLE} has {parts(*counted)} images where "
                f"{parts(*cls.COUNTS[category])} were published: fetch it again, or prepare a "
                "private variant with --dataset folder"
            )

    def _log_download_bytes(self) -> None:
        """Not to stdout, and nothing is downloaded."""

    _log_download_done = _log_download_bytes

    def _example_writer(self) -> RecordWriter:
        return RecordWriter(file_format=self.info.file_format)

    def _download_and_prepare(self, dl_manager, download_config=None) -> None:
        super()._download_and_prepare(dl_manager, download_config)
        folder = Path(self.data_path)
        shards = [
            (Path(file).name, split.name, count)
            for split in self.info.splits.values()
            for file, count in zip(split.filepaths, split.shard_lengths, strict=True)
        ]
        manifests.write(folder, self._manifest(manifests.describe_shards(folder, shards)))

    def _shard_iterators_per_split(
        self, dl_manager
    ) -> dict[str, list[Callable[[], Iterator[tuple[int, dict[str, Any]]]]]]:
        category = self.builder_config.category
        if self.surveyed is None:
            root = find_root(Path(dl_manager.manual_dir), self.LAYOUTS)
            if category not in root.names:
                raise UserError(f"no category '{category}' in {root.path}: check manual_dir")
            found = survey(root, category)
            # The features were declared before the files were surveyed.
            self.surveyed = dataclasses.replace(found, channels=self.channels)
        self.check_counts(category, self.surveyed)
        splits = {"train": self.surveyed.splits.train, "test": self.surveyed.splits.test}
        return {name: self._shards(name, records) for name, records in splits.items() if records}

    def _shards(self, split: str, records: Sequence[Record]) -> list[Callable[[], Iterator]]:
        """Splits records into shards of about SHARD_BYTES; deterministic for the same files."""
        count = max(1, math.ceil(sum(map(self._stored_bytes, records)) / SHARD_BYTES))
        count = min(count, len(records))
        ends = [round(len(records) * i / count) for i in range(count + 1)]
        return [
            partial(self._examples, records[start:end], start, f"{split} {i + 1}/{count}")
            for i, (start, end) in enumerate(itertools.pairwise(ends))
        ]

    def _stored_bytes(self, record: Record) -> int:
        """Returns the approximate size of a record: PNG files as they are, others as raw pixels."""
        assert self.surveyed is not None
        config = self.builder_config
        if not config.image_size and record.name.lower().endswith(".png"):
            return file_of(record).stat().st_size
        return math.prod(config.image_size or self.surveyed.sizes[record.name]) * self.channels

    def estimated_bytes(self) -> int:
        """Returns the approximate size of the records on disk; needs the survey of the files."""
        assert self.surveyed is not None
        splits = self.surveyed.splits
        return sum(map(self._stored_bytes, splits.train + splits.test))

    def _examples(
        self, records: Sequence[Record], start: int, what: str
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        with ThreadPoolExecutor(WORKERS) as pool:
            try:
                made = pool.map(self._example, records)
                what = f"{self.builder_config.category} {what}"
                yield from enumerate(self.progress(made, len(records), what), start)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _example(self, record: Record) -> dict[str, Any]:
        assert self.surveyed is not None
        size, path = self.builder_config.image_size, file_of(record)
        return {
            "image": encode.resized_image(path, self.channels, size)
            if size
            else encode.original_image(path, self.channels),
            "mask": encode.mask_png(record, self.surveyed.sizes[record.name], size),
            "has_mask": record.label == 0 or record.mask is not None,
            "label": record.label,
            "defect": record.defect,
            "name": record.name,
        }

    def _manifest(self, shards: dict[str, dict[str, Any]]) -> manifests.Manifest:
        found, config = self.surveyed, self.builder_config
        assert found is not None
        return {
            "dataset": self.name,
            "category": config.category,
            "image_size": config.image_size,
            "channels": self.channels,
            "counts": found.counts(),
            "shards": shards,
            "source": {
                "fingerprint": manifests.fingerprint(found.files),
                "archive": self.archive,
                "files": found.files,
            },
            "versions": {
                "vtadl_jax": __version__,
                "builder": str(self.VERSION),
                **{name: version(name) for name in ("array_record", "pillow", "imagecodecs")},
            },
            "records": {
                name: [
                    [r.name, r.defect, r.label, *found.sizes[r.name], r.mask is not None]
                    for r in records
                ]
                for name, records in (("train", found.splits.train), ("test", found.splits.test))
            },
        }
