"""The thesis's "Unet (Tiny)": the plain U-Net of Pytorch-UNet-2 with half of its channels."""

import functools

from vtadl_jax.networks.segmentation import unet2

# 3,352,257 parameters.
network = functools.partial(unet2.network, convolved_skips=False, divisor=2)
