"""Ranks training images by how novel each is to the others: which may be no good ones.

Every image is scored by a fit to images of other folds (cross-fitting). Reads images, writes
nothing; what is done with the ranking, `trimming` and `prepare --suspects` decide. A second fit
without the most novel images ranked no better (docs/contaminated.md).
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from vtadl_jax.data.pipeline import eval_batches
from vtadl_jax.data.records import Record
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.networks import context_ridge
from vtadl_jax.networks.feature_options import FeatureOptions, FilterOptions
from vtadl_jax.networks.features import Features, make_features, whiten
from vtadl_jax.runtime.console import track
from vtadl_jax.training.cross_fitting import folds
from vtadl_jax.training.fitting import jit_gather

FILTERS = FeatureOptions(filters=FilterOptions(normalise=True, color=True))
SIZE = (256, 256)  # of the images, unless another is given
DIM = 32  # most whitened features
NUM_FOLDS = 5
ROWS = 60_000  # places that a regression is fitted to, over all images
BATCH = 8  # images
WHITENED = 64  # images that the whitening is fitted to
SIGMA = 0.7  # of the maps' smoothing, in places
# The image score: the mean over shares of the map's largest values. The mean of the map is
# subtracted: another light or another batch of material makes all of an image a little novel.
TOPS, LEVEL = (0.03, 0.1), 1.0


@dataclasses.dataclass(frozen=True)
class Ranking:
    """Novelty of N training images, in their order.

    scores: [N], larger is more novel. maps: [N, h, w] float32, on the features' grid. p_values:
    [N], see `mirrored`.
    """

    records: tuple[Record, ...]
    scores: np.ndarray
    maps: np.ndarray
    p_values: np.ndarray

    @property
    def order(self) -> np.ndarray:
        """The positions of the images, the most novel one first; equal ones by their place."""
        return np.argsort(-self.scores, kind="stable")

    @property
    def num_above(self) -> int:
        """How many images are farther above the median than any is below it."""
        middle = np.median(self.scores)
        return int((self.scores - middle > middle - self.scores.min()).sum())

    def first(self, count: int) -> list[Record]:
        """Returns the `count` most novel images, the most novel one first."""
        return [self.records[i] for i in self.order[:count].tolist()]


def mirrored(scores: np.ndarray) -> np.ndarray:
    """Returns a p-value for each score [N]: how rarely an image is that far on the other side.

    Half of the images are below the median, where no novel one is: if scores of good images are
    symmetric, as many of them are as far above it. (1 + number at least as far below) / (1 + number
    below); 1 for an image at or below the median.
    """
    middle = np.median(scores)
    below = np.sort(middle - scores[scores < middle])
    farther = len(below) - np.searchsorted(below, scores - middle, "left")
    return np.where(scores > middle, (1 + farther) / (1 + len(below)), 1.0)


class Network(NamedTuple):
    """Features of a frozen network with its weights, and the (height, width) of its images."""

    options: FeatureOptions
    frozen: Any
    image_size: tuple[int, int]


def rank_images(
    records: Sequence[Record],
    image_size: tuple[int, int] = SIZE,
    *,
    bits: int = 0,
    num_threads: int = 4,
    seed: int = 0,
    network: Network | None = None,
    show: bool = True,
) -> Ranking:
    """Ranks images, at least two, by fixed filters at `image_size`, and by a network as well.

    The maps of both are added: both are in deviations. Raises UserError for an image that can't be
    read.
    """
    sources = [Network(FILTERS, {}, image_size)] + ([network] if network else [])
    rng = np.random.default_rng(seed)
    maps: list[np.ndarray] = []
    for source in sources:
        features = make_features(source.options, DIM, source.image_size, 3)
        geometry = Geometry(source.image_size, bits=bits)
        read = _Reader(features, source.frozen, geometry, num_threads)
        found = novelty_maps(whitened(read, records, rng, show), rng)
        maps.append(found if not maps else resized(found, maps[0].shape[1:]))
    total = np.sum(maps, 0)
    scores = image_scores(total)
    return Ranking(tuple(records), scores, total, mirrored(scores))


def whitened(
    read: "_Reader", records: Sequence[Record], rng: np.random.Generator, show: bool
) -> list[np.ndarray]:
    """Returns the whitened features of each image, [1, h, w, d] float16."""
    few = np.linspace(0, len(records) - 1, min(WHITENED, len(records))).astype(int)
    sample = np.concatenate(list(read([records[i] for i in few.tolist()])))
    sample = sample.reshape(-1, sample.shape[-1])
    chosen = sample[rng.integers(0, len(sample), ROWS)].astype(np.float64)
    whitening = {k: np.asarray(x, np.float32) for k, x in read.features.fit(chosen).items()}
    found: list[np.ndarray] = []
    for responses in read(records, "rank training images" if show else ""):
        found += list(whiten(whitening, responses).astype(np.float16)[:, None])
    return found


def resized(maps: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
    """Returns maps [N, h, w] on another grid (rows, columns), by the nearest place."""
    rows, columns = (
        (np.arange(n) + 0.5) * m / n for n, m in zip(grid, maps.shape[1:], strict=True)
    )
    return maps[:, rows.astype(int)[:, None], columns.astype(int)]


class _Reader(NamedTuple):
    """Yields the responses of batches of images, [b, h, w, width] float32."""

    features: Features
    frozen: Any
    geometry: Geometry
    num_threads: int

    def __call__(self, records: Sequence[Record], what: str = "") -> Iterator[np.ndarray]:
        step = jit_gather(self.features.responses)
        batches = eval_batches(records, self.geometry, 3, BATCH, self.num_threads)
        total = -(-len(records) // BATCH)
        for batch in track(batches, total, what) if what else batches:
            yield np.asarray(step(self.frozen, batch["image"]))[batch["valid"]]


def novelty_maps(features: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Returns the map of each image by a fit to images of other folds, [N, h, w].

    features: whitened, of each image, [1, h, w, d] float16 or float32.
    """
    rows, targets, owner = sampled(features, rng)
    maps = np.empty((len(features), *features[0].shape[1:3]), np.float32)
    for left_out in folds(len(features), NUM_FOLDS):
        known = ~np.isin(owner, left_out)
        ridge = context_ridge.fit_ridge(rows[known], targets[known])
        for i in left_out.tolist():
            one = features[i].astype(np.float32)
            maps[i] = np.asarray(context_ridge.excess(ridge, one))[0]
    return maps


def sampled(
    features: Sequence[np.ndarray], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns regressors [M, U], features [M, d] and the image [M] of places drawn at random."""
    places = features[0].shape[1] * features[0].shape[2]
    each = min(max(ROWS // len(features), 16), places)
    rows, targets = [], []
    for one in features:
        chosen = rng.permutation(places)[:each]
        one = one.astype(np.float32)
        rows.append(np.asarray(context_ridge.regressors(one))[0, chosen])
        targets.append(one.reshape(places, -1)[chosen])
    return np.concatenate(rows), np.concatenate(targets), np.repeat(np.arange(len(features)), each)


def image_scores(maps: np.ndarray) -> np.ndarray:
    """Returns the novelty of images from their maps, [N, h, w] → [N]."""
    from scipy.ndimage import gaussian_filter1d  # local: the import slows down every start

    for axis in (1, 2):
        maps = gaussian_filter1d(maps, SIGMA, axis)
    flat = np.sort(maps.reshape(len(maps), -1), 1)
    counts = [max(1, int(share * flat.shape[1])) for share in TOPS]
    return np.mean([flat[:, -n:].mean(1) for n in counts], 0) - LEVEL * flat.mean(1)
