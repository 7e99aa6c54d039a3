"""Records → batches of arrays, with grain: an endless, resumable one to train on, and one pass in
order to evaluate.

Threads only (no flags to parse, no processes to pickle for): the decoders free the interpreter
while they work. Batches are numpy arrays of this process; `sharding` makes them global.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grain
import numpy as np

from vtadl_jax.data.decode import load_image, load_mask
from vtadl_jax.data.records import Record
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.errors import UserError

Batch = dict[str, np.ndarray]
Loader = Callable[[np.ndarray], Batch]
# Epochs. grain's own endless repeat has length sys.maxsize, which its batch(1) rounds up and fails.
ENDLESS = 2**40


def train_iterator(
    load: Loader,
    num_examples: int,
    batch_size: int,
    seed: int,
    prefetch: int,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.DatasetIterator:
    """Endless batches of what `load` makes of indices [batch_size / process_count], shuffled anew
    each epoch.

    Over all processes an epoch holds every example once; a batch may span two epochs. Rows of the
    global batch are dealt to processes in blocks, so the global batches, and the state
    ({'next_index': batches taken}, for `grain.checkpoint`), do not depend on `process_count`.
    `prefetch` batches are held ready (0: none); while the device works on one, the loop hands it
    the next. Raises UserError for a batch size that does not fit; `next` raises it for a file that
    cannot be read, after which the iterator is of no further use.
    """
    _check_batch_size(num_examples, batch_size, process_count)
    # grain shuffles epoch e by seed + e: neighbouring seeds would share all but one epoch.
    spread = int(np.random.SeedSequence(seed % 2**64).generate_state(1)[0])
    rows = grain.MapDataset.range(num_examples).shuffle(seed=spread).repeat(ENDLESS)
    blocks = rows.batch(batch_size // process_count)[process_index::process_count]
    return iter(blocks.map(load).to_iter_dataset(_read_options(prefetch)))


def decoding_loader(
    records: Sequence[Record], geometry: Geometry, channels: int, num_threads: int
) -> Loader:
    """Decodes each image when it is asked for, `num_threads` at a time (0: in the caller).

    Gives {'image': uint8 [B, H, W, C], 'label': int32 [B]}.
    """
    parallel_map = _mapper(num_threads)
    labels = labels_of(records)

    def load(indices: np.ndarray) -> Batch:
        images = parallel_map(
            lambda i: geometry.image(load_image(records[i].image, channels), channels), indices
        )
        return {"image": np.stack(list(images)), "label": labels[indices]}

    return load


def array_loader(images: np.ndarray, labels: np.ndarray) -> Loader:
    """Takes the rows of images [N, H, W, C] that are in memory already; as `decoding_loader`."""
    return lambda indices: {"image": images[indices], "label": labels[indices]}


def index_loader(indices: np.ndarray) -> Batch:
    """Names the rows for a step that has the images itself: {'index': int32 [B]}."""
    return {"index": indices.astype(np.int32)}


def labels_of(records: Sequence[Record]) -> np.ndarray:
    return np.array([record.label for record in records], np.int32)


def decode_all(
    records: Sequence[Record],
    geometry: Geometry,
    channels: int,
    num_threads: int,
    progress: Callable[[Iterable, int, str], Iterable] = lambda items, total, what: items,
) -> np.ndarray:
    """Every image, decoded: uint8 [N, H, W, C]."""
    images = np.empty((len(records), *geometry.size, channels), np.uint8)

    def load(i: int) -> None:
        images[i] = geometry.image(load_image(records[i].image, channels), channels)

    done = _mapper(num_threads)(load, range(len(records)))
    for _ in progress(done, len(records), "decode images"):
        pass
    return images


def eval_batches(
    records: Sequence[Record],
    geometry: Geometry,
    channels: int,
    batch_size: int,
    num_threads: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """One pass over the records in their order, in batches of one shape; two are held ready.

    image uint8 [B, H, W, C], mask uint8 [B, H, W], label int32 [B], has_mask bool [B], index int32
    [B] (position in `records`) and valid bool [B], where B = batch_size / process_count: each
    process gets its block of rows of every global batch, and equally many batches. Rows that fill
    up the last batch have valid False, index -1 and zeros elsewhere. Raises UserError, from `next`
    for a file that cannot be read.
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
    """Record → image uint8 [H, W, C], mask uint8 {0, 1} [H, W], label int32, has_mask bool.

    A normal image has a mask of zeros; an anomalous one without a mask has zeros and has_mask
    False. Raises UserError naming the file.
    """
    image = load_image(record.image, channels)
    mask = np.zeros(geometry.size, np.uint8)
    if record.label and record.mask is not None:
        original = load_mask(record.mask)
        if original.shape != image.shape[:2]:
            raise UserError(
                f"mask {record.mask} is {original.shape} but its image {record.image} is "
                f"{image.shape[:2]}: save the mask at the image's size"
            )
        mask = geometry.mask(original)
    return {
        "image": geometry.image(image, channels),
        "mask": mask,
        "label": np.asarray(record.label, np.int32),
        "has_mask": np.asarray(record.label == 0 or record.mask is not None),
    }


def _padding(geometry: Geometry, channels: int) -> dict[str, np.ndarray]:
    return {
        "image": np.zeros((*geometry.size, channels), np.uint8),
        "mask": np.zeros(geometry.size, np.uint8),
        "label": np.asarray(0, np.int32),
        "has_mask": np.asarray(False),
        "index": np.asarray(-1, np.int32),  # 0 would name the first record
        "valid": np.asarray(False),
    }


def _closing(dataset: grain.IterDataset) -> Iterator[Batch]:
    """Iterate, and stop reading ahead as soon as the caller stops."""
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
    """`map` over the rows of one batch: the wait for a batch shrinks without holding many."""
    if num_threads < 2:
        return map
    return ThreadPoolExecutor(num_threads, thread_name_prefix="decode").map


def _read_options(prefetch: int) -> grain.ReadOptions:
    """grain's own threads take whole batches; two of them keep the decoding threads busy."""
    return grain.ReadOptions(num_threads=min(2, prefetch), prefetch_buffer_size=prefetch)
