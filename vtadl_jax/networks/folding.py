"""Loads convolutions with the batch norms after them folded in; exact at inference. Numpy only."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from vtadl_jax.errors import UserError

NORM_LEAVES = ("weight", "bias", "running_mean", "running_var")


def fold_layers(
    arrays: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    origin: Mapping[str, tuple[str, str]],
    epsilon: float,
) -> tuple[dict[str, dict[str, np.ndarray]], list[str]]:
    """Returns (layers, troubles): our name → 'kernel' and 'bias', float32, and what does not fit.

    arrays: a PyTorch state dict. shapes: our name → shape of the kernel, see `to_ours`. origin: our
    name → names of convolution and norm in the file. A trouble names an array of the file.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    troubles = []
    for name, shape in shapes.items():
        convolution, norm = origin[name]
        kernel_name = f"{convolution}.weight"
        names = [kernel_name, *(f"{norm}.{leaf}" for leaf in NORM_LEAVES)]
        missing = [n for n in names if n not in arrays]
        if missing:
            troubles.append(f"{missing[0]} is missing")
            continue
        kernel = to_ours(arrays[kernel_name], len(shape))
        vectors = [arrays[n] for n in names[1:]]
        if kernel.shape != shape or any(v.shape != shape[-1:] for v in vectors):
            shape = arrays[kernel_name].shape
            troubles.append(f"{kernel_name} is {list(shape)}, a shape of another network")
        elif not all(np.isfinite(a).all() for a in (kernel, *vectors)):
            troubles.append(f"{kernel_name} or its norm has values that are not finite")
        else:
            found[name] = _fold(epsilon, kernel, *vectors)
    return found, troubles


def to_ours(kernel: np.ndarray, axes: int) -> np.ndarray:
    """Transposes [out, in, k, k] to [k, k, in, out]; 3 axes, depthwise: [k, k, C]; 2: [in, out]."""
    if kernel.ndim != 4:
        return kernel
    ours = kernel.transpose(2, 3, 1, 0)
    if axes == 3 and kernel.shape[1] == 1:
        return ours[:, :, 0]
    return ours[0, 0] if axes == 2 and kernel.shape[2:] == (1, 1) else ours


def _fold(epsilon: float, kernel, scale, bias, mean, variance) -> dict[str, np.ndarray]:
    kernel, scale, bias, mean, variance = (
        np.asarray(x, np.float64) for x in (kernel, scale, bias, mean, variance)
    )
    factor = scale / np.sqrt(variance + epsilon)
    return {
        "kernel": (kernel * factor).astype(np.float32),
        "bias": (bias - mean * factor).astype(np.float32),
    }


def weights_of_variant(
    load: Callable[[str], tuple[dict, list[str]]],
    name: str,
    variants: Iterable[str],
    title: str,
    remedy: str,
) -> dict:
    """Returns the weights that `load` finds in a file for a variant of a network.

    load: name of a variant → (weights, what is wrong with the file). Raises UserError, which names
    what is wrong and the variant that the file is of, else the remedy.
    """
    found, troubles = load(name)
    if not troubles:
        return found
    others = [other for other in variants if other != name and not load(other)[1]]
    remedy = f"use --config.model.features={others[0]}" if others else remedy
    raise UserError(f"is not {title} ({'; '.join(troubles[:2])}): {remedy}")
