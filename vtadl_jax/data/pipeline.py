"""Makes batches of arrays from records, with grain: endless and resumable for training, one ordered
pass for evaluation.

Uses threads only (no processes, no pickling): the decoders release the GIL. Batches are numpy
arrays of this process; `sharding` makes global arrays from them.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grain
import numpy as np

from vtadl_jax.data.crops import Crop
from vtadl_jax.data.decode import load_mask_of, loaded
from vtadl_jax.data.records import Record
from vtadl_jax.data.regions.area import at_size, read_area
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.errors import UserError

EXTENT = "extent"  # in a batch: the part of a crop that is inside its image, int32 [B, 2]
Batch = dict[str, np.ndarray]
Loader = Callable[[np.ndarray], Batch]
# Epochs. grain's endless repeat has length sys.maxsize, which overflows in its batch(1).
ENDLESS = 2**40


def train_iterator(
    load: Loader,
    num_examples: int,
    batch_size: int,
    seed: int,
    prefetch: int,
    process_index: int = 0,
    process_count: int = 1,
    anomalous: Sequence[bool] | None = None,
) -> grain.DatasetIterator:
    """Returns an endless iterator over batches, reshuffled each epoch.

    `load` makes a batch from indices [batch_size / process_count]. Over all processes an epoch
    holds every example once; a batch may span two epochs. Each process gets a block of rows of the
    global batch, so the global batches, and the state ({'next_index': batches taken}, for
    `grain.checkpoint`), do not depend on `process_count`. Prefetches `prefetch` batches (0: none).
    anomalous: which examples are; if given, good and anomalous ones take turns, so that half of a
    batch is anomalous, and each of the two is reshuffled when all of it was drawn. Raises UserError
    for a batch size that does not fit, and if one of the two is missing; `next` raises it for a
    file that cannot be read, after which the iterator is unusable.
    """
    _check_batch_size(num_examples, batch_size, process_count)
    # grain shuffles epoch e with seed + e: seeds s and s + 1 would share all but one epoch.
    spread = int(np.random.SeedSequence(seed % 2**64).generate_state(1)[0])
    if anomalous is None:
        rows = grain.MapDataset.range(num_examples).shuffle(seed=spread).repeat(ENDLESS)
    else:
        rows = _taking_turns(np.asarray(anomalous, bool), spread)
    blocks = rows.batch(batch_size // process_count)[process_index::process_count]
    return iter(blocks.map(load).to_iter_dataset(_read_options(prefetch)))


def _taking_turns(anomalous: np.ndarray, seed: int) -> grain.MapDataset:
    """Returns indices of good and of anomalous examples by turns, endless."""
    turns = []
    for wanted, name in ((False, "good"), (True, "anomalous")):
        of_kind = np.flatnonzero(anomalous == wanted).tolist()
        if not of_kind:
            raise UserError(
                f"data.balanced_batches: there are no {name} training images: switch it off, or "
                f"add some"
            )
        turns.append(grain.MapDataset.source(of_kind).shuffle(seed=seed).repeat(ENDLESS))
    return grain.MapDataset.mix(turns, weights=(0.5, 0.5))


def decoding_loader(
    records: Sequence[Record],
    geometry: Geometry,
    channels: int,
    num_threads: int,
    needs: Collection[str] = (),
) -> Loader:
    """Returns a loader that decodes images on demand, in `num_threads` threads (0: in the caller).

    It returns 'image' uint8 [B, H, W, C] and the fields of `Batch` for `needs` ('label', 'mask',
    and 'extent' for crops of large images).
    """
    parallel_map = _mapper(num_threads)

    def load(indices: np.ndarray) -> Batch:
        examples = list(
            parallel_map(lambda i: needed_example(records[i], geometry, channels, needs), indices)
        )
        return {name: np.stack([example[name] for example in examples]) for name in examples[0]}

    return load


def needed_example(
    record: Record, geometry: Geometry, channels: int, needs: Collection[str]
) -> dict[str, np.ndarray]:
    """Returns the fields of a record that a step needs; reads masks only if they are needed."""
    example: dict[str, np.ndarray]
    if "mask" in needs:
        whole = load_example(record, geometry, channels)
        example = {name: whole[name] for name in ("image", "mask", "has_mask")}
    else:
        area = area_of(record, geometry)
        with loaded(record.image, channels, geometry.bits) as pixels:
            example = {"image": geometry.image(pixels, channels, area)}
    if "label" in needs:
        example["label"] = np.asarray(record.label, np.int32)
    if EXTENT in needs:
        assert isinstance(record.image, Crop), "whole images have no extent"
        inside = np.array(record.image.extent) * geometry.size // record.image.side
        example[EXTENT] = inside.astype(np.int32)
    return example


def array_loader(examples: Batch) -> Loader:
    """Returns a loader of rows in memory, with the output of `decoding_loader`."""
    return lambda indices: {name: rows[indices] for name, rows in examples.items()}


def index_loader(indices: np.ndarray) -> Batch:
    """Returns {'index': int32 [B]}, for a step that gathers rows of a resident data set."""
    return {"index": indices.astype(np.int32)}


def decode_all(
    records: Sequence[Record],
    geometry: Geometry,
    channels: int,
    num_threads: int,
    progress: Callable[[Iterable, int, str], Iterable] = lambda items, total, what: items,
    needs: Collection[str] = (),
) -> Batch:
    """Decodes all records; returns arrays [N, ...] by name."""
    found = {
        name: np.empty((len(records), *shape), dtype)
        for name, (shape, dtype) in example_shapes(geometry, channels, needs).items()
    }

    def load(i: int) -> None:
        for name, value in needed_example(records[i], geometry, channels, needs).items():
            found[name][i] = value

    done = _mapper(num_threads)(load, range(len(records)))
    for _ in progress(done, len(records), "decode images"):
        pass
    return found


def example_shapes(
    geometry: Geometry, channels: int, needs: Collection[str]
) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Returns shape and dtype of the fields of `needed_example`, by name."""
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        "image": ((*geometry.size, channels), np.uint8)
    }
    if "mask" in needs:
        shapes |= {"mask": (geometry.size, np.uint8), "has_mask": ((), np.bool_)}
    if "label" in needs:
        shapes["label"] = ((), np.int32)
    if EXTENT in needs:
        shapes[EXTENT] = ((2,), np.int32)
    return shapes


