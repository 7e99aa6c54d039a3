"""Segmentation networks of chapter 7 of the thesis, by the names of `model.network`.

Each file has one network as its authors published it: a table of its layers and a function. They
return logits; what is trained, and on what, is in `vtadl_jax/detectors/segmentation.py`.
"""

from collections.abc import Callable

from vtadl_jax.networks.segmentation import fcn32s, segnet, unet2, unet_plus_plus, unet_tiny
from vtadl_jax.networks.segmentation.layers import Network

NETWORKS: dict[str, Callable[[], Network]] = {
    "fcn32s": fcn32s.network,
    "unet_tiny": unet_tiny.network,
    "unet_plus_plus": unet_plus_plus.network,
    "unet2": unet2.network,
    "segnet": segnet.network,
}
