"""The way from a large image to its decision by windows, as one pure function for exports.

As `evaluation/windowed.py` on the host: the same windows, pixel for pixel, the same weights, the
same terms. A loop takes a few windows at a time, so memory beyond the image and its map does not
grow with the image; height and width may be symbolic.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vtadl_jax.config_data import WindowOptions
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.data.windows import count_along, scaled_side, start_of, step_of, taper
from vtadl_jax.detectors.contract import Detector, Variables
from vtadl_jax.evaluation.windowed import cells_detector
from vtadl_jax.export.deploy import Deployed, map_outputs, resamplings, value_of
from vtadl_jax.export.settings import Settings, decide, describe_pixels, weighted
from vtadl_jax.networks.tails import tail
from vtadl_jax.ops.pillow_resize import Resampling, resize_maps, resize_pixels


class Axis(NamedTuple):
    """The windows along a side of one scale.

    length: pixels of the scaled image. count, room: of `count_along`. share: weights of places, the
    sum of all windows' tapers, [cells]. All may be traced.
    """

    length: Any
    count: Any
    room: Any
    share: jax.Array

    def start(self, number: Any, cell: int) -> jax.Array:
        """Returns where a window starts, in pixels."""
        return jnp.asarray(start_of(number, self.count, self.room, cell, jnp.maximum), jnp.int32)


def deployed_windows(
    detector: Detector, geometry: Geometry, options: WindowOptions, chunk: int
) -> Deployed:
    """Returns the function of `deploy.deployed` for a run that scores images by windows.

    chunk: windows of each image that are scored at once.
    """
    one = cells_detector(detector, options)
    bump = jnp.asarray(taper(options.side // options.map_stride), jnp.float32)

    def deploy(variables: Variables, settings: Settings, images: jax.Array):
        height, width = (value_of(side) for side in images.shape[1:3])
        forward, _ = resamplings(geometry, height, width, images.shape[1:3])
        small = images if forward is None else resize_pixels(images, *forward)
        best, maps = None, []
        for number, factor in enumerate(options.scales):
            found, best = at_scale(variables, settings, images, number, factor, best)
            maps.append(found)
        assert best is not None, "there is a scale"
        terms = best[1] * settings["spread"] + settings["mean"] + settings["mean_rest"]
        description = describe_pixels(small)
        outputs = decide(settings, terms, description)
        outputs |= {"terms": terms, "description": description}
        if maps[0] is not None:
            whole = maps[0]
            if len(maps) > 1:
                tables = zip(settings["window_knots"], settings["window_rate"], strict=True)
                rare = [
                    tail({"knots": knots, "rate": rate}, found)
                    for (knots, rate), found in zip(tables, maps, strict=True)
                ]
                whole = sum(rare) / len(rare)
            sides = zip((height, width), whole.shape[1:3], images.shape[1:3], strict=True)
            back = [Resampling(value_of(n), side, 0, length) for side, n, length in sides]
            outputs |= map_outputs(resize_maps(whole, *back), settings)
        return outputs

    def at_scale(variables, settings, images, number: int, factor: float, best):
        """Returns the map [B, h / stride, w / stride] of one scale (None without maps), and the
        best window's (score [B], standardized terms [B, T]) so far."""
        side, cell, original = options.side, options.map_stride, images.shape[1:3]
        lengths = [scaled_side(length, factor) for length in images.shape[1:3]]
        if factor != 1:
            pairs = zip(images.shape[1:3], lengths, strict=True)
            images = resize_pixels(
                images, *(Resampling(value_of(n), value_of(to), 0, to) for n, to in pairs)
            )
        # Windows may reach beyond the border, and slices must not: the edge is repeated.
        padded = jnp.pad(images, ((0, 0), (0, side), (0, side), (0, 0)), mode="edge")
        axes = [axis_of(length) for length in lengths]
        count = axes[0].count * axes[1].count
        batch, network = images.shape[0], geometry.size

        def body(turn, carry):
            whole, score, terms = carry
            numbers = jnp.minimum(turn * chunk + jnp.arange(chunk), count - 1)
            rows, columns = numbers // axes[1].count, numbers % axes[1].count
            tops, lefts = axes[0].start(rows, cell), axes[1].start(columns, cell)

            def window(top, left):
                size = (batch, side, side, padded.shape[3])
                return lax.dynamic_slice(padded, (0, top, left, 0), size)

            windows = jax.vmap(window)(tops, lefts).reshape(chunk * batch, side, side, -1)
            if network != (side, side):
                sides = (Resampling(side, to, 0, to) for to in network)
                windows = resize_pixels(windows, *sides)
            found = one.score(variables, windows)
            mean, rest = settings["window_mean"][number], settings["window_mean_rest"][number]
            standard = ((found.terms - mean) - rest) / settings["window_spread"][number]
            values = weighted(settings, standard).reshape(chunk, batch)
            standard = standard.reshape(chunk, batch, -1)
            fresh = turn * chunk + jnp.arange(chunk) < count
            for i in range(chunk):  # the first of equal scores, as the host takes it
                larger = values[i] > score
                score = jnp.where(larger, values[i], score)
                terms = jnp.where(larger[:, None], standard[i], terms)
                if found.anomaly_map is None:
                    continue
                top, left = tops[i] // cell, lefts[i] // cell
                inside = side // cell
                along = bump / lax.dynamic_slice(axes[0].share, (top,), (inside,))
                across = bump / lax.dynamic_slice(axes[1].share, (left,), (inside,))
                maps = found.anomaly_map.reshape(chunk, batch, inside, inside)[i]
                added = jnp.where(fresh[i], along[:, None] * across * maps, 0)
                part = lax.dynamic_slice(whole, (0, top, left), (batch, inside, inside))
                whole = lax.dynamic_update_slice(whole, part + added, (0, top, left))
            return whole, score, terms

        if best is None:
            num_terms = len(detector.score_terms)
            best = (jnp.full(batch, -jnp.inf, jnp.float32), jnp.zeros((batch, num_terms)))
        has_map = has_maps(variables, images.shape[3])
        cells = [axis.share.shape[0] if has_map else 1 for axis in axes]
        whole = jnp.zeros((batch, *cells), jnp.float32)
        turns = -(-count // chunk)
        whole, *best = lax.fori_loop(0, turns, body, (whole, *best))
        if not has_map:
            return None, tuple(best)
        for axis, (along, length) in enumerate(zip(axes, original, strict=True), 1):
            whole = at_places(whole, axis, along, length)
        return whole, tuple(best)

    def axis_of(length) -> Axis:
        side, cell = options.side, options.map_stride
        count, room = count_along(value_of(length), side, step_of(options), cell, jnp.maximum)
        inside = side // cell
        # As many cells as the larger of image and window, without a maximum of dimensions.
        share = jnp.zeros(-(-length // cell) + inside, jnp.float32)

        def add(number, share):
            start = start_of(number, count, room, cell, jnp.maximum) // cell
            part = lax.dynamic_slice(share, (start,), (inside,))
            return lax.dynamic_update_slice(share, part + bump, (start,))

        return Axis(length, count, room, lax.fori_loop(0, count, add, share))

    def has_maps(variables, channels: int) -> bool:
        pixels = jax.ShapeDtypeStruct((1, *geometry.size, channels), np.uint8)
        return jax.eval_shape(one.score, variables, pixels).anomaly_map is not None

    def at_places(whole, axis: int, along: Axis, length):
        """Takes the values along an axis at the places of the map of the image of this length, as
        `data.windows.to_image`."""
        last = (along.room + options.side) // options.map_stride - 1
        places = jnp.arange(-(-length // options.map_stride)) + 0.5
        places = jnp.clip(places * (value_of(along.length) / value_of(length)) - 0.5, 0, last)
        low = jnp.floor(places).astype(jnp.int32)
        part = places - low
        part = part[:, None] if axis == 1 else part
        below = jnp.take(whole, low, axis)
        return below + part * (jnp.take(whole, jnp.minimum(low + 1, last), axis) - below)

    return deploy
