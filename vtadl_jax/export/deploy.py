"""The whole way from an image to its decision as one pure function, for exports.

Pixels of any size come in; score, p-value, decision, terms and the map at the image's size go out.
Decoding aside, everything is inside: resize and crop, network, densities, calibration, thresholds.
`Predictor` does the same with Pillow on the host; the two agree bit for bit in the pixels that the
network sees, and to float32 in the rest.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vtadl_jax.data.transforms import Geometry
from vtadl_jax.detectors.contract import Detector, Variables
from vtadl_jax.errors import UserError
from vtadl_jax.evaluation.scorer import score_inside
from vtadl_jax.export.settings import Settings, decide, describe_pixels
from vtadl_jax.ops.components import strongest_components
from vtadl_jax.ops.pillow_resize import Resampling, resize_maps, resize_pixels

REGIONS = ("region_boxes", "region_areas", "region_peaks", "region_peaks_at", "region_means")

Deployed = Callable[[Variables, Settings, jax.Array], dict[str, jax.Array]]


def deployed(detector: Detector, geometry: Geometry, num_regions: int = 0) -> Deployed:
    """Returns the function (variables, settings, images uint8 [B, h, w, C]) → outputs by name.

    settings: of `settings_of`. Height and width may be symbolic dimensions of `jax.export`. The
    outputs are those of `decide`; 'terms' [B, T], the raw score terms; 'description' [B, D], see
    `describe_pixels`; and for detectors with maps 'anomaly_map' float32 [B, h, w], 'defect_mask'
    bool [B, h, w], where the map reaches 'pixel_threshold', and with `num_regions` R the regions of
    that mask with the R highest peaks: 'num_regions' int32 [B] counts all, and the arrays of
    `Components` are 'region_boxes' [B, R, 4], 'region_areas', 'region_peaks', 'region_means'
    [B, R] and 'region_peaks_at' [B, R, 2]. C is that of the network. With one `data.regions` for
    all images, only what is inside counts; images must have its aspect. The function raises
    UserError, when it is traced, for regions of a method without maps.
    """

    inside = _inside(geometry)

    def deploy(variables: Variables, settings: Settings, images: jax.Array):
        height, width = (value_of(side) for side in images.shape[1:3])
        forward, back = resamplings(geometry, height, width, images.shape[1:3])
        pixels = images if forward is None else resize_pixels(images, *forward)
        if inside is None or geometry.regions is None:
            scores = detector.score(variables, pixels)
        else:
            colour = np.array(geometry.regions.colour, np.uint8)
            pixels = jnp.where(inside[..., None], pixels, colour)
            scores = score_inside(detector)(variables, pixels, inside)
        description = describe_pixels(pixels)
        outputs = decide(settings, scores.terms, description)
        outputs |= {"terms": scores.terms, "description": description}
        if num_regions and scores.anomaly_map is None:
            raise UserError(
                f"--regions {num_regions}: this method scores whole images and makes no map to "
                f"find regions in: leave it out"
            )
        if scores.anomaly_map is not None:
            found, limit = scores.anomaly_map, settings["pixel_threshold"]
            found = found if inside is None else _lowest_outside(found, inside, limit)
            found = found if forward is None else resize_maps(found, *back)
            seen = None
            if inside is not None:
                seen = jnp.asarray(inside)
                if forward is not None:
                    seen = resize_maps(jnp.asarray(inside, jnp.float32), *back) >= 0.5
                found = _lowest_outside(found, seen, limit)
            outputs |= map_outputs(found, settings, seen)
            if num_regions:
                outputs |= _regions(found, outputs["defect_mask"], num_regions)
        return outputs

    return deploy


def map_outputs(
    maps: jax.Array, settings: Settings, inside: jax.Array | None = None
) -> dict[str, jax.Array]:
    """Returns the outputs about maps float32 [B, h, w] at the images' own size, by name.

    inside: bool [B or 1, h, w], the pixels that are inspected; None for all.
    """
    mask = maps >= settings["pixel_threshold"]
    mask = mask if inside is None else mask & inside
    return {"anomaly_map": maps, "defect_mask": mask}


def _inside(geometry: Geometry) -> np.ndarray | None:
    """Returns the pixels inspected of all images, bool [1, H, W]; None for all."""
    area = None if geometry.regions is None else geometry.regions.area
    return None if area is None else geometry.inside((area.shape[0], area.shape[1]))[None]


def _lowest_outside(maps: jax.Array, inside: Any, threshold: jax.Array) -> jax.Array:
    """Returns maps [B, h, w] as `regions.region.lowest_outside`."""
    lowest = jnp.where(inside, maps, jnp.finfo(maps.dtype).max).min((1, 2), keepdims=True)
    below = threshold - 1e-5 * jnp.maximum(jnp.abs(threshold), 1)
    return jnp.where(inside, maps, jnp.minimum(lowest, below))


def _regions(maps: jax.Array, masks: jax.Array, most: int) -> dict[str, jax.Array]:
    """Returns the strongest regions of maps [B, h, w] by the names of the outputs."""
    found = jax.vmap(lambda values, mask: strongest_components(values, mask, most))
    *arrays, total = found(maps, masks)
    return {**dict(zip(REGIONS, arrays, strict=True)), "num_regions": total}


def value_of(side: Any) -> Any:
    """Returns a side of the images: an int, or a traced scalar for a symbolic dimension."""
    return side if isinstance(side, int) else jnp.asarray(side, jnp.int32)


def resamplings(geometry: Geometry, height: Any, width: Any, lengths: tuple[Any, ...]) -> Any:
    """Returns the resamplings (rows, columns) of an image to the network's size, and of a map back.

    (None, None) if the image has the network's size already.
    """
    scaled = _scaled(geometry, height, width)
    forward, back = [], []
    for axis, (side, to) in enumerate(zip((height, width), scaled, strict=True)):
        size = geometry.size[axis]
        before = (to - size) // 2  # cropped, or padded if negative
        forward.append(Resampling(side, to, before, size))
        back.append(Resampling(to, side, 0, lengths[axis], lead=before))
    same = (height, width) == geometry.size == scaled if isinstance(height, int) else False
    return (None, None) if same else (forward, back)


def _scaled(geometry: Geometry, height: Any, width: Any) -> tuple[Any, Any]:
    """Returns (height, width) before the crop, as `Geometry` computes it."""
    top, left = geometry.canvas
    if geometry.fit == "stretch":
        return top, left
    if isinstance(height, int) and isinstance(width, int):
        return geometry.scaled((height, width))
    by_height = (top * width <= left * height) == (geometry.fit == "pad")
    to, of = jnp.where(by_height, top, left), jnp.where(by_height, height, width)

    def rounded(value):
        quotient, rest = value // of, value % of
        return quotient + ((2 * rest > of) | ((2 * rest == of) & (quotient % 2 == 1)))

    return jnp.maximum(rounded(height * to), 1), jnp.maximum(rounded(width * to), 1)
