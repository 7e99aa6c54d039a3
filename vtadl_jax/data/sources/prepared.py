"""Lists prepared array records as records that read their pixels on demand.

`vtadl_jax.prepare` writes them. Reads only the manifest until an image or a mask is needed.
"""

import difflib
import functools
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from PIL import Image

from vtadl_jax.data import manifest as manifests
from vtadl_jax.data.manifest import Manifest
from vtadl_jax.data.records import Record, Splits
from vtadl_jax.errors import UserError

HOW = "python -m vtadl_jax.prepare --dataset NAME --source DIR --data_dir"


@dataclass(frozen=True)
class _Shard:
    """File entry for array_record; with the number of examples given, it need not open the file."""

    filename: str
    skip: int
    take: int
    examples_in_shard: int


class _Split:
    """The records of one split. Opens files at the first read; thread-safe."""

    def __init__(self, folder: Path, shards: dict[str, int], image_size: tuple[int, ...] | None):
        self.folder, self.image_size = folder, image_size
        self._shards = [_Shard(str(folder / name), 0, n, n) for name, n in shards.items()]

    @functools.cached_property
    def _source(self):
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        return ArrayRecordDataSource(self._shards)

    def value(self, index: int, feature: str) -> bytes:
        from tensorflow_datasets.proto import tf_example_pb2

        example = tf_example_pb2.Example.FromString(self._source[index])
        return example.features.feature[feature].bytes_list.value[0]


@dataclass(frozen=True, eq=False)
class StoredPixels:
    """Image or mask of a prepared record, a `decode.Stored`."""

    split: _Split
    index: int
    name: str
    feature: str
    size: tuple[int, int]
    mark: str = ""

    def read(self) -> np.ndarray:
        """Returns uint8 [h, w, C], or a mask 0 or 255 [h, w]. Raises UserError if damaged."""
        try:
            content = self.split.value(self.index, self.feature)
            if self.feature == "image" and self.split.image_size:
                return np.frombuffer(content, np.uint8).reshape(*self.size, -1).copy()
            return png_pixels(content)
        except Exception as error:  # riegeli, protobuf and libpng each raise their own exceptions
            raise UserError(
                f"cannot read {self} ({' '.join(str(error).split())}): find what is damaged with "
                "`python -m vtadl_jax.prepare --check --data_dir DIR`"
            ) from error

    def __str__(self) -> str:
        return f"{self.feature} of {self.name} in {self.split.folder}"


def prepared(
    root: str | Path, category: str, canvas: Sequence[int] = (), fit: str = "stretch"
) -> Splits:
    """Lists the images of a category that is prepared in `root`.

    root: the category's record folder, its data set's folder, or one above. Of several image sizes
    takes that of `canvas` (height, width), else the original one, else the only one. `fit` other
    than 'stretch' needs the original size: the others lost their aspect. Raises UserError if
    nothing fits, or shards are missing.
    """
    if not str(root).strip():
        raise UserError("data.root is empty: set --config.data.root=DIR to the prepared records")
    folder, manifest = _choose(Path(root).expanduser(), category, tuple(canvas), fit)
    faults = manifests.shard_faults(folder, manifest, contents=False)
    if faults:
        raise UserError(f"{faults[0]}: remove {folder} and prepare it again")
    # While tensorflow-datasets is imported, every other thread's imports fail (it swaps the builtin
    # for lazy ones): here, before threads read and compile.
    import tensorflow_datasets  # noqa: F401

    train, test = (_records(folder, manifest, split) for split in ("train", "test"))
    return Splits(train, test, manifest["category"])


def png_pixels(content: bytes) -> np.ndarray:
    """Decodes an 8-bit PNG, grey or RGB, to uint8 [h, w] or [h, w, 3]."""
    try:
        return imagecodecs.png_decode(content)
    except imagecodecs.PngError:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            return np.array(image)


def _records(folder: Path, manifest: Manifest, name: str) -> tuple[Record, ...]:
    size = manifest["image_size"] and tuple(manifest["image_size"])
    shards = {
        shard: about["records"]
        for shard, about in manifest["shards"].items()
        if about["split"] == name
    }
    split, records = _Split(folder, shards, size), []
    sources = manifest["source"]["files"]
    for index, (image, defect, label, height, width, has_mask) in enumerate(
        manifest["records"].get(name, [])
    ):
        mark = sources.get(image, "")[:16]
        pixels = StoredPixels(split, index, image, "image", size or (height, width), mark)
        mask = StoredPixels(split, index, image, "mask", pixels.size) if has_mask else None
        records.append(Record(pixels, mask, label, defect, image))
    return tuple(records)


def list_categories(root: str | Path) -> tuple[str, ...]:
    """Lists the categories that are prepared in `root`. Raises UserError if there are none."""
    path = Path(root).expanduser()
    found = {manifests.read(folder)["category"] for folder in manifests.find(path)}
    if not found:
        raise UserError(f"nothing is prepared in {path}: prepare it with `{HOW} {path}`")
    return tuple(sorted(found))


def _choose(
    root: Path, category: str, canvas: tuple[int, ...], fit: str
) -> tuple[Path, dict[str, Any]]:
    """Returns the one matching folder of records. Raises UserError if there is none or several."""
    if not root.is_dir():
        raise UserError(f"data.root {root} does not exist: prepare it with `{HOW} {root}`")
    found = [(folder, manifests.read(folder)) for folder in manifests.find(root)]
    if not found:
        raise UserError(f"nothing is prepared in {root}: prepare it with `{HOW} {root}`")
    found = _of_category(root, found, category)
    sets = sorted({manifest["dataset"] for _, manifest in found})
    if len(sets) > 1:
        raise UserError(
            f"{root} holds the sets {', '.join(sets)}: point --config.data.root to one of them"
        )
    sizes = {tuple(manifest["image_size"] or ()): (f, manifest) for f, manifest in found}
    if fit == "stretch" and canvas in sizes:
        return sizes[canvas]
    if () in sizes:
        return sizes[()]
    there = ", ".join("×".join(map(str, size)) for size in sorted(sizes))
    if fit != "stretch":
        raise UserError(
            f"data.fit {fit!r} needs images of their original aspect, but {root} holds {there}: "
            "prepare them without --image_size, or leave data.fit at 'stretch'"
        )
    if len(sizes) > 1:
        raise UserError(
            f"{root} holds images of {there} (height×width) and none of "
            f"{'×'.join(map(str, canvas))}: set data.resize or image_size to one of them, "
            "or prepare that one"
        )
    return next(iter(sizes.values()))


def _of_category(
    root: Path, found: list[tuple[Path, Manifest]], category: str
) -> list[tuple[Path, Manifest]]:
    known = sorted({manifest["category"] for _, manifest in found})
    if not category:
        if len(known) > 1:
            raise UserError(
                f"{root} holds {', '.join(known)}: choose one with --config.data.category=NAME"
            )
        return found
    chosen = [(folder, manifest) for folder, manifest in found if manifest["category"] == category]
    if not chosen:
        near = difflib.get_close_matches(category, known, 1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise UserError(
            f"category '{category}' is not prepared in {root}, only {', '.join(known)}: {hint}"
            f"prepare it with `{HOW} DIR --category {category}`"
        )
    return chosen
