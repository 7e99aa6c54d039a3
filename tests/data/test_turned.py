"""Turned and moved copies of images: their pixels, their names, the group that turns make."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vtadl_jax.data.decode import load_image
from vtadl_jax.data.records import Record
from vtadl_jax.data.turned import (
    NUM_MOVED,
    SAME,
    Copy,
    after,
    moved_copies,
    parse_orientations,
    turned_copies,
    turns_of,
)
from vtadl_jax.errors import UserError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (12, 12, 3), np.uint8)


def record(image) -> Record:
    return Record(image, None, 0, "good", "good/a.png")


@pytest.mark.parametrize("pixels", [PIXELS, PIXELS[..., 0]], ids=["color", "grey"])
def test_turns_by_right_angles_are_exact(pixels):
    for quarter in range(4):
        np.testing.assert_array_equal(
            Copy(pixels, False, 90 * quarter).read(), np.rot90(pixels, quarter)
        )
        np.testing.assert_array_equal(
            Copy(pixels, True, 90 * quarter).read(), np.rot90(pixels[:, ::-1], quarter)
        )


def test_a_turn_by_any_angle_keeps_the_middle_and_repeats_the_edge():
    pixels = np.full((33, 33), 200, np.uint8)
    pixels[12:21, 12:21] = 40
    found = Copy(pixels, False, 45).read()
    assert found.shape == pixels.shape
    assert found[16, 16] == 40
    assert (found[[0, 0, -1, -1], [0, -1, 0, -1]] == 200).all()
    assert found[16, 11] < 80  # a corner of the square is there now
    assert found[12, 12] == 200


def test_a_copy_is_decoded_as_its_file(tmp_path: Path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    copy = Copy(tmp_path / "a.png", True, 0)
    np.testing.assert_array_equal(load_image(copy, 3), PIXELS[:, ::-1])
    assert load_image(copy, 1).ndim == 2
    assert "a.png" in copy.mark
    assert "a.png" in str(copy)


def test_two_turns_make_one():
    for first in turns_of(("mirror", "rot90")):
        for second in turns_of(("mirror", "rot90")):
            step = Copy(Copy(PIXELS, *first).read(), *second).read()
            np.testing.assert_array_equal(Copy(PIXELS, *after(first, second)).read(), step)


def test_named_orientations_make_a_group():
    assert turns_of(()) == ()
    assert turns_of(("rot180",)) == ((False, 180),)
    assert turns_of(("mirror", "flip")) == ((False, 180), (True, 0), (True, 180))
    assert turns_of(("rot90",)) == ((False, 90), (False, 180), (False, 270))
    assert len(turns_of(("any",))) == 11
    assert len(turns_of(("any", "mirror"))) == 23
    assert SAME not in turns_of(("any", "flip"))


def test_names_are_read_and_unknown_ones_refused():
    assert parse_orientations("none") == ()
    assert parse_orientations("auto") == ("auto",)
    assert parse_orientations(" rot90, mirror") == ("mirror", "rot90")
    for text in ("", "turn", "none,mirror", "auto,any"):
        with pytest.raises(UserError, match=r"data\.orientations .*use auto, none, or some of"):
            parse_orientations(text)


def test_copies_have_names_of_their_own():
    copies = turned_copies(record(PIXELS), turns_of(("any", "mirror")))
    assert len({copy.name for copy in copies} | {"good/a.png"}) == 24
    assert copies[0].name == "good/a.png (turned by 30°)"
    assert all(copy.label == 0 for copy in copies)


def test_moved_copies_are_near_and_the_same_for_a_seed():
    smooth = np.uint8(127 + 100 * np.sin(np.arange(64) / 9))[None].repeat(64, 0)
    found = moved_copies(record(smooth), 3)
    again = moved_copies(record(smooth), 3)
    assert len(found) == NUM_MOVED == len({copy.name for copy in found})
    for one, two in zip(found, again, strict=True):
        pixels = load_image(one.image, 1)
        np.testing.assert_array_equal(pixels, load_image(two.image, 1))
        assert 0 < np.abs(pixels.astype(int) - smooth).mean() < 16
