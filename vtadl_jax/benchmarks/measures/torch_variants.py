"""Variants of a torch network, to measure it at its best: memory layout, torch.compile."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from vtadl_jax.benchmarks.measures import progress
from vtadl_jax.benchmarks.peers import require_torch
from vtadl_jax.benchmarks.timing import Candidate, once

LAYOUTS = ("contiguous_format", "channels_last")


def in_layout(tensor: Any, layout: str) -> Any:
    """Returns a 4-D tensor in memory order NCHW ('contiguous_format') or NHWC ('channels_last')."""
    return tensor.contiguous(memory_format=getattr(require_torch(), layout))


def fastest(calls: Mapping[str, Callable[[], Any]]) -> str:
    """Returns the name of the call with the shortest of three times, after a warm-up call."""
    seconds = {}
    for name, call in calls.items():
        call()
        seconds[name] = min(once(call) for _ in range(3))
    return min(seconds, key=seconds.__getitem__)


def network_candidates(
    name: str,
    network: Any,
    images: Any,
    make_call: Callable[[Any, Any, Any], Callable[[], Any]],
    method: str,
    compiled: bool,
    values: Callable | None = None,
) -> list[Candidate]:
    """Returns a torch network run eagerly and, where asked, compiled, both in its faster layout.

    images: [B, C, H, W]. make_call: (network, function, images) → the call to time; function is
    network.`method`, compiled or not. If compilation fails, the candidate holds only the reason.
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
        except Exception as error:  # the compiler raises many types; the row shows the message
            reason = " ".join(str(error).split())
            candidates.append(Candidate(name, None, note=f"does not compile: {reason[:200]}"))
    return candidates


def _set_layout(network: Any, layout: str) -> None:
    """Stores the convolutions' kernels in a memory layout; other 4-D parameters keep theirs."""
    torch = require_torch()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            module.to(memory_format=getattr(torch, layout))


@contextlib.contextmanager
def compiler_cache() -> Iterator[None]:
    """Makes torch.compile keep its code in a folder that is removed, and leave no worker processes.

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


def training_call(
    network: Any, function: Callable, images: Any, decay: float = 1e-4
) -> Callable[[], Any]:
    """Returns a call of one step of Adam with L2 on the same images again and again."""
    torch = require_torch()
    # Fused: one pass over parameters, gradients and moments, the fastest that torch has.
    adam = torch.optim.Adam(network.parameters(), lr=1e-4, weight_decay=decay, fused=True)

    def call() -> Any:
        adam.zero_grad(set_to_none=True)
        loss, _ = function(images)
        loss.backward()
        adam.step()
        return loss.detach()

    return call


def scoring_call(_: Any, function: Callable, images: Any) -> Callable[[], Any]:
    torch = require_torch()

    def call() -> Any:
        with torch.no_grad():
            return function(images)

    return call


def count_flops(network: Any, *inputs: Any) -> float:
    """Returns torch's FLOP count of the products and convolutions of loss and gradients."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        network(*inputs)[0].backward()
    network.zero_grad(set_to_none=True)
    return float(counter.get_total_flops())
