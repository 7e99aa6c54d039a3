"""The published network here and in PyTorch, with the same parameters on the same images."""

import copy
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vtadl_jax import train
from vtadl_jax.benchmarks.measures import Group, progress
from vtadl_jax.benchmarks.measures.network import OFFICIAL, norm_of, our_step
from vtadl_jax.benchmarks.measures.torch_variants import (
    compiler_cache,
    network_candidates,
    scoring_call,
    training_call,
)
from vtadl_jax.benchmarks.peers import require_torch
from vtadl_jax.benchmarks.timing import Candidate, compare, relative_difference
from vtadl_jax.errors import UserError
from vtadl_jax.models import make_detector
from vtadl_jax.models.official import build, objective, to_unit_interval
from vtadl_jax.optimizer import make_optimizer
from vtadl_jax.weights import names

OURS, PAPER = "ours, official network", "ours, paper's network"
SIDES = {"ours": OURS, "paper": PAPER, "torch": OFFICIAL}


class Side:
    """One of our networks, and what trains it. variables: None for random ones."""

    def __init__(self, config: ConfigDict, images: np.ndarray, variables: Any = None):
        self.images, self.detector = images, make_detector(config)
        self.tx = make_optimizer(config.optimizer, 1000)
        self.state = train.create_state(self.detector, self.tx, config.seed)
        if variables is not None:
            self.state = self.state.replace(**variables)
        self.variables = jax.tree.map(np.asarray, self.state.variables)


def random_images(batch: int) -> np.ndarray:
    """uint8 [B, 512, 512, 3]."""
    return np.random.default_rng(0).integers(0, 256, (batch, 512, 512, 3), np.uint8)


