"""Finds the largest batch of a step that fits, with the readings of the sizes it compiles."""

from collections.abc import Callable

from vtadl_jax.compiling import search
from vtadl_jax.compiling.reading import Reading
from vtadl_jax.compiling.topology import Target
from vtadl_jax.compiling.wording import mib


def find_largest(
    read: Callable[[int], Reading],
    reading: Reading,
    target: Target,
    progress: Callable[[str], None],
) -> dict | None:
    """Returns the largest batch per device that fits, as data; None if its memory is unknown.

    read: images per device → reading; reading: that of the first size.
    """
    if target.chip is None:
        progress("the memory size of these devices is unknown: no search for the largest batch")
        return None

    def fit(found: Reading, images: int) -> search.Fit:
        return search.Fit(images, found["fits"], found["memory"]["needed"])

    def measure(images: int) -> search.Fit:
        progress(f"trying {images} images per device")
        found = read(images)
        told = "fits" if found["fits"] else "does not fit"
        progress(f"  {told}: {mib(found['memory']['needed'])}")
        return fit(found, images)

    first = fit(reading, round(reading["program"]["images_per_device"]))
    found = search.largest_batch(measure, first, target.chip.hbm_bytes)
    return {
        "images": found.images,
        "too_many": found.too_many,
        "tried": [vars(one) for one in found.tried],
    }
