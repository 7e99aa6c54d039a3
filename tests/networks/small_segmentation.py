"""Segmentation networks of published layers and few channels, which compile in seconds."""

import functools

from vtadl_jax.networks.segmentation import NETWORKS, unet2


def shrink(monkeypatch) -> None:
    """Makes `model.network=unet_tiny` a network of an eighth of its channels, for one test."""
    small = functools.partial(unet2.network, convolved_skips=False, divisor=16)
    monkeypatch.setitem(NETWORKS, "unet_tiny", small)
