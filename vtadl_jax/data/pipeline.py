"""Records → batches of arrays, with grain: an endless, resumable one to train on, and one pass in
order to evaluate.

Threads only (no flags to parse, no processes to pickle for): PIL frees the interpreter while it
decodes and resizes. Batches are numpy arrays of this process; `sharding` makes them global.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grain
import numpy as np

from vtadl_jax.data.sources import Record
from vtadl_jax.data.transforms import Geometry, load_image, load_mask
from vtadl_jax.errors import UserError

Batch = dict[str, np.ndarray]
# Epochs. grain's own endless repeat has length sys.maxsize, which its batch(1) rounds up and fails.
ENDLESS = 2**40


def train_iterator(
    records: Sequence[Record],
    geometry: Geometry,
    channels: int,
    batch_size: int,
    seed: int,
    num_threads: int,
    prefetch: int,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.DatasetIterator:
    """Endless {'image': uint8 [batch_size / process_count, H, W, C]}, shuffled anew each epoch.

    Over all processes an epoch holds every record once; a batch may span two epochs. Rows of the
    global batch are dealt to processes in blocks, so the global batches, and the state
    ({'next_index': batches taken}, for `grain.checkpoint`), do not depend on `process_count`.
    `num_threads` decode at a time (0: in the caller), `prefetch` batches are held ready (0: none).
    Raises UserError for a batch size that does not fit; `next` raises it for a file that cannot be
    read, after which the iterator is of no further use.
    """
    _check_batch_size(records, batch_size, process_count)
    parallel_map = _mapper(num_threads)

    def load(indices: np.ndarray) -> Batch:
        images = parallel_map(
            lambda i: geometry.image(load_image(records[i].image, channels)), indices
        )
        return {"image": np.stack(list(images))}

    # grain shuffles epoch e by seed + e: neighbouring seeds would share all but one epoch.
    spread = int(np.random.SeedSequence(seed % 2**64).generate_state(1)[0])
    rows = grain.MapDataset.range(len(records)).shuffle(seed=spread).repeat(ENDLESS)
    blocks = rows.batch(batch_size // process_count)[process_index::process_count]
    return iter(blocks.map(load).to_iter_dataset(_read_options(num_threads, prefetch)))


def eval_batches(
    records: Sequence[Record],
    geometry: Geometry,
    channels: int,
    batch_size: int,
    num_threads: int,
) -> Iterator[Batch]:
    """One pass over the records in their order, in batches of one shape; two are held ready.

    image uint8 [B, H, W, C], mask uint8 [B, H, W], label int32 [B], has_mask bool [B], index int32
    [B] (position in `records`) and valid bool [B]. Rows that fill up the last batch have valid
    False, index -1 and zeros elsewhere. Raises UserError, from `next` for a file that cannot be
    read.
    """
    if batch_size < 1:
        raise UserError(f"batch_size {batch_size} is not positive: use 1 or more")
    parallel_map = _mapper(num_threads)

    def load(number: int) -> Batch:
        start = number * batch_size
        chosen = records[start : start + batch_size]
        examples = list(parallel_map(lambda r: load_example(r, geometry, channels), chosen))
        for index, example in enumerate(examples, start):
            example |= {"index": np.asarray(index, np.int32), "valid": np.asarray(True)}
        padding = {name: np.zeros_like(value) for name, value in examples[0].items()}
        padding["index"] = np.asarray(-1, np.int32)  # 0 would name the first record
        examples += [padding] * (batch_size - len(examples))
        return {name: np.stack([example[name] for example in examples]) for name in padding}

    batches = grain.MapDataset.range(math.ceil(len(records) / batch_size)).map(load)
    return _closing(batches.to_iter_dataset(_read_options(num_threads, prefetch=2)))


def load_example(record: Record, geometry: Geometry, channels: int) -> dict[str, np.ndarray]:
    """Record → image uint8 [H, W, C], mask uint8 {0, 1} [H, W], label int32, has_mask bool.

    A normal image has a mask of zeros; an anomalous one without a mask has zeros and has_mask
    False. Raises UserError naming the file.
    """
    image = load_image(record.image, channels)
    mask = np.zeros(geometry.size, np.uint8)
    if record.label and record.mask:
        original = load_mask(record.mask)
        if original.shape != (image.height, image.width):
            raise UserError(
                f"mask {record.mask} is {original.shape} but its image {record.image} is "
                f"{(image.height, image.width)}: save the mask at the image's size"
            )
        mask = geometry.mask(original)
    return {
        "image": geometry.image(image),
        "mask": mask,
        "label": np.asarray(record.label, np.int32),
        "has_mask": np.asarray(record.label == 0 or record.mask is not None),
    }


def _closing(dataset: grain.IterDataset) -> Iterator[Batch]:
    """Iterate, and stop reading ahead as soon as the caller stops."""
    iterator = iter(dataset)
    try:
        yield from iterator
    finally:
        iterator.close()


def _check_batch_size(records: Sequence[Record], batch_size: int, process_count: int) -> None:
    if not records:
        raise UserError("there are no training images: check --config.data.root")
    where = records[0].image.parent
    if batch_size < 1:
        raise UserError(f"batch_size {batch_size} is not positive: use 1 or more")
    if batch_size > len(records):
        raise UserError(
            f"batch_size {batch_size} is larger than the {len(records)} training images in {where}:"
            f" use {len(records)} or less, or add images"
        )
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


def _read_options(num_threads: int, prefetch: int) -> grain.ReadOptions:
    """grain's own threads take whole batches; two of them keep the decoding threads busy."""
    if num_threads < 1 or prefetch < 1:
        return grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    return grain.ReadOptions(
        num_threads=min(2, num_threads, prefetch), prefetch_buffer_size=prefetch
    )
