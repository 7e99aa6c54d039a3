"""The interface between a method and training, evaluation, compile studies and export."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, TypedDict

import jax
import numpy as np

from vtadl_jax.networks.parallel import Parallel

# A dict of trees. 'params': trained by the optimizer. 'stats': written by fit and loss (running
# means, whitening, memory banks). 'frozen': pretrained, never trained, saved once per run.
Variables = dict[str, Any]
Array = Any  # jax.Array on the device, numpy.ndarray once fetched
Terms = dict[str, jax.Array]

# A term of negative weight counts off the overall level of an image, as new light changes it: no
# more than this many standard deviations, so that nothing is good because it is strange all over.
CREDIT_LIMIT = 4.0


class Batch(TypedDict, total=False):
    """Images of a step and their annotations; has only the keys that the detector needs.

    image: uint8 [B, H, W, C]. label: int32 [B], 1 anomalous. mask: uint8 [B, H, W], 1 defective.
    has_mask: bool [B], False for anomalous images without ground truth.
    """

    image: Array
    label: Array
    mask: Array
    has_mask: Array


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Settings that every detector receives in addition to its own options.

    image_size: (H, W) of the images. channels: 1 or 3. dtype: compute dtype of matrix products.
    map_sigma: of the Gaussian that smooths maps, in pixels. microbatches: number of parts that a
    batch is processed in. parallel: 'jit' or 'pmap', how the step is distributed over devices.
    """

    image_size: tuple[int, int]
    channels: int = 3
    dtype: str = "float32"
    map_sigma: float = 4.0
    microbatches: int = 1
    parallel: str = "jit"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Scores:
    """A detector's output for a batch; everything is float32 except the reconstruction.

    terms: [B, T], one column per score term, larger is more anomalous, each on its own scale.
    anomaly_map: [B, H, W] at the input's size, larger is more anomalous; None for methods that do
    not localize. recon: [B, H, W, C] uint8, the reconstruction; None for methods without one.
    expert_maps: map [B, H, W] of each of several detectors by name, all in one unit, of a method
    that combines them; None for others.
    """

    terms: Array
    anomaly_map: Array | None = None
    recon: Array | None = None
    expert_maps: Mapping[str, Array] | None = None


@dataclasses.dataclass(frozen=True)
class Fit:
    """One pass over the training images before the first step, for methods that are fitted.

    With few images it is fitted again without each part of them, to calibrate: from the initial
    variables, with rows of one pass where they fit into memory.

    gather: (variables, images uint8 [B, H, W, C], key) → a tree of arrays, one row per image.
        Compiled, runs on the device.
    solve: (variables, the same tree of numpy arrays over all N images, rng) → variables of the same
        shapes. Runs on the host, which has float64 and LAPACK.
    reduce: (accumulated so far or None, numpy rows of a batch) → accumulated, for methods whose
        memory must not grow with the number of images: `solve` then gets the accumulated value in
        place of the rows. Called on the host after each batch; may change what it accumulated in
        place. Examples: `networks/moments.py`.
    """

    gather: Callable[[Variables, jax.Array, jax.Array], Any]
    solve: Callable[[Variables, Any, np.random.Generator], Variables]
    reduce: Callable[[Any | None, Any], Any] | None = None

    def add(self, accumulated: Any | None, rows: Any) -> Any:
        """Returns what was accumulated with a batch's rows added; without `reduce` it is a list."""
        if self.reduce is not None:
            return self.reduce(accumulated, rows)
        return [*(accumulated or ()), rows]

    def gathered(self, accumulated: Any) -> Any:
        """Returns what `solve` takes of what `add` accumulated over at least one batch."""
        if self.reduce is not None:
            return accumulated
        return jax.tree.map(lambda *parts: np.concatenate(parts), *accumulated)


@dataclasses.dataclass(frozen=True)
class Tails:
    """A pass over held-out good images, after training: of what makes the scores of a detector's
    parts comparable. It writes to 'stats' only.

    gather: (variables, images uint8 [B, H, W, C], drawn uint8 [B, V, H, W, C], masks bool
        [B, V, H, W], key) → a tree of arrays, one row per image. drawn: V copies of each image with
        a drawn defect each; masks: its pixels, none where no defect would be visible.
    solve: (variables, the same tree of numpy arrays over all N images, rng) → variables.
    num_defects: how many drawn defects it needs, over all images; 0: none, and V is 0.
    """

    gather: Callable[[Variables, jax.Array, jax.Array, jax.Array, jax.Array], Any]
    solve: Callable[[Variables, Any, np.random.Generator], Variables]
    num_defects: int = 0


class Experts(NamedTuple):
    """The detectors that a method combines. names: each has a score term of its name and a map in
    `Scores.expert_maps`. weights: variables → how much each counts; they add up to 1."""

    names: tuple[str, ...]
    weights: Callable[[Variables], dict[str, float]]


class Part(NamedTuple):
    """A part of a train step as a function: value(variables, *inputs) → scalar, and the shapes of
    its variables and inputs."""

    value: Callable[..., jax.Array]
    variables: Any
    inputs: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Detector:
    """An anomaly detector as pure functions of its variables; has a loss, a fit or both.

    init: key → variables.
    score: (variables, images uint8 [B, H, W, C]) → `Scores`. Evaluation mode, no randomness.
    score_terms: the names of `Scores.terms`, in order.
    term_weights: default weights of the sum of standardized terms.
    loss: (variables, batch, keys [B], parallel) → (scalar loss, (terms: name → scalar, new stats)).
        Training mode. Randomness comes from the key of each image, so it does not depend on how a
        batch is split.
    fit: for methods that are fitted or start from statistics of the data; training follows it.
    tails: a pass over held-out good images after training, see `Tails`.
    needs: subset of {'label', 'mask'} that `loss` reads from a batch in addition to the images. A
        detector that needs either is supervised: it is trained on defects, too.
    load_pretrained: (variables, arrays by name) → variables with the pretrained weights. Raises
        UserError that names the arrays that do not fit.
    pretrained_required: whether variables under 'frozen' come from `load_pretrained` only, so that
        the user has to give a file.
    steps_required: whether it is useless after its fit alone, without training steps.
    pretrained_notes: names of the arrays of the user's file, none without one → lines that a new
        run says: which pretrained parts it does not hold, so that they start from random values.
    parts: parts of a train step that can be compiled alone: name → (number of images → `Part`).
    experts: the detectors that it combines, for reports of where they disagree.
    positions: names of its parts that are of one place in the image each, as a Gaussian for each
        position. only_positions: whether it has no others, so that windows cut from anywhere in
        large images mean nothing to it.
    """

    init: Callable[[jax.Array], Variables]
    score: Callable[[Variables, jax.Array], Scores]
    score_terms: tuple[str, ...]
    term_weights: tuple[float, ...]
    loss: (
        Callable[[Variables, Batch, jax.Array, Parallel], tuple[jax.Array, tuple[Terms, Any]]]
        | None
    ) = None
    fit: Fit | None = None
    tails: Tails | None = None
    needs: frozenset[str] = frozenset()
    load_pretrained: Callable[[Variables, Mapping[str, np.ndarray]], Variables] | None = None
    pretrained_required: bool = False
    steps_required: bool = False
    pretrained_notes: Callable[[Collection[str]], list[str]] | None = None
    parts: Mapping[str, Callable[[int], Part]] = dataclasses.field(default_factory=dict)
    experts: Experts | None = None
    positions: tuple[str, ...] = ()
    only_positions: bool = False
