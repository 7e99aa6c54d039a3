"""Converts values of more than 8 bits to 8, by rules that do not depend on a single image."""

import functools

import numpy as np

from vtadl_jax.errors import UserError

_MORE_THAN_14_BITS = 2**14  # numbers up to here could be of 8, 10, 12 or 14 bits


def to_eight_bits(values: np.ndarray, bits: int, where: str) -> np.ndarray:
    """Converts values of any shape to uint8 of the same shape.

    uint8 stays. uint16 is scaled by 255 / (2^bits - 1), where `bits` 0 is 16. So are integers of 32
    bits, and floats from 0 to 1 by 255. Without `bits`, other integers and floats must be above 14
    bits somewhere, and count as 16: their range is unknown otherwise. where: the image, in errors.
    Raises UserError for values outside the range and for other types.
    """
    kind = values.dtype.newbyteorder("=")
    if kind == np.uint8:
        return values
    if not values.size:
        raise UserError(f"{where} has no pixels: give another")
    if kind.kind not in "iuf" or kind.itemsize == 1:
        raise UserError(f"{where} of {kind}: give uint8, uint16 or floats from 0 to 1")
    low, high = values.min(), values.max()
    if kind.kind == "f" and low >= 0 and high <= 1:
        return np.rint(values * 255).astype(np.uint8)
    allowed = 2 ** (bits or 16) - 1
    known = kind == np.uint16 or high >= _MORE_THAN_14_BITS or (bits and kind.kind in "iu")
    if known and low >= 0 and high <= allowed:  # not for NaN
        whole = np.rint(values) if kind.kind == "f" else values
        return _table(bits or 16)[whole.astype(np.uint16, copy=False)]
    if kind.kind == "f":
        raise UserError(
            f"{where} has float values from {low:g} to {high:g}: scale it to 0 to 1, or save it "
            "with 8 or 16 bits"
        )
    if kind == np.uint16 or (bits and kind.kind in "iu"):
        raise UserError(
            f"{where} has values from {low} to {high}, and data.bits {bits} allows 0 to {allowed}: "
            "train with another --config.data.bits, 0 for all 16"
        )
    raise UserError(
        f"{where} of {kind}: give uint8 or uint16; it has values from {low} to {high}, of unknown "
        "range: save it with 8 or 16 bits, or train with --config.data.bits"
    )


@functools.cache
def _table(bits: int) -> np.ndarray:
    """Returns the 8-bit value of each value of `bits` bits."""
    values = np.arange(2**bits, dtype=np.float32)
    scaled = values / np.float32(257) if bits == 16 else values.astype(float) * 255 / (2**bits - 1)
    return np.rint(scaled).astype(np.uint8)
