"""Golden numbers of the segmentation networks, made by their authors' code, if they are there."""

import functools

import numpy as np

from tests import golden
from vtadl_jax.networks.segmentation import NETWORKS
from vtadl_jax.networks.segmentation.layers import init
from vtadl_jax.networks.segmentation.load import load

STEM = "segnets_seed34"
THEIRS = {  # name in the golden
    "fcn32s": "fcn32",
    "unet_tiny": "unet_tiny",
    "unet_plus_plus": "unetpp",
    "unet2": "unet2",
    "segnet": "segnet",
}


def skip_without_golden() -> None:
    golden.skip_without(STEM)


def recipe():
    return golden.recipe("make_params_features")


def state_dict(name: str) -> dict[str, np.ndarray]:
    return recipe().state_dict(STEM, THEIRS[name])


def loaded(name: str, dtype=np.float32):
    """(network, params, stats) with the golden's weights."""
    import jax

    network = NETWORKS[name]()
    shapes = jax.eval_shape(functools.partial(init, network), jax.random.key(0))
    trees = load(network, *shapes, state_dict(name))
    return network, *jax.tree.map(lambda x: np.asarray(x, dtype), trees)


def batch(dtype=np.float32):
    """Images [2, 64, 64, 3] in [0, 1] and masks [2, 64, 64]."""
    x, y = recipe().seg_batch()
    return np.asarray(x.transpose(0, 2, 3, 1), dtype), np.asarray(y[:, 0], dtype)


def numbers(name: str) -> dict[str, np.ndarray]:
    """Arrays of one network, without its prefix."""
    stored, prefix = golden.numbers(STEM), f"{THEIRS[name]}_"
    return {k.removeprefix(prefix): stored[k] for k in stored if k.startswith(prefix)}


def facts(name: str) -> dict:
    return golden.facts(STEM)["nets"][THEIRS[name]]
