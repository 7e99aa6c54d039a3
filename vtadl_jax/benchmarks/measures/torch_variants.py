"""The ways to run a torch network, so that it is measured at its best: layout, torch.compile."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from vtadl_jax.benchmarks.measures import progress
from vtadl_jax.benchmarks.peers import require_torch
from vtadl_jax.benchmarks.timing import Candidate, once

LAYOUTS = ("contiguous_format", "channels_last")


def in_layout(tensor, layout: str):
    """A 4-D tensor in memory order NCHW ('contiguous_format') or NHWC ('channels_last')."""
    return tensor.contiguous(memory_format=getattr(require_torch(), layout))


def fastest(calls: Mapping[str, Callable[[], Any]]) -> str:
    """Name of the call with the least time of three, after one that is not counted."""
    seconds = {}
    for name, call in calls.items():
        call()
        seconds[name] = min(once(call) for _ in range(3))
    return min(seconds, key=seconds.__getitem__)


def network_candidates(
    name: str,
    network,
    images,
    make_call: Callable[[Any, Any, Any], Callable[[], Any]],
    method: str,
    compiled: bool,
    values: Callable | None = None,
) -> list[Candidate]:
    """A torch network run eagerly and, where asked, compiled, both in its faster layout.

    images: [B, C, H, W]. make_call: (network, function, images) → what to time; function is
    network.`method`, compiled or not. Where compilation fails the candidate only says why.
    """
    torch = require_torch()
    seconds = {}
    for layout in LAYOUTS:
        _set_layout(network, layout)
        call = make_call(network, getattr(network, method), in_layout(images, layout))
        call()
        seconds[layout] = min(once(call), once(call))
        progress(f"{name}, {layout}: {seconds[layout]:.3f} s")
    layout = min(seconds, key=seconds.__getitem__)
    _set_layout(network, layout)
    images = in_layout(images, layout)
    function = getattr(network, method)
    candidates = [Candidate(name, make_call(network, function, images), values, layout)]
    if compiled:
        progress(f"{name}: torch.compile")
        name = f"{name}, compiled"
        call = make_call(network, torch.compile(function), images)
        try:
            call()
            candidates.append(Candidate(name, call, values, layout))
        except Exception as error:  # the compiler's, of a hundred kinds: told in the row
            reason = " ".join(str(error).split())
            candidates.append(Candidate(name, None, note=f"does not compile: {reason[:200]}"))
    return candidates


def _set_layout(network, layout: str) -> None:
    """Store the convolutions' kernels in that layout; other 4-D parameters stay."""
    torch = require_torch()
    for module in network.modules():
        if isinstance(module, torch.nn.ConvTranspose2d):
            module.to(memory_format=getattr(torch, layout))


@contextlib.contextmanager
def compiler_cache() -> Iterator[None]:
    """torch.compile keeps its code in a folder that is removed, and leaves no worker processes.

    Its precompiled headers stay in the temporary folder of the system: torch puts them there.
    """
    settings = {"TORCHINDUCTOR_COMPILE_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        settings["TORCHINDUCTOR_CACHE_DIR"] = folder
        before = {name: os.environ.get(name) for name in settings}
        os.environ.update(settings)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def training_call(network, function, images) -> Callable[[], Any]:
    """One step of Adam with L2 on the same images again and again."""
    torch = require_torch()
    # Fused: one pass over parameters, gradients and moments, the fastest that torch has.
    adam = torch.optim.Adam(network.parameters(), lr=1e-4, weight_decay=1e-4, fused=True)

    def call():
        adam.zero_grad(set_to_none=True)
        loss, _ = function(images)
        loss.backward()
        adam.step()
        return loss.detach()

    return call


def scoring_call(_, function, images) -> Callable[[], Any]:
    torch = require_torch()

    def call():
        with torch.no_grad():
            return function(images)

    return call


def count_flops(network, images) -> float:
    """Of the products and convolutions of loss and gradients, by torch's own count."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        network(images)[0].backward()
    network.zero_grad(set_to_none=True)
    return float(counter.get_total_flops())
