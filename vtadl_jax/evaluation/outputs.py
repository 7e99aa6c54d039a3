"""What the images of a test set score, with their ground truth: the input of all metrics."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from vtadl_jax import metrics
from vtadl_jax.evaluation.window_scales import Seen


@dataclasses.dataclass(frozen=True)
class EvalOutputs:
    """Detector outputs for N images, and their ground truth.

    terms: [N, T] float32; maps: N of float32 [h, w], empty for a detector without maps; masks: N of
    uint8 [h, w], zeros without ground truth; labels: [N]; has_mask: [N] bool, False for defective
    images without ground truth; descriptions: [N, D] of `novelty.describe`. Maps and masks have the
    network's size, or with `original_size` that of each image. num_thin: marked regions that are
    too thin for that size. inside: N of bool [h, w], the pixels that are inspected; empty if all
    are. num_leaving, num_beside: masks with some or only pixels that are not inspected. seen: what
    was seen in the windows of images that are scored by windows; maps and masks then have the size
    of `data.windows.map_stride`.
    """

    terms: np.ndarray
    maps: list[np.ndarray]
    masks: list[np.ndarray]
    labels: np.ndarray
    has_mask: np.ndarray
    descriptions: np.ndarray
    num_thin: int = 0
    inside: list[np.ndarray] = dataclasses.field(default_factory=list)
    num_leaving: int = 0
    num_beside: int = 0
    seen: Sequence[Seen] = ()

    def with_truth(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Returns maps and masks of the images with ground truth; empty without maps.

        Of pixels that are inspected only: `metrics.packed` if some are not.
        """
        kept = np.flatnonzero(self.has_mask).tolist() if self.maps else []
        pairs = [(self.maps[i], self.masks[i]) for i in kept]
        if self.inside:
            images = zip(pairs, (self.inside[i] for i in kept), strict=True)
            pairs = [metrics.packed(*pair, inside) for pair, inside in images]
        return [pair[0] for pair in pairs], [pair[1] for pair in pairs]

    def map_values(self) -> np.ndarray | None:
        """Returns the values of all maps at inspected pixels, [M]; None without maps."""
        if not self.maps:
            return None
        if not self.inside:
            return flat(self.maps)
        return flat([m[inside] for m, inside in zip(self.maps, self.inside, strict=True)])


def joined(parts: Sequence[EvalOutputs], order: np.ndarray) -> EvalOutputs:
    """Returns the outputs of several parts as one, images in the given order."""

    def array(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])[order]

    def images(name: str) -> list[Any]:
        every = [image for part in parts for image in getattr(part, name)]
        return [every[i] for i in order.tolist()] if every else []

    return EvalOutputs(
        array("terms"),
        images("maps"),
        images("masks"),
        labels=array("labels"),
        has_mask=array("has_mask"),
        descriptions=array("descriptions"),
        num_thin=sum(part.num_thin for part in parts),
        inside=images("inside"),
        num_leaving=sum(part.num_leaving for part in parts),
        num_beside=sum(part.num_beside for part in parts),
        seen=images("seen"),
    )


def flat(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Returns all values of a list of maps, [M]."""
    return np.concatenate([array.ravel() for array in arrays])
