"""Golden numbers of the pyramidal auto-encoder and of PIADE, if they are next to the checkout."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tests import golden
from vtadl_jax.detectors.contract import Inputs
from vtadl_jax.detectors.rgb_reconstruction import Network, compare
from vtadl_jax.networks import perceptual
from vtadl_jax.networks.named_layers import Layer
from vtadl_jax.networks.resnet import BackboneOptions

LEAVES = {"weight": "kernel", "bias": "bias", "running_mean": "mean", "running_var": "var"}


@functools.lru_cache(maxsize=1)
def _parameters(stem: str, which: str):
    """The recipe's parameters. Making them takes seconds; tests of a set follow each other."""
    return dict(golden.recipe("make_params_ae").params(stem, which))


def small_backbone():
    """A ResNet that compiles in seconds."""
    return BackboneOptions(width=8, blocks=(1, 1, 1, 1))


class Golden:
    """A set of a golden file. stem: of the file; which: the set's name; prefix: of its arrays."""

    def __init__(self, stem: str, which: str, prefix: str = ""):
        golden.skip_without(stem)
        self.stem, self.which, self.prefix = stem, which, prefix
        facts = golden.facts(stem)
        self.numbers, self.specs, self.arrays = facts[which], facts["arrays"], golden.numbers(stem)

    @functools.cached_property
    def images(self):
        """[B, H, W, 3] in [0, 1]."""
        images = golden.recipe("make_params_ae").images(self.stem, self.which).transpose(0, 2, 3, 1)
        return np.broadcast_to(images, (*images.shape[:-1], 3))

    def variables(self, network: Network, dtype):
        """The recipe's parameters as variables of our network."""
        table = {**network.backbone.table(), **network.table, **perceptual.TABLE}
        found = {"params": {}, "stats": {}, "frozen": {"vgg": {}}}
        for theirs, array in _parameters(self.stem, self.which).items():
            name, leaf = split_name(theirs)
            layer = table[name]
            ours = LEAVES[leaf]
            if layer.kind == "norm" and leaf == "weight":
                ours = "scale"
            group = found["stats" if leaf.startswith("running") else "params"]
            group = found["frozen"]["vgg"] if name.startswith("vgg.") else group
            array = to_ours(array, layer) if ours == "kernel" else array
            expected = layer.shape if ours == "kernel" else layer.shape[-1:]
            assert array.shape == expected, theirs
            group.setdefault(name, {})[ours] = jnp.asarray(array, dtype)
        assert set(found["params"]) | set(found["frozen"]["vgg"]) == set(table)
        return found

    def check_array(self, name: str, full, tolerance: float):
        """Compares an array, whose layout is PyTorch's, with its stored samples."""
        name = f"{self.prefix}{name}"
        golden.check_samples(name, full, self.arrays[name], self.specs[name]["stride"], tolerance)


def split_name(theirs: str) -> tuple[str, str]:
    """(our name of the layer, PyTorch's name of the leaf)."""
    name, _, leaf = theirs.rpartition(".")
    if theirs == "caps.W":
        return "caps", "weight"
    if name.startswith("vgg."):
        return f"vgg.features.{name.removeprefix('vgg.')}", leaf
    if name.startswith("layer5"):
        level, part = "abcd".index(name[len("layer5")]), name.rpartition(".")[2]
        return f"pyramid.{level}.{'conv' if part == '1' else 'bn'}", leaf
    return name, leaf


AXES = {"conv": (2, 3, 1, 0), "up": (2, 3, 0, 1), "dense": (1, 0), "votes": (0, 1, 3, 2)}


def to_ours(array, layer: Layer):
    return array.transpose(AXES[layer.kind])


def to_torch(array, layer: Layer):
    return np.asarray(array).transpose(np.argsort(AXES[layer.kind]))


def nchw(x):
    """A map [B, h, w, C] in PyTorch's order; others as they are."""
    return np.asarray(x).transpose(0, 3, 1, 2) if np.ndim(x) == 4 else np.asarray(x)


def run(network: Network, variables, images, weights, train: bool, dtype):
    """(loss, (terms per image, sums per image, kept, stats)) of a pass; images: [B, H, W, 3]."""
    forward = network.forward(variables, dtype, train)
    recon = network.reconstruct(forward, images)
    terms, total = compare(variables["frozen"]["vgg"], images, recon, weights, dtype)
    return total.mean(), (terms, total, forward.kept, forward.stats)


def step_of(network: Network, weights, dtype):
    """A jitted function (variables, params, images) → (`run` in training, gradients).

    All arrays are arguments: the compiler would compute what depends on constants only.
    """

    def step(variables, params, images):
        def value(params):
            return run(network, {**variables, "params": params}, images, weights, True, dtype)

        return jax.value_and_grad(value, has_aux=True)(params)

    return jax.jit(step)


def check_recon(golden: Golden, mode: str, recon, tolerance: float):
    """Compares the reconstruction; in float32 by how far the golden program's own strays."""
    stray = golden.numbers["float32_deviation"][mode]["recon_max_abs"]
    tolerance = tolerance if recon.dtype == np.float64 else max(tolerance, 3 * stray)
    golden.check_array(f"{mode}_recon", nchw(recon), tolerance)


def inputs_of(golden: Golden, dtype: str) -> Inputs:
    size = golden.numbers["images"][2:]
    return Inputs(image_size=tuple(size), dtype=dtype)


def check_gradients(golden: Golden, network: Network, grads, tolerance: float):
    """Compares the norm of each parameter's gradient, and the stored gradients."""
    table = {**network.backbone.table(), **network.table}
    norms = golden.numbers["train"]["grad_norms"]
    floor = 1e-7 * golden.numbers["train"]["grad_norm_global"]  # biases before norms: zero
    seen = set()
    for theirs, norm in norms.items():
        name, leaf = split_name(theirs)
        ours = grads[name]["scale" if leaf == "weight" and "scale" in grads[name] else LEAVES[leaf]]
        found = float(np.linalg.norm(np.asarray(ours, np.float64)))
        assert abs(found - norm) <= tolerance * norm + max(floor, tolerance * 1e-4), theirs
        seen.add(name)
        stored = f"{golden.prefix}grad_{theirs}"
        if stored in golden.arrays:
            golden.check_array(f"grad_{theirs}", to_torch(ours, table[name])[None], tolerance)
    assert seen == set(table)


def check_running(golden: Golden, stats, tolerance: float):
    """Compares (|running mean|, |running variance|) of the stored norms after a step."""
    for theirs, want in golden.numbers["train"]["running_after_step"].items():
        name, _ = split_name(f"{theirs}.weight")
        found = [np.linalg.norm(np.asarray(stats[name][leaf])) for leaf in ("mean", "var")]
        np.testing.assert_allclose(found, want, rtol=tolerance, err_msg=theirs)