def to_torch(images: np.ndarray):
    """What the published code is given: float32 [B, 3, 512, 512] in [0, 1]."""
    torch = require_torch()
    return torch.tensor(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float() / 255


class Pair:
    """The peer with random parameters, and ours with the same ones."""

    def __init__(self, config: ConfigDict, batch: int):
        torch = require_torch()
        from vtadl_jax.benchmarks.peers.torch_vtadl import OfficialVTADL

        torch.manual_seed(config.seed)
        self.config, self.images = config, random_images(batch)
        self.peer: Any = OfficialVTADL()
        self.peer_images = to_torch(self.images)
        self.entries = [names.autoencoder_entries(config), names.mixture_entries(config)]
        parts: tuple[Any, ...] = (self.peer.autoencoder, self.peer.mixture)
        arrays: names.Arrays = {}
        for part, entries in zip(parts, self.entries, strict=True):
            found = {name: tensor.numpy() for name, tensor in part.state_dict().items()}
            names.check_arrays(entries, found, "the peer")
            arrays |= found
        self.variables = names.to_variables([*self.entries[0], *self.entries[1]], arrays)
        self.ours = Side(config, self.images, self.variables)
        self._start = copy.deepcopy(self.peer.state_dict())

    def restore_peer(self) -> None:
        """Undo what training did to the peer, and its forward pass to the running statistics."""
        self.peer.load_state_dict(self._start)

    def our_arrays(self, tree: Any) -> dict[str, np.ndarray]:
        return names.to_arrays([*self.entries[0], *self.entries[1]], tree)


def differences(pair: Pair) -> dict[str, float]:
    """Relative difference of every output, loss term and gradient, peer to ours, noise off.

    Outputs of evaluation: the largest difference of a value over the largest value. Gradients: the
    length of their difference over the length of the peer's.
    """
    torch = require_torch()
    pair.restore_peer()
    config = pair.config.copy_and_resolve_references()
    config.model.mdn.noise_std = 0.0
    network, peer = build(config), pair.peer
    images = to_unit_interval(pair.images)
    evaluate = jax.jit(lambda variables, images: network.apply(variables, images))
    ours = evaluate(pair.variables, images)
    with torch.no_grad():
        theirs = peer.eval().terms(pair.peer_images)[:3]
    result = {}
    for name, got, want in zip(("tokens", "recon", "patch nll"), ours, theirs, strict=True):
        want = want.permute(0, 2, 3, 1) if name == "recon" else want
        result[name] = relative_difference(np.asarray(got), want.numpy())

    def loss_of(params):
        stats = pair.variables["batch_stats"]
        keys = jax.random.split(jax.random.key(0), len(images))
        return objective(network, config.loss, params, stats, images, keys)

    (loss, (terms, _)), grads = jax.jit(jax.value_and_grad(loss_of, has_aux=True))(
        pair.variables["params"]
    )
    noise_std, peer.autoencoder.noise_std = peer.autoencoder.noise_std, 0.0
    peer_loss, peer_terms = peer.train()(pair.peer_images)
    peer_loss.backward()
    peer.autoencoder.noise_std = noise_std
    for name, got in {"loss": loss, **terms}.items():
        want = peer_loss if name == "loss" else peer_terms[name]
        result[f"training {name}"] = relative_difference(np.asarray(got), want.detach().numpy())
    parameters = [*peer.autoencoder.named_parameters(), *peer.mixture.named_parameters()]
    want = {name: np.asarray(parameter.grad) for name, parameter in parameters}
    got = pair.our_arrays({"params": grads})
    result["gradient"] = float(norm_of({n: got[n] - want[n] for n in want}) / norm_of(want))
    peer.zero_grad(set_to_none=True)
    return result


def training_step(
    repeats: int, pair: Pair, paper: ConfigDict | None, compiled: bool = True
) -> list[Group]:
    """Loss, gradients and Adam with L2 on one batch, with noise. paper: another network of ours to
    be timed with them, on the same images."""
    title = f"training step, official network, batch {len(pair.images)}"
    progress(f"{title}: equal numbers?")
    checked = differences(pair)
    progress(f"{title}: compiling ours")
    candidates = [Candidate(OURS, our_step(pair.ours))]
    with compiler_cache():
        candidates += network_candidates(
            OFFICIAL, pair.peer.train(), pair.peer_images, training_call, "forward", compiled
        )
        if paper is not None:
            candidates.append(Candidate(PAPER, our_step(Side(paper, pair.images))))
        progress(f"{title}: timing")
        return [compare(title, candidates, repeats) | {"differences": checked}]


def one_image(
    repeats: int, pair: Pair, paper: ConfigDict | None, compiled: bool = True
) -> list[Group]:
    """Score terms, anomaly map and reconstruction of one image."""
    title = "scoring one image, official network"
    progress(title)
    pair.restore_peer()

    def our_call(side: Side, variables: Any) -> Callable[[], Any]:
        score, variables = jax.jit(side.detector.score), jax.device_put(variables)
        return lambda: score(variables, pair.images[:1])

    def peer_values(result):
        (mse, similarity, largest), maps, _ = result
        return [np.array([[mse, 1 - similarity, largest]]), maps.numpy()]

    candidates = [
        Candidate(
            OURS, our_call(pair.ours, pair.ours.variables), lambda s: [s.terms, s.anomaly_map]
        )
    ]
    with compiler_cache():
        candidates += network_candidates(
            OFFICIAL, pair.peer.eval(), pair.peer_images[:1], scoring_call, "score", compiled,
            peer_values,
        )  # fmt: skip
        if paper is not None:
            side = Side(paper, pair.images[:1])
            candidates.append(Candidate(PAPER, our_call(side, side.variables)))
        progress(f"{title}: timing")
        return [compare(title, candidates, repeats)]


def peak_memory(batch: int) -> Group:
    """Peak resident memory of a process that takes three training steps and scores one image, one
    process a side; one that only imports the same libraries beside it."""
    progress("peak memory")
    rows = [{"name": name, **_in_own_process(side, batch)} for side, name in SIDES.items()]
    return {"title": f"peak memory, batch {batch}", "gflop": None, "rows": rows}


def _in_own_process(side: str, batch: int) -> dict[str, float]:
    command = [sys.executable, "-m", "vtadl_jax.benchmarks.peer", "--worker", side]
    done = subprocess.run(
        [*command, "--batch", str(batch)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        last = done.stderr.strip().splitlines() or ["no message"]
        raise UserError(f"the process that measures {SIDES[side]} failed: {last[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def work_alone(side: str, batch: int, configs: dict[str, ConfigDict]) -> dict[str, float]:
    """What `peak_memory` runs in a process of its own. Returns MiB: peak, and before any work."""
    images = random_images(batch)
    if side == "torch":
        require_torch()
        from vtadl_jax.benchmarks.peers.torch_vtadl import OfficialVTADL

        before = _peak_mib()
        peer, peer_images = OfficialVTADL(), to_torch(images)
        step = training_call(peer.train(), peer.forward, peer_images)
        for _ in range(3):
            step()
        scoring_call(None, peer.eval().score, peer_images[:1])()
    else:
        before = _peak_mib()
        subject = Side(configs[side], images)
        variables, step = subject.variables, our_step(subject)
        del subject.state  # given to the step
        for _ in range(3):
            jax.block_until_ready(step())
        jax.block_until_ready(jax.jit(subject.detector.score)(variables, images[:1]))
    return {"peak_mib": _peak_mib(), "imports_mib": before}


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
