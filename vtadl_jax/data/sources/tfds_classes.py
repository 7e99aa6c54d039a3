"""Reads labelled sets that tensorflow-datasets prepared as array records, without TensorFlow.

Prepares and downloads nothing. Decodes all images into one array.
"""

from pathlib import Path

import numpy as np

from vtadl_jax.data.records import natural_key
from vtadl_jax.data.sources.one_class import ClassSet, Part, array_part
from vtadl_jax.errors import UserError

INFO = "dataset_info.json"


def find_tfds(root: Path, name: str) -> Path | None:
    """Finds a prepared set's folder: `root`, or the newest root/VERSION or root/NAME/VERSION; None
    without one."""
    if (root / INFO).is_file():
        return root
    for folder in (root, root / name):
        found = [path.parent for path in folder.glob(f"*/{INFO}")]
        if found:
            return max(found, key=lambda path: natural_key(path.name))
    return None


def read_tfds(folder: Path, name: str, title: str, classes: tuple[str, ...]) -> ClassSet:
    """Reads the set in `folder`, of images of one size and labels in the order of `classes`.

    Raises UserError if it is another set than `name`, or stored as tfrecord.
    """
    import tensorflow_datasets as tfds  # imports slowly, and only this function needs it

    again = f"prepare it with `tfds build {name} --file_format=array_record`"
    try:
        builder = tfds.builder_from_directory(folder)
    except Exception as error:
        raise UserError(f"{folder / INFO} cannot be read ({_line(error)}): {again}") from error
    if builder.name != name:
        raise UserError(
            f"{folder} holds the set '{builder.name}', not '{name}': point --config.data.root to "
            f"{title}, or use the config of '{builder.name}'"
        )
    kind = builder.info.file_format
    if kind is not tfds.core.FileFormat.ARRAY_RECORD:
        raise UserError(
            f"{folder} is stored as {kind.value if kind else 'an unknown format'}, which only "
            f"TensorFlow reads: {again}"
        )
    try:
        train, test = (_read_part(builder, split) for split in ("train", "test"))
    except Exception as error:  # missing shards, other features, damaged records
        raise UserError(f"{folder} cannot be read ({_line(error)}): {again}") from error
    for part in (train, test):
        if part.labels.max(initial=0) >= len(classes):
            raise UserError(
                f"{folder} has the label {part.labels.max()}, unknown to {title}: {again}"
            )
    return ClassSet(title, classes, train, test)


def _read_part(builder, split: str) -> Part:
    source = builder.as_data_source(split)
    images, labels = None, np.empty(len(source), np.int64)
    for i, example in enumerate(source):
        image = example["image"]
        if images is None:
            images = np.empty((len(source), *image.shape), np.uint8)
        images[i], labels[i] = image, example["label"]
    if images is None:
        raise ValueError(f"no images in split '{split}'")
    return array_part(split, images[..., 0] if images.shape[-1] == 1 else images, labels)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
