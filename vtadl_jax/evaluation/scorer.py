"""Scores batches of images with one compiled step. Reads no files, computes no metrics."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vtadl_jax.detectors.contract import Detector, Scores, Variables
from vtadl_jax.ops.platform import on_platform
from vtadl_jax.runtime import sharding
from vtadl_jax.runtime.distributed import barrier


class Scorer:
    """Jitted scoring step of a detector, for batches of one size, sharded over a mesh.

    Compiles once, at the first batch; a barrier makes all processes wait for each other's compile.
    """

    def __init__(
        self, detector: Detector, image_shape: tuple[int, int, int], batch_size: int, mesh: Mesh
    ):
        self.batch_size, self.mesh = batch_size, mesh
        self._shape, self._everywhere = image_shape, sharding.replicated(mesh)
        score = on_platform(sharding.platform_of(mesh), detector.score)
        self._step: Any = jax.jit(score, out_shardings=self._everywhere)
        self._gather = jax.jit(lambda batch: batch, out_shardings=self._everywhere)

    def place(self, variables: Variables) -> Variables:
        """Returns variables replicated over the mesh, as the step takes them."""
        return jax.device_put(variables, self._everywhere)

    def compile(self, variables: Variables) -> None:
        """Compiles the step, unless it is compiled already."""
        if isinstance(self._step, jax.stages.Compiled):
            return
        split = sharding.batch_sharding(self.mesh)
        shape = (self.batch_size, *self._shape)
        images = jax.ShapeDtypeStruct(shape, np.uint8, sharding=split)
        self._step = self._step.lower(variables, images).compile()
        barrier("score")

    def __call__(self, variables: Variables, images: np.ndarray) -> Scores:
        """Returns the scores of the global batch, in numpy. images: this process's rows of it."""
        self.compile(variables)
        return jax.device_get(self._step(variables, sharding.put_batch(self.mesh, images)))

    def gather(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All-gathers a batch that is sharded over processes; every process gets all rows."""
        if jax.process_count() == 1:
            return batch
        return jax.device_get(self._gather(sharding.put_batch(self.mesh, batch)))
