"""Mixture densities of other JAX libraries, each in its own process.

They solve with triangular factors through batched LAPACK calls inside XLA's CPU programs, which may
deadlock on machines with few cores: a process can be killed, a deadlocked call cannot.

    python -m vtadl_jax.benchmarks.peers.jax_mixture NAME INPUTS.npz

Each line "run" on standard input evaluates value and gradients and prints "done"; a line "save
PATH" writes the results of the last run.
"""

import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

NAMES = ("distrax", "tfp", "jax.scipy")
INPUTS = ("logits", "loc", "scale_tril", "y")


class Worker:
    """Worker process with a library's mixture; `run` blocks until it has evaluated.

    inputs: logits [T, K], loc [T, K, d], scale_tril [T, K, d, d], y [T, d]. `run` raises
    TimeoutError, and ends the process, after `timeout` seconds; ImportError if the library can't be
    imported.
    """

    def __init__(self, name: str, inputs: dict[str, np.ndarray], timeout: float):
        self._name, self._timeout, self._buffer = name, timeout, b""
        self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name) / "inputs.npz"
        np.savez(path, allow_pickle=False, **inputs)
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, name, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self) -> None:
        self._ask("run")

    def values(self) -> list[np.ndarray]:
        """Returns the last run's results: log-likelihoods [T], gradients in order of inputs."""
        path = Path(self._folder.name) / "values.npz"
        self._ask(f"save {path}")
        with np.load(path) as stored:
            return [stored[name] for name in stored.files]

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()

    def _ask(self, line: str) -> None:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(line.encode() + b"\n")
            stdin.flush()
        except (BrokenPipeError, ValueError):
            pass  # its last output holds the reason
        while b"\n" not in self._buffer:
            if not select.select([stdout], [], [], self._timeout)[0]:
                self._process.kill()
                raise TimeoutError(f"timed out: no answer in {self._timeout:g} s")
            chunk = os.read(stdout.fileno(), 4096)
            if not chunk:
                raise ImportError(f"{self._name}: {self._last_words()}")
            self._buffer += chunk
        answer, _, self._buffer = self._buffer.partition(b"\n")
        if answer != b"done":
            raise ImportError(answer.decode())

    def _last_words(self) -> str:
        assert self._process.stderr is not None
        lines = self._process.stderr.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "ended without a word"


def log_prob(name: str) -> Callable[..., Any]:
    """Returns a library's (logits, loc, matrix, y) → log-likelihoods [T].

    matrix: factors of the covariances; for jax.scipy the covariances themselves.
    """
    import jax

    if name == "distrax":
        import distrax

        def mixture(logits: Any, loc: Any, matrix: Any, y: Any) -> Any:
            components = distrax.MultivariateNormalTri(loc, matrix)
            return distrax.MixtureSameFamily(distrax.Categorical(logits), components).log_prob(y)

    elif name == "tfp":
        from tensorflow_probability.substrates.jax import distributions as tfd

        def mixture(logits: Any, loc: Any, matrix: Any, y: Any) -> Any:
            components = tfd.MultivariateNormalTriL(loc, matrix)
            return tfd.MixtureSameFamily(tfd.Categorical(logits), components).log_prob(y)

    elif name == "jax.scipy":

        def mixture(logits: Any, loc: Any, matrix: Any, y: Any) -> Any:
            logpdf = jax.scipy.stats.multivariate_normal.logpdf
            of_components = jax.vmap(logpdf, in_axes=(None, 0, 0))
            component = jax.vmap(of_components)(y, loc, matrix)
            return jax.nn.logsumexp(jax.nn.log_softmax(logits) + component, axis=-1)

    else:
        raise ValueError(f"{name!r}: known are {', '.join(NAMES)}")
    return mixture


def serve(name: str, path: str) -> None:
    import jax
    import jax.numpy as jnp

    from vtadl_jax.runtime.allocator import reuse_host_buffers

    reuse_host_buffers()
    try:
        mixture = log_prob(name)
    except (ImportError, AttributeError) as error:
        print(f"{name} can't be imported: {' '.join(str(error).split())}", flush=True)
        return

    def total(*inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        value = mixture(*inputs)
        return value.sum(), value

    with np.load(path) as stored:
        inputs = [stored[key] for key in INPUTS]
    if name == "jax.scipy":
        inputs[2] = inputs[2] @ np.swapaxes(inputs[2], -1, -2)
    arguments = [jnp.asarray(array) for array in inputs]
    step = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2, 3), has_aux=True))
    result = None
    for line in sys.stdin:
        command, _, target = line.strip().partition(" ")
        if command == "run":
            result = jax.block_until_ready(step(*arguments))
        elif result is not None:
            (_, value), grads = result
            np.savez(target, value, *grads)
        print("done", flush=True)


if __name__ == "__main__":
    serve(*sys.argv[1:])
