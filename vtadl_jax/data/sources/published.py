"""The readers of published sets of defects by `data.source`.

MPDD has MVTec AD's layout: source 'mvtec_layout'.
"""

from collections.abc import Callable

from vtadl_jax.data.records import Splits
from vtadl_jax.data.sources.known_sets import categories
from vtadl_jax.data.sources.product_sets import mvtec_ad2, mvtec_loco, real_iad, visa
from vtadl_jax.data.sources.surface_sets import dagm, kolektor_sdd, kolektor_sdd2

__all__ = ["READERS", "categories"]
READERS: dict[str, Callable[[str, str, int, float], Splits]] = {
    "visa": visa,
    "mvtec_ad2": mvtec_ad2,
    "mvtec_loco": mvtec_loco,
    "real_iad": real_iad,
    "kolektor_sdd": kolektor_sdd,
    "kolektor_sdd2": kolektor_sdd2,
    "dagm": dagm,
}
