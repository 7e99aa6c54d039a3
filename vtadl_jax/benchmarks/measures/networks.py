"""Measures the authors' other networks, and those they compare with, beside the same in PyTorch.

A training step on the config's batch, and the scores of one image and of a batch; equal parameters
on equal images, float32.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import jax
import numpy as np

from vtadl_jax.benchmarks.measures import Group, progress
from vtadl_jax.benchmarks.measures.torch_variants import (
    compiler_cache,
    count_flops,
    network_candidates,
    scoring_call,
    training_call,
)
from vtadl_jax.benchmarks.peers import require_torch
from vtadl_jax.benchmarks.timing import Candidate, compare, relative_difference
from vtadl_jax.benchmarks.workloads import assemble_trained, load_packaged, random_batch
from vtadl_jax.config import Config
from vtadl_jax.detectors.contract import Batch
from vtadl_jax.detectors.piade import build as build_piade
from vtadl_jax.detectors.pyramid_ae import build as build_pyramid
from vtadl_jax.experiment import assume_color, inputs_of
from vtadl_jax.networks import perceptual
from vtadl_jax.networks.parallel import SINGLE_DEVICE
from vtadl_jax.networks.segmentation import NETWORKS as SEGMENTATION
from vtadl_jax.networks.segmentation.layers import key_of
from vtadl_jax.options import replace
from vtadl_jax.runtime import sharding
from vtadl_jax.training.compiled_steps import compile_train_step

# Name → (experiment file, changed fields).
WORKLOADS: dict[str, tuple[str, dict[str, Any]]] = {
    "capsnet": ("capsnet", {}),
    "pyramid_ae": ("pyramid_ae", {}),
    "piade": ("piade", {}),
    "piade_official": ("piade_official", {}),
    **{name: ("segmentation", {"model.network": name}) for name in SEGMENTATION},
}
TARGETS = ("label", "mask")  # beside the images, what a loss may need
CELLS = 4  # of a drawn image along each side


def config_of(name: str) -> Config:
    """Returns the config of a workload, for color images where it does not say."""
    file, changes = WORKLOADS[name]
    return assume_color(replace(load_packaged(file), changes))


class Subject:
    """Our network with random parameters and the same in PyTorch, with a batch for both."""

    def __init__(self, name: str, config: Config):
        torch = require_torch()
        from vtadl_jax.benchmarks.peers.from_layers import copy_layers

        self.name, self.config = name, config
        self.assembly = assemble_trained(config)
        self.state = self.assembly.make_state()
        self.variables = jax.tree.map(np.asarray, self.state.variables)
        self.batch = with_patterns(random_batch(self.assembly))
        self.peer: Any = make_peer(config)
        copy_layers(self.peer, list(layers_of(config, self.variables)))
        self.targets = [torch.tensor(self.batch[key]) for key in TARGETS if key in self.batch]

    def images(self, count: int) -> np.ndarray:
        """Returns so many images, uint8 [B, H, W, C]; the batch's own are repeated if need be."""
        images = self.batch["image"]
        return np.resize(images, (count, *images.shape[1:]))


