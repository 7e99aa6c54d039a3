"""Scores batches of images with one compiled step. Reads no files, computes no metrics."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vtadl_jax.detectors.contract import Array, Detector, Scores, Variables
from vtadl_jax.ops.inspected import inspecting, only_inside
from vtadl_jax.ops.platform import on_platform
from vtadl_jax.runtime import sharding
from vtadl_jax.runtime.distributed import barrier


def score_inside(detector: Detector) -> Callable[[Variables, Array, Array], Scores]:
    """Returns (variables, images, inside bool [B, H, W]) → scores by the pixels inside only.

    Maps have their lowest value inside in place of others.
    """

    def score(variables: Variables, images: Array) -> Scores:
        found = detector.score(variables, images)
        maps, each = found.anomaly_map, found.expert_maps
        return dataclasses.replace(
            found,
            anomaly_map=None if maps is None else only_inside(maps),
            expert_maps=each and {name: only_inside(one) for name, one in each.items()},
        )

    traced = inspecting(score)
    return lambda variables, images, inside: traced(inside, variables, images)


class Scorer:
    """Jitted scoring step of a detector, for batches of one size, sharded over a mesh.

    Compiles once, at the first batch; a barrier makes all processes wait for each other's compile.
    has_regions: whether the step takes where each image is inspected, too (`data.regions`).
    """

    def __init__(
        self,
        detector: Detector,
        image_shape: tuple[int, int, int],
        batch_size: int,
        mesh: Mesh,
        has_regions: bool = False,
    ):
        self.batch_size, self.mesh, self.has_regions = batch_size, mesh, has_regions
        self._shape, self._everywhere = image_shape, sharding.replicated(mesh)
        function = score_inside(detector) if has_regions else detector.score
        score = on_platform(sharding.platform_of(mesh), function)
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
        inputs = [jax.ShapeDtypeStruct(shape, np.uint8, sharding=split)]
        if self.has_regions:
            inputs.append(jax.ShapeDtypeStruct(shape[:3], np.bool_, sharding=split))
        self._step = self._step.lower(variables, *inputs).compile()
        barrier("score")

    def __call__(
        self, variables: Variables, images: np.ndarray, inside: np.ndarray | None = None
    ) -> Scores:
        """Returns the scores of the global batch, in numpy. images: this process's rows of it.

        inside: bool [B, H, W], where they are inspected; everywhere by default.
        """
        self.compile(variables)
        inputs = [images]
        if self.has_regions:
            inputs.append(np.ones(images.shape[:3], bool) if inside is None else inside)
        placed = [sharding.put_batch(self.mesh, x) for x in inputs]
        return jax.device_get(self._step(variables, *placed))

    def gather(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All-gathers a batch that is sharded over processes; every process gets all rows."""
        if jax.process_count() == 1:
            return batch
        return jax.device_get(self._gather(sharding.put_batch(self.mesh, batch)))
