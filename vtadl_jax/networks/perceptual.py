"""Perceptual loss: the distance of two images in the first layers of VGG-11, which stay frozen.

Johnson et al., 2016; Simonyan and Zisserman, 2015. As in the authors' code of PIADE, "the first
four layers" are the first four entries of torchvision's list of features: a convolution, ReLU,
max-pool, and a convolution without the ReLU after it. Images are in [0, 1], not standardized.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from vtadl_jax.networks import named_layers
from vtadl_jax.networks.named_layers import ForwardPass, Layer, Params
from vtadl_jax.ops.pooling import max_pool

PREFIX = "vgg."
TABLE = {
    "vgg.features.0": Layer("conv", (3, 3, 3, 64)),
    "vgg.features.3": Layer("conv", (3, 3, 64, 128)),
}
TITLE = "VGG-11"


def init(key: jax.Array) -> Params:
    """Returns random weights, for runs without a file."""
    return named_layers.init(key, TABLE, "he")[0]


def load(arrays: Mapping[str, np.ndarray]) -> Params:
    """Returns the weights of torchvision's VGG-11. Raises UserError for arrays that do not fit."""
    return named_layers.load(arrays, TABLE, PREFIX, TITLE)[0]


def features(params: Params, images, dtype=jnp.float32):
    """Returns responses [B, H // 2, W // 2, 128] to images [B, H, W, 3] in [0, 1]."""
    forward = ForwardPass(params, {}, dtype)
    x = jax.nn.relu(forward.conv("vgg.features.0", images))
    rows, columns = (side // 2 for side in x.shape[1:3])
    return forward.conv("vgg.features.3", max_pool(x[:, : 2 * rows, : 2 * columns]))


def perceptual_distance(params: Params, images, recon, dtype=jnp.float32):
    """Returns the mean squared difference of the responses of each image pair, [B]."""
    difference = features(params, images, dtype) - features(params, recon, dtype)
    return jnp.square(difference).mean((2, 3)).mean(1)