def with_patterns(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the batch with coarse patterns as images, and random labels and masks.

    Of images of noise, deep features are so alike that batch norm makes numbers of their rounding.
    """
    rng, images = np.random.default_rng(1), batch["image"]
    coarse = rng.integers(0, 256, (len(images), CELLS, CELLS, images.shape[-1]), np.uint8)
    rows, columns = (np.arange(side) * CELLS // side for side in images.shape[1:3])
    drawn = {
        name: rng.integers(0, 2, batch[name].shape).astype(batch[name].dtype)
        for name in TARGETS
        if name in batch
    }
    if "has_mask" in batch:
        drawn["has_mask"] = np.ones_like(batch["has_mask"])
    return batch | drawn | {"image": coarse[:, rows][:, :, columns]}


def make_peer(config: Config) -> Any:
    """Returns the same network in PyTorch, with its own random parameters."""
    from vtadl_jax.benchmarks.peers import torch_capsnet, torch_pyramids, torch_segmentation

    sigma, model = config.eval.map_sigma, config.model
    if config.detector == "segmentation":
        return torch_segmentation.Segmentation(model.network, sigma)
    if config.detector == "capsnet":
        return torch_capsnet.CapsNet(
            config.image_size, config.data.channels, model.mean, model.std, sigma
        )
    return torch_pyramids.reconstruction(config)


def layers_of(config: Config, variables: Any) -> Iterator[Any]:
    """Yields the `Weights` of our layers in the peer's order."""
    from vtadl_jax.benchmarks.peers.from_layers import Weights

    params, stats = variables["params"], variables["stats"]
    if config.detector == "capsnet":
        for name in ("conv", "primary"):
            yield Weights(params[name], {})
        yield Weights({"kernel": params["capsules"]}, {})
        for name in sorted(params["decoder"]):
            yield Weights(params["decoder"][name], {})
        return
    if config.detector == "segmentation":
        names = [key_of(layer.name) for layer in SEGMENTATION[config.model.network]().layers]
    else:
        build: Callable = build_piade if config.detector == "piade" else build_pyramid
        network = build(config.model, inputs_of(config))
        names = [*network.backbone.table(), *network.table]
    for name in names:
        yield Weights(params[name], stats.get(name, {}))
    if config.detector != "segmentation":
        for name in perceptual.TABLE:
            yield Weights(variables["frozen"]["vgg"][name], {})


def differences(subject: Subject) -> dict[str, float]:
    """Returns relative differences of loss, its terms and the gradient's norm, peer to ours."""
    detector_loss, variables = subject.assembly.detector.loss, subject.variables
    assert detector_loss is not None, "every workload is trained"
    keys = jax.random.split(jax.random.key(0), len(subject.batch["image"]))

    def loss_of(params: Any, others: Any, batch: Batch) -> Any:
        return detector_loss({**others, "params": params}, batch, keys, SINGLE_DEVICE)

    others = {group: tree for group, tree in variables.items() if group != "params"}
    (total, (terms, _)), grads = jax.jit(jax.value_and_grad(loss_of, has_aux=True))(
        variables["params"], others, cast(Batch, subject.batch)
    )
    peer = subject.peer.train()
    running = {name: value.clone() for name, value in peer.state_dict().items()}
    images = to_torch(subject.batch["image"])
    peer_total, peer_terms = peer(images, *subject.targets)
    peer_total.backward()
    pairs = {name: (peer_terms[name], terms[name]) for name in terms}
    pairs["loss"] = (peer_total, total)
    result = {
        name: relative_difference(theirs.detach().numpy(), np.asarray(ours))
        for name, (theirs, ours) in pairs.items()
    }
    theirs = [p.grad.numpy() for p in peer.parameters() if p.grad is not None]
    result["gradient norm"] = relative_difference(norm_of(theirs), norm_of(jax.tree.leaves(grads)))
    peer.zero_grad(set_to_none=True)
    peer.load_state_dict(running)
    return result


def norm_of(arrays: Sequence[Any]) -> np.ndarray:
    squares = [np.square(np.asarray(array), dtype=np.float64).sum() for array in arrays]
    return np.sqrt(np.sum(squares))


def to_torch(images: np.ndarray) -> Any:
    """Returns uint8 images [B, H, W, C] as a tensor [B, C, H, W]."""
    return require_torch().tensor(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def measure(
    repeats: int, name: str, compiled: bool = False, config: Config | None = None
) -> Iterator[Group]:
    """Yields the groups of a workload: one image and a batch scored, then the training step.

    compiled: also try torch.compile. config: other than that of the workload's name.
    """
    progress(f"{name}: making both networks")
    subject = Subject(name, config or config_of(name))
    with compiler_cache():
        for count in sorted({1, subject.config.eval.batch_size}):
            yield scoring(subject, count, repeats, compiled)
        yield training(subject, repeats, compiled)


def scoring(subject: Subject, count: int, repeats: int, compiled: bool) -> Group:
    """Measures score terms and anomaly maps of some images, in evaluation mode."""
    title = f"{describe(subject)}, scoring {count}"
    progress(title)
    variables, images = jax.device_put(subject.variables), subject.images(count)
    score = jax.jit(subject.assembly.detector.score).lower(variables, images).compile()
    ours = Candidate("ours", lambda: score(variables, images), lambda s: [s.terms, s.anomaly_map])
    theirs = network_candidates(
        "torch", subject.peer.eval(), to_torch(images), scoring_call, "score", compiled, list
    )
    return compare(title, [ours, *theirs], repeats)


def training(subject: Subject, repeats: int, compiled: bool) -> Group:
    """Measures loss, gradients and Adam on one batch."""
    title = f"{describe(subject)}, training step, batch {subject.config.batch_size}"
    progress(f"{title}: equal numbers?")
    checked = differences(subject)
    progress(f"{title}: compiling ours")
    ours = Candidate("ours", our_step(subject))
    peer, targets = subject.peer.train(), subject.targets
    decay = subject.config.optimizer.weight_decay

    def make_call(network: Any, function: Callable, images: Any) -> Callable[[], Any]:
        return training_call(network, lambda images: function(images, *targets), images, decay)

    images = to_torch(subject.batch["image"])
    flops = count_flops(peer, images, *targets)
    theirs = network_candidates("torch", peer, images, make_call, "forward", compiled)
    return compare(title, [ours, *theirs], repeats, flops) | {"differences": checked}


def our_step(subject: Subject) -> Callable[[], Any]:
    """Returns the step as training compiles it; every call continues from the state of the last."""
    mesh = sharding.make_mesh(1)
    state = sharding.put_state(mesh, subject.state)
    batch = sharding.put_batch(mesh, subject.batch)
    step = compile_train_step(subject.assembly.make_step(mesh, state), state, batch)

    def call() -> Any:
        nonlocal state
        state, metrics = step(state, batch)
        return metrics

    return call


def describe(subject: Subject) -> str:
    height, width, channels = subject.batch["image"].shape[1:]
    return f"{subject.name}, {height}×{width}×{channels}"
