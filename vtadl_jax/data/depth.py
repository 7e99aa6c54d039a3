"""Compares the bits that images use with `data.bits`. Reads a few images; changes none."""

from collections.abc import Sequence

from vtadl_jax.data.decode import ImageRef, largest_value

LOOKED_AT = 16  # number of images, spread over the training images
FEW = 2**14  # a quarter of the values of 16 bits


def bits_warning(images: Sequence[ImageRef], bits: int = 0) -> str | None:
    """Returns a warning if 16-bit images use less than a quarter of their range, or if `bits` has
    no effect; None if all is well.

    images: the training images, of which it reads a few. Raises UserError for one that can't be
    read.
    """
    few = images[:: len(images) // LOOKED_AT + 1]
    largest = max((v for v in map(largest_value, few) if v is not None), default=None)
    if bits:
        if largest is None and bits < 16:
            return f"data.bits {bits} changes nothing: it is for files of 16 bits, and none is one"
        return None
    if largest is None or largest >= FEW:
        return None
    likely = 12 if largest < 2**12 else 14
    return (
        f"the 16-bit images have values up to {largest} only, of 65535, and lose most levels in 8 "
        f"bits: if the camera gives {likely} bits, train with --config.data.bits={likely}"
    )
