"""Distances to the nearest good images, and of each place to the nearest place of those images.

SPADE (Cohen and Hoshen, 2020), over the levels of a frozen network. The K good images nearest to an
image, by one vector each, are the gallery in which every place of the image is looked up, level by
level; places may match any other. The map is the mean of the levels' distances. Exact, without
training; the features of the good images are kept, so shapes depend on how many may be.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vtadl_jax.detectors.contract import Detector, Fit, Inputs, Scores
from vtadl_jax.errors import UserError
from vtadl_jax.networks.features import FeatureOptions
from vtadl_jax.networks.pyramids import Pyramid, make_pyramid
from vtadl_jax.ops.gallery_search import HUNDRED, level_distances, nearest_images
from vtadl_jax.ops.resize import upsample_maps
from vtadl_jax.options import LARGEST_SIZE, option
from vtadl_jax.runtime.console import say

LARGEST_BYTES = 2**32


@dataclasses.dataclass(frozen=True)
class GalleryOptions:
    """Options of the galleries."""

    images: int = option(
        320,
        "good images whose features are kept; of more, random ones",
        at_least=1,
        limit=LARGEST_SIZE,
    )
    neighbours: int = option(
        5, "nearest images: their mean distance is the score, their places the gallery", at_least=1
    )
    memory: int = option(
        64, "of the products that exist at once in a search", unit="MiB", at_least=1, at_most=2**16
    )
    published: bool = option(
        False,
        "as the published program: leaves out vectors over a whole hundred, shifts by 1e-6",
    )


@dataclasses.dataclass(frozen=True)
class SpadeOptions(FeatureOptions):
    """Options of the spade detector."""

    features: str = option(
        "wide_resnet50_2",
        "a frozen network with weights from init_from, as 'wide_resnet50_2', or 'filters'",
    )
    gallery: GalleryOptions = GalleryOptions()


def image_bytes(pyramid: Pyramid) -> int:
    """Returns the bytes that are kept of a good image."""
    return 4 * (pyramid.width + sum(rows * cols * width for rows, cols, width in pyramid.levels))


def check_gallery(gallery: GalleryOptions, pyramid: Pyramid) -> None:
    """Raises UserError for a gallery that is too large, or too small for its neighbours."""
    needed = gallery.images * image_bytes(pyramid)
    if needed > LARGEST_BYTES:
        fits = LARGEST_BYTES // image_bytes(pyramid)
        raise UserError(
            f"model.gallery.images {gallery.images}: the features of an image take "
            f"{image_bytes(pyramid) / 1e6:.1f} MB, {needed / 2**30:.1f} GiB in all, more than "
            f"{LARGEST_BYTES / 2**30:.0f}: use {fits} or less, or smaller images"
        )
    if gallery.neighbours > gallery.images:
        raise UserError(
            f"model.gallery.neighbours {gallery.neighbours}: the gallery keeps {gallery.images} "
            f"images: use {gallery.images} or less, or a larger model.gallery.images"
        )
    for rows, columns, _ in pyramid.levels if gallery.published else ():
        if (count := gallery.neighbours * rows * columns) < HUNDRED:
            raise UserError(
                f"model.gallery.published: {gallery.neighbours} neighbours of {rows} × {columns} "
                f"places are {count} vectors, and the published program leaves out fewer than "
                f"{HUNDRED}: use larger images or more neighbours"
            )


def add_images(found: dict[str, Any] | None, rows: Any, size: int) -> dict[str, Any]:
    """Returns galleries of `size` images with a batch's images added; changes `found` in place.

    rows: a tree of arrays [n, …]. Of more images, each has the same chance to be kept (reservoir
    sampling), the same ones in every process.
    """
    if found is None:
        empty = jax.tree.map(lambda x: np.zeros((size, *x.shape[1:]), np.float32), rows)
        found = {"count": 0, "rows": empty, "rng": np.random.default_rng(0)}
    for i in range(len(jax.tree.leaves(rows)[0])):
        place = found["count"]
        if place >= size:
            place = int(found["rng"].integers(place + 1))
        found["count"] += 1
        if place < size:
            for kept, new in zip(
                jax.tree.leaves(found["rows"]), jax.tree.leaves(rows), strict=True
            ):
                kept[place] = new[i]
    return found


def spade(options: SpadeOptions, inputs: Inputs) -> Detector:
    """Returns the detector; `Detector` describes the arguments and results of its functions."""
    gallery = options.gallery
    pyramid = make_pyramid(options, inputs.image_size, inputs.channels, inputs.dtype)
    check_gallery(gallery, pyramid)
    names = [f"level{i + 1}" for i in range(len(pyramid.levels))]

    def init(key):
        del key
        levels = {
            name: jnp.zeros((gallery.images, *shape))
            for name, shape in zip(names, pyramid.levels, strict=True)
        }
        vectors = jnp.zeros((gallery.images, pyramid.width))
        stats = {"vectors": vectors, "levels": levels, "count": jnp.ones((), jnp.int32)}
        return {"params": {}, "stats": stats, "frozen": pyramid.frozen()}

    def gather(variables, images, key):
        del key
        vectors, maps = pyramid.outputs(variables["frozen"], images)
        return {"vectors": vectors, "levels": dict(zip(names, maps, strict=True))}

    def solve(variables, found: dict[str, Any], rng: np.random.Generator):
        del rng
        count, kept = found["count"], min(found["count"], gallery.images)
        if kept < gallery.neighbours:
            raise UserError(
                f"model.gallery.neighbours {gallery.neighbours}: there are {count} training "
                f"images: use {count} or less"
            )
        if count > kept:
            needed = count * image_bytes(pyramid) / 2**30
            say(
                f"{kept} of {count} images are kept, drawn at random; "
                f"--config.model.gallery.images={count} keeps all, in {needed:.1f} GiB"
            )
        return {**variables, "stats": {**found["rows"], "count": np.int32(kept)}}

    def score(variables, images):
        stats = variables["stats"]
        found = gather(variables, images, None)
        distances, index = nearest_images(
            found["vectors"], stats["vectors"], stats["count"], gallery.neighbours
        )

        def search(image):
            levels, nearest = image
            memory, kept = gallery.memory * 2**20, stats["levels"]
            return [
                level_distances(levels[name], kept[name][nearest], memory, gallery.published)
                for name in names
            ]

        maps = jax.lax.map(search, (found["levels"], index))  # one image at a time
        upsampled = [upsample_maps(m, inputs.image_size, inputs.map_sigma) for m in maps]
        anomaly_map = sum(upsampled[1:], upsampled[0]) / len(upsampled)
        terms = jnp.stack([distances.mean(-1), anomaly_map.max((1, 2))], -1)
        return Scores(terms, anomaly_map)

    def load_pretrained(variables, arrays):
        assert pyramid.load is not None
        return {**variables, "frozen": pyramid.load(arrays)}

    return Detector(
        init,
        score,
        ("image_distance", "max_distance"),
        (1.0, 0.0),
        fit=Fit(gather, solve, lambda found, rows: add_images(found, rows, gallery.images)),
        load_pretrained=None if pyramid.load is None else load_pretrained,
        pretrained_required=pyramid.load is not None,
    )
