"""Reads labelled sets that tensorflow-datasets prepared as array records, without TensorFlow.

Prepares and downloads nothing. Decodes all images into one array.
"""

import json
import re
from pathlib import Path

import numpy as np

from vtadl_jax.data.records import natural_key
from vtadl_jax.data.sources.one_class import ClassSet, Part, array_part
from vtadl_jax.errors import UserError

INFO, FEATURES = "dataset_info.json", "features.json"
# Keys whose value is a class, in the present format, in protobuf's other spelling, and in old ones.
CLASS_KEYS = frozenset({"pythonClassName", "python_class_name", "type"})
OWN = re.compile(r"tensorflow_datasets\.core\.features(\.\w+)+", re.ASCII)


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
    again = f"prepare it with `tfds build {name} --file_format=array_record`"
    check_features(folder, again)
    import tensorflow_datasets as tfds  # imports slowly, and only this function needs it

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


def check_features(folder: Path, again: str) -> None:
    """Raises UserError if features.json names a Python class that is not a feature of tfds itself.

    tfds imports the module of every class that is named there, which runs the module.
    """
    path = folder / FEATURES
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return  # tfds says what is missing
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({_line(error)}): {again}") from error
    rest = [stored]
    while rest:
        node = rest.pop()
        if isinstance(node, list):
            rest += node
        elif isinstance(node, dict):
            rest += node.values()
            for key in CLASS_KEYS & node.keys():
                name = node[key]
                if isinstance(name, str) and not OWN.fullmatch(name):
                    raise UserError(
                        f"{path} names the Python class {name!r}, which is none of "
                        f"tensorflow_datasets: it is not imported; {again}"
                    )


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
