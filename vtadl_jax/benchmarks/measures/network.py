"""Measures the training step and the scoring of one image: our network, the same network in torch,
and the network that the authors published in torch."""

from collections.abc import Callable
from typing import Any, Protocol

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
from vtadl_jax.benchmarks.workloads import assemble_trained, random_batch
from vtadl_jax.config import Config
from vtadl_jax.detectors.contract import Batch
from vtadl_jax.experiment import make_detector
from vtadl_jax.networks.parallel import SINGLE_DEVICE
from vtadl_jax.options import replace
from vtadl_jax.runtime import sharding
from vtadl_jax.training.assembly import Assembly
from vtadl_jax.training.compiled_steps import compile_train_step
from vtadl_jax.training.state import TrainState

SAME, OFFICIAL = "torch, the same network", "torch, official network"


class Trainable(Protocol):
    """Inputs of `our_step`: the images [B, H, W, C] uint8, and the detector that trains on them."""

    assembly: Assembly
    state: TrainState
    images: np.ndarray


class Subjects:
    """Subjects to measure: a config's network, its torch twin with equal parameters, and images."""

    def __init__(self, config: Config):
        torch = require_torch()
        from vtadl_jax.benchmarks.peers.from_flax import load_variables
        from vtadl_jax.benchmarks.peers.torch_paper import PaperVTADL

        self.config = config
        self.assembly = assemble_trained(config)
        self.state = self.assembly.make_state()
        self.variables = jax.tree.map(np.asarray, self.state.variables)
        self.images = random_batch(self.assembly)["image"]
        self.torch_images = torch.tensor(np.ascontiguousarray(self.images.transpose(0, 3, 1, 2)))
        self.twin = PaperVTADL(config)
        load_variables(self.twin, self.variables)

    def official(self) -> Any:
        """Returns the published network, or None if it does not support the image size."""
        from vtadl_jax.benchmarks.peers.torch_vtadl import IMAGE_SIZE, OfficialVTADL

        fits = self.images.shape[1:] == (IMAGE_SIZE, IMAGE_SIZE, 3)
        return OfficialVTADL() if fits else None


def differences(subjects: Subjects) -> dict[str, float]:
    """Returns relative differences of loss terms and gradient norm, twin to ours, noise off."""
    from vtadl_jax.benchmarks.peers.from_flax import named_arrays

    detector_loss = make_detector(replace(subjects.config, {"model.mdn.noise_std": 0.0})).loss
    assert detector_loss is not None, "VT-ADL is trained"
    variables, batch = subjects.variables, Batch(image=subjects.images)
    keys = jax.random.split(jax.random.key(0), len(subjects.images))

    def loss_of(params: Any) -> Any:
        return detector_loss({**variables, "params": params}, batch, keys, SINGLE_DEVICE)

    (total, (terms, _)), grads = jax.jit(jax.value_and_grad(loss_of, has_aux=True))(
        variables["params"]
    )
    twin = subjects.twin.train()
    noise_std, twin.mixture.noise_std = twin.mixture.noise_std, 0.0
    twin_total, twin_terms = twin(subjects.torch_images)
    twin_total.backward()
    twin.mixture.noise_std = noise_std
    pairs = {"loss": (twin_total, total)} | {n: (twin_terms[n], terms[n]) for n in terms}
    result = {
        name: relative_difference(peer.detach().numpy(), np.asarray(ours))
        for name, (peer, ours) in pairs.items()
    }
    ours = dict(named_arrays(grads))
    theirs = {name: np.asarray(p.grad) for name, p in twin.named_parameters()}
    result["gradient norm"] = relative_difference(norm_of(theirs), norm_of(ours))
    twin.zero_grad(set_to_none=True)
    return result


def norm_of(arrays: dict[str, np.ndarray]) -> np.ndarray:
    return np.sqrt(np.sum([np.square(array, dtype=np.float64).sum() for array in arrays.values()]))


def training_step(repeats: int, config: Config, compiled: bool = True) -> list[Group]:
    """Measures loss, gradients and Adam with L2 on one batch. compiled: also try torch.compile."""
    title = f"training step, {describe(config)}, batch {config.batch_size}"
    progress(f"{title}: equal numbers?")
    subjects = Subjects(config)
    checked = differences(subjects)
    progress(f"{title}: compiling ours")
    candidates = [Candidate("ours", our_step(subjects))]
    with compiler_cache():
        twin = subjects.twin.train()
        flops = count_flops(twin, subjects.torch_images)
        candidates += network_candidates(
            SAME, twin, subjects.torch_images, training_call, "forward", compiled
        )
        if (official := subjects.official()) is not None:
            images = subjects.torch_images.float() / 255
            candidates += network_candidates(
                OFFICIAL, official.train(), images, training_call, "forward", compiled
            )
        progress(f"{title}: timing")
        group = compare(title, candidates, repeats, flops)
    for row in group["rows"]:
        if row["name"].startswith(OFFICIAL):  # another workload: no rate
            row["gflops"] = None
    return [group | {"differences": checked}]


def one_image(repeats: int, config: Config, compiled: bool = True) -> list[Group]:
    """Measures score terms, anomaly map and reconstruction of one image, in evaluation mode."""
    title = f"scoring one image, {describe(config)}"
    progress(title)
    subjects = Subjects(config)
    score = jax.jit(subjects.assembly.detector.score)
    variables, image = jax.device_put(subjects.variables), subjects.images[:1]
    candidates = [
        Candidate("ours", lambda: score(variables, image), lambda s: [s.terms, s.anomaly_map])
    ]
    torch_image = subjects.torch_images[:1]
    with compiler_cache():
        candidates += network_candidates(
            SAME,
            subjects.twin.eval(),
            torch_image,
            scoring_call,
            "score",
            compiled,
            lambda s: s[:2],
        )
        if (official := subjects.official()) is not None:
            candidates += network_candidates(
                OFFICIAL,
                official.eval(),
                torch_image.float() / 255,
                scoring_call,
                "score",
                compiled,
            )
        progress(f"{title}: timing")
        return [compare(title, candidates, repeats)]


def describe(config: Config) -> str:
    height, width = config.image_size
    mdn = config.model.mdn
    return f"{height}×{width}, P {config.model.vit.patch_size}, K {mdn.num_components}"


def our_step(subjects: Trainable) -> Callable[[], Any]:
    """Returns the step as training compiles it; every call continues from the state of the last."""
    mesh = sharding.make_mesh(1)
    state = sharding.put_state(mesh, subjects.state)
    batch = sharding.put_batch(mesh, {"image": subjects.images})
    step = compile_train_step(subjects.assembly.make_step(mesh, state), state, batch)

    def call() -> Any:
        nonlocal state
        state, metrics = step(state, batch)
        return metrics

    return call
