"""A state dict of a ResNet of torchvision with random weights; numpy only."""

import numpy as np

from vtadl_jax.networks.frozen_resnet import Resnet, weight_shapes

# Small networks: torchvision's classes make them, too.
SMALL = {"basic": Resnet((1, 2, 1), False), "bottleneck": Resnet((1, 1, 2), True, 16)}


def state_dict(resnet: Resnet, seed: int = 0) -> dict[str, np.ndarray]:
    """Layers of the first three stages, and the classifier's bias, which is ignored."""
    rng, arrays = np.random.default_rng(seed), {"fc.bias": np.zeros(7, np.float32)}
    for name, (rows, columns, before, width) in weight_shapes(resnet).items():
        norm = name.replace("conv", "bn").replace("downsample.0", "downsample.1")
        scale = (2 / (rows * columns * before)) ** 0.5
        kernel = rng.standard_normal((width, before, rows, columns), np.float32)
        arrays[f"{name}.weight"] = np.float32(scale) * kernel
        for leaf, mean, spread in (("weight", 0.7, 0.1), ("bias", 0, 0.1)):
            values = mean + spread * rng.standard_normal(width, np.float32)
            arrays[f"{norm}.{leaf}"] = np.float32(values)
        arrays[f"{norm}.running_mean"] = np.float32(0.1 * rng.standard_normal(width, np.float32))
        arrays[f"{norm}.running_var"] = rng.uniform(0.5, 1.5, width).astype(np.float32)
        arrays[f"{norm}.num_batches_tracked"] = np.array(3)
    return arrays
