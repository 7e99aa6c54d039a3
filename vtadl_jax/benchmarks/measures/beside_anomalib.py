"""Our side of the comparison with anomalib: fits and scores one detector in a process of its own.

    python -m vtadl_jax.benchmarks.measures.beside_anomalib CORES

Requests come as `turns.serve` reads them; `anomalib.py` beside this file makes them. Times are of
compiled functions: compilation is a time of its own.
"""

import importlib.metadata
import sys
import time
from typing import Any
from unittest import mock

from vtadl_jax.benchmarks.peers.turns import peak_mib, seconds_of, serve, use_cores

if __name__ == "__main__":
    use_cores(int(sys.argv[1]))

_START = time.perf_counter()
import jax  # noqa: E402
import numpy as np  # noqa: E402

from vtadl_jax.config import Config  # noqa: E402
from vtadl_jax.detectors import feature_detector  # noqa: E402
from vtadl_jax.detectors.contract import Detector  # noqa: E402
from vtadl_jax.experiment import base, make_detector, parse  # noqa: E402
from vtadl_jax.options import replace  # noqa: E402
from vtadl_jax.runtime.allocator import reuse_host_buffers  # noqa: E402
from vtadl_jax.training.fitting import collect, jit_gather  # noqa: E402

IMPORTED = {"import_seconds": time.perf_counter() - _START, "import_mib": peak_mib()}
VERSIONS = ("vtadl_jax", "jax", "jaxlib", "numpy")


def hello() -> dict[str, Any]:
    reuse_host_buffers()
    versions = {name: importlib.metadata.version(name) for name in VERSIONS}
    return {**IMPORTED, "versions": versions, "devices": [str(d) for d in jax.devices()]}


def config_of(detector: str, size: tuple[int, int], options: dict[str, Any]) -> Config:
    """Returns the config of a detector for RGB images. options: fields of `model`, by name."""
    fields = {f"model.{name}": value for name, value in options.items()}
    fields |= {"image_size": tuple(size), "data.channels": 3}
    return replace(parse(base(detector)), fields)


class Side:
    """A detector, its variables and the images."""

    def __init__(self) -> None:
        self.images: dict[str, np.ndarray] = {}
        self.config: Config
        self.detector: Detector
        self.variables: Any = None
        self.compiled: dict[Any, Any] = {}

    def begin(
        self, detector: str, options: dict[str, Any], train: str, test: str, batch: int
    ) -> dict[str, Any]:
        """Makes the detector. train, test: files of uint8 [N, H, W, 3]."""
        self.images = {"train": np.load(train), "test": np.load(test)}
        self.batch = batch
        self.config = config_of(detector, self.images["train"].shape[1:3], options)
        self.detector = make_detector(self.config)
        self.variables = self.detector.init(jax.random.key(self.config.seed))
        chosen = self.variables["stats"].get("chosen", [])
        return {"chosen": [int(number) for number in chosen]}

    def load_weights(self, file: str) -> dict[str, Any]:
        assert self.detector.load_pretrained is not None, "has no encoder"
        with np.load(file) as arrays:
            state = {name: arrays[name] for name in arrays.files}
        self.variables = jax.device_put(self.detector.load_pretrained(self.variables, state))
        return {}

    def fit(self) -> dict[str, Any]:
        """Fits to the training images; seconds of the features, of what follows them, and of the
        compilation, where a function was compiled."""
        fit, images = self.detector.fit, self.images["train"]
        assert fit is not None
        parts = [images[i : i + self.batch] for i in range(0, len(images), self.batch)]
        key = jax.random.key(0)
        gather = jit_gather(fit.gather)
        compiling = sum(self._compile("fit", gather, part, key) for part in parts)

        def rows() -> Any:
            for part in parts:
                yield jax.device_get(self.compiled["fit", len(part)](self.variables, part, key))

        gathered, features = seconds_of(lambda: collect(fit, rows()))
        rng = np.random.default_rng(self.config.seed)
        fitted, solving = seconds_of(lambda: fit.solve(self.variables, gathered, rng))
        self.variables = jax.device_put(fitted)
        return {"features": features, "solve": solving, "compiling": compiling}

    def _compile(self, name: str, function: Any, images: np.ndarray, *rest: Any) -> float:
        """Compiles a function for a number of images; returns the seconds, 0 if it was."""
        if (name, len(images)) in self.compiled:
            return 0.0
        start = time.perf_counter()
        lowered = function.lower(self.variables, images, *rest)
        self.compiled[name, len(images)] = lowered.compile()
        return time.perf_counter() - start

    def score(self, batch: int) -> dict[str, Any]:
        """Scores the test images in batches; 'seconds' has those of each batch."""
        images = self.images["test"]
        parts = [images[i : i + batch] for i in range(0, len(images) // batch * batch, batch)]
        compiling = self._compile("score", jax.jit(self.detector.score), parts[0])
        score = self.compiled["score", batch]
        found = [seconds_of(lambda x=x: jax.device_get(score(self.variables, x)))[1] for x in parts]  # type: ignore[misc]
        return {"seconds": found, "compiling": compiling}

    def values(self, out: str, bank: str = "") -> dict[str, Any]:
        """Writes scores [N], distances of patches [N, h, w] and maps [N, H, W].

        bank: file with a 'bank' in place of the one that was fitted.
        """
        peak = peak_mib()
        variables = self.variables
        if bank:
            with np.load(bank) as arrays:
                variables = {**variables, "stats": {**variables["stats"], "bank": arrays["bank"]}}
        same = mock.patch.object(feature_detector, "upsample_maps", lambda found, *_: found)
        score = jax.jit(self.detector.score)
        with same:  # traced here: a map before it is enlarged and smoothed
            before = jax.jit(lambda *inputs: self.detector.score(*inputs).anomaly_map)
            grids = [before(variables, self.images["test"][i : i + 1]) for i in self._numbers()]
        found = [score(variables, self.images["test"][i : i + 1]) for i in self._numbers()]
        np.savez(
            out,
            scores=np.concatenate([np.asarray(scores.terms)[:, 0] for scores in found]),
            distances=np.concatenate([np.asarray(grid) for grid in grids]),
            maps=np.concatenate([np.asarray(scores.anomaly_map) for scores in found]),
        )
        return {"peak_mib": peak}

    def _numbers(self) -> range:
        return range(len(self.images["test"]))


if __name__ == "__main__":
    side = Side()
    asked = ("begin", "load_weights", "fit", "score", "values")
    sys.exit(serve({"hello": hello} | {name: getattr(side, name) for name in asked}))
