"""Measures the published network here and in PyTorch, with equal parameters on equal images."""

import copy
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

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
from vtadl_jax.benchmarks.workloads import assemble_trained
from vtadl_jax.config import Config
from vtadl_jax.detectors import official_names as names
from vtadl_jax.detectors.official import build, objective, to_unit_interval
from vtadl_jax.errors import UserError
from vtadl_jax.experiment import inputs_of
from vtadl_jax.options import replace

OURS, PAPER = "ours, official network", "ours, paper's network"
SIDES = {"ours": OURS, "paper": PAPER, "torch": OFFICIAL}


class Side:
    """One of our networks with its training inputs. variables: None for random ones."""

    def __init__(self, config: Config, images: np.ndarray, variables: Any = None):
        self.images, self.assembly = images, assemble_trained(config)
        self.state = self.assembly.make_state()
        if variables is not None:
            self.state = self.state.replace(**variables)
        self.variables = jax.tree.map(np.asarray, self.state.variables)


def random_images(batch: int) -> np.ndarray:
    """Returns uint8 [B, 512, 512, 3]."""
    return np.random.default_rng(0).integers(0, 256, (batch, 512, 512, 3), np.uint8)


def to_torch(images: np.ndarray) -> Any:
    """Returns the published code's input: float32 [B, 3, 512, 512] in [0, 1]."""
    torch = require_torch()
    return torch.tensor(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float() / 255


class Pair:
    """The peer with random parameters, and our network with the same parameters."""

    def __init__(self, config: Config, batch: int):
        torch = require_torch()
        from vtadl_jax.benchmarks.peers.torch_vtadl import OfficialVTADL

        torch.manual_seed(config.seed)
        self.config, self.images = config, random_images(batch)
        self.peer: Any = OfficialVTADL()
        self.peer_images = to_torch(self.images)
        self.entries = [
            names.autoencoder_entries(config.model),
            names.mixture_entries(config.model),
        ]
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
        """Restores the peer's parameters and running statistics after training."""
        self.peer.load_state_dict(self._start)

    def our_arrays(self, tree: Any) -> dict[str, np.ndarray]:
        return names.to_arrays([*self.entries[0], *self.entries[1]], tree)


def differences(pair: Pair) -> dict[str, float]:
    """Returns relative differences of outputs, loss terms and gradients, peer to ours, noise off.

    Outputs of evaluation: the largest difference of a value over the largest value. Gradients: the
    length of their difference over the length of the peer's.
    """
    torch = require_torch()
    pair.restore_peer()
    config = replace(pair.config, {"model.mdn.noise_std": 0.0})
    network, peer = build(config.model, inputs_of(config)), pair.peer
    images = to_unit_interval(pair.images)
    evaluate = jax.jit(lambda variables, images: network.apply(variables, images))
    ours = evaluate(pair.variables, images)
    with torch.no_grad():
        theirs = peer.eval().terms(pair.peer_images)[:3]
    result = {}
    for name, got, want in zip(("tokens", "recon", "patch nll"), ours, theirs, strict=True):
        want = want.permute(0, 2, 3, 1) if name == "recon" else want
        result[name] = relative_difference(np.asarray(got), want.numpy())

    def loss_of(params: Any) -> Any:
        variables = {**pair.variables, "params": params}
        keys = jax.random.split(jax.random.key(0), len(images))
        return objective(network, config.model.loss, variables, images, keys)

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
    repeats: int, pair: Pair, paper: Config | None, compiled: bool = True
) -> list[Group]:
    """Measures loss, gradients and Adam with L2 on one batch, with noise.

    paper: another network of ours to be timed with them, on the same images.
    """
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


def one_image(repeats: int, pair: Pair, paper: Config | None, compiled: bool = True) -> list[Group]:
    """Measures score terms, anomaly map and reconstruction of one image."""
    title = "scoring one image, official network"
    progress(title)
    pair.restore_peer()

    def our_call(side: Side, variables: Any) -> Callable[[], Any]:
        score, variables = jax.jit(side.assembly.detector.score), jax.device_put(variables)
        return lambda: score(variables, pair.images[:1])

    def peer_values(result: Any) -> list[np.ndarray]:
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
    """Measures the peak resident memory of three training steps and the scoring of one image, in
    one process per side, and the memory of the imported libraries alone."""
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


def work_alone(side: str, batch: int, configs: dict[str, Config]) -> dict[str, float]:
    """Does the work of one side of `peak_memory`. Returns MiB: peak, and before any work."""
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
        del subject.state  # donated to the step
        for _ in range(3):
            jax.block_until_ready(step())
        jax.block_until_ready(jax.jit(subject.assembly.detector.score)(variables, images[:1]))
    return {"peak_mib": _peak_mib(), "imports_mib": before}


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