def eval_batches(
    records: Sequence[Record],
    geometry: Geometry,
    channels: int,
    batch_size: int,
    num_threads: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Yields batches of one shape in one ordered pass over the records; prefetches two.

    image uint8 [B, H, W, C], mask uint8 [B, H, W], label int32 [B], has_mask bool [B], num_thin
    int32 [B], inside and leaves as of `load_example`, index int32 [B] (position in `records`) and
    valid bool [B], where B = batch_size / process_count: each process gets its block of rows of
    every global batch, and the same number of batches. Padding rows of the last batch have valid
    False, index -1 and zeros elsewhere. Raises UserError, from `next` for a file that cannot be
    read.
    """
    _check_divides(batch_size, process_count)
    rows = batch_size // process_count
    parallel_map = _mapper(num_threads)

    def load(number: int) -> Batch:
        start = number * batch_size + process_index * rows
        chosen = records[start : start + rows]
        examples = list(parallel_map(lambda r: load_example(r, geometry, channels), chosen))
        for index, example in enumerate(examples, start):
            example |= {"index": np.asarray(index, np.int32), "valid": np.asarray(True)}
        examples += [_padding(geometry, channels)] * (rows - len(examples))
        return {name: np.stack([example[name] for example in examples]) for name in examples[0]}

    batches = grain.MapDataset.range(math.ceil(len(records) / batch_size)).map(load)
    return _closing(batches.to_iter_dataset(_read_options(2 if num_threads else 0)))


def load_example(record: Record, geometry: Geometry, channels: int) -> dict[str, np.ndarray]:
    """Loads a record: image uint8 [H, W, C], mask uint8 {0, 1} [H, W], label int32, has_mask bool,
    num_thin int32 (regions of the mask that are too thin for its size).

    If the geometry has regions, also inside bool [H, W], where the image is inspected: the mask is
    0 elsewhere; leaves int32: 1 if the mask has pixels elsewhere, 2 if it has no others.
    A normal image has a mask of zeros; an anomalous one without a mask has zeros and has_mask
    False. Raises UserError naming the file.
    """
    area = area_of(record, geometry)
    with loaded(record.image, channels, geometry.bits) as pixels:
        image, size = geometry.image(pixels, channels, area), pixels.shape[:2]
    mask, num_thin = np.zeros(geometry.size, np.uint8), 0
    inside = None if geometry.regions is None else geometry.inside(size, area)
    leaves = 0
    if record.label and record.mask is not None:
        original = load_mask_of(record.image, record.mask, size)
        mask, num_thin = geometry.mask_and_thin(original)
        if inside is not None:
            leaves = _leaves(original, inspected_pixels(geometry, size, area))
            mask *= inside
    found = {
        "image": image,
        "mask": mask,
        "label": np.asarray(record.label, np.int32),
        "has_mask": np.asarray(record.label == 0 or record.mask is not None),
        "num_thin": np.asarray(num_thin, np.int32),
    }
    if inside is None:
        return found
    return {**found, "inside": inside, "leaves": np.asarray(leaves, np.int32)}


def area_of(record: Record, geometry: Geometry) -> np.ndarray | None:
    """Returns the record's own region, bool [h, w]; None if one is for all images, or none is.

    Raises UserError if each image has its own and this one has none, or it can't be read.
    """
    if geometry.regions is None or geometry.regions.area is not None:
        return None
    if record.region is None:
        raise UserError(
            f"image {record.name} has no file of data.regions, of which each image of this run has "
            f"one: is the folder still there? If it moved, evaluate with --data_regions=DIR"
        )
    return read_area(record.region).pixels


def inspected_pixels(
    geometry: Geometry, size: tuple[int, int], area: np.ndarray | None
) -> np.ndarray:
    """Returns the pixels inspected of an image at its own size, bool [h, w]. area: its own one."""
    assert geometry.regions is not None, "everything is inspected"
    area = geometry.regions.area if area is None else area
    return np.ones(size, bool) if area is None else at_size(area, size)


def _leaves(mask: np.ndarray, inspected: np.ndarray) -> int:
    """Returns 1 if a mask has pixels that are not inspected, 2 if it has no others, else 0."""
    if not (mask & ~inspected).any():
        return 0
    return 1 if (mask & inspected).any() else 2


def _padding(geometry: Geometry, channels: int) -> dict[str, np.ndarray]:
    every = {"inside": np.ones(geometry.size, bool), "leaves": np.asarray(0, np.int32)}
    return {
        **(every if geometry.regions is not None else {}),
        "image": np.zeros((*geometry.size, channels), np.uint8),
        "mask": np.zeros(geometry.size, np.uint8),
        "label": np.asarray(0, np.int32),
        "has_mask": np.asarray(False),
        "num_thin": np.asarray(0, np.int32),
        "index": np.asarray(-1, np.int32),  # 0 is the first record
        "valid": np.asarray(False),
    }


def _closing(dataset: grain.IterDataset) -> Iterator[Batch]:
    """Iterates, and stops prefetching as soon as the caller stops."""
    iterator = iter(dataset)
    try:
        yield from iterator
    finally:
        iterator.close()


def _check_batch_size(num_examples: int, batch_size: int, process_count: int) -> None:
    if num_examples < 1:
        raise UserError("there are no training images: check --config.data.root")
    if batch_size > num_examples:
        raise UserError(
            f"batch_size {batch_size} is larger than the {num_examples} training images: "
            f"use {num_examples} or less, or add images"
        )
    _check_divides(batch_size, process_count)


def _check_divides(batch_size: int, process_count: int) -> None:
    if batch_size < 1:
        raise UserError(f"batch_size {batch_size} is not positive: use 1 or more")
    if batch_size % process_count:
        fit = batch_size // process_count * process_count or process_count
        raise UserError(
            f"batch_size {batch_size} is not divisible by {process_count} processes: use {fit}"
        )


def _mapper(num_threads: int) -> Callable[..., Iterable[Any]]:
    """Returns a `map` over the rows of one batch in threads: low latency without many batches."""
    if num_threads < 2:
        return map
    return ThreadPoolExecutor(num_threads, thread_name_prefix="decode").map


def _read_options(prefetch: int) -> grain.ReadOptions:
    """Returns grain's read options: its threads take whole batches, two keep the decoders busy."""
    return grain.ReadOptions(num_threads=min(2, prefetch), prefetch_buffer_size=prefetch)
