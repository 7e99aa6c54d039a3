"""The same image gives the same pixels as a file, as its bytes, and as a PIL image; other kinds of
files stay closed."""

import io
import os
import socket
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.factory import fails, grey, noise, write
from vtadl_jax.data import memory
from vtadl_jax.data.decode import image_size, load_image, load_mask, loaded
from vtadl_jax.data.depth import bits_warning
from vtadl_jax.data.memory import PixelBudget

WIDE = np.random.default_rng(1).integers(0, 65536, (9, 12, 4)).astype(np.uint16)
PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
          (1, 0, 2, 1))  # fmt: skip


def chunk(kind: bytes, data: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + check


def png(values, before=b"", behind=b"", interlaced=False) -> bytes:
    """A PNG of 8 or 16 bits, as PIL does not write it."""
    big = values.astype(values.dtype.newbyteorder(">"))
    steps = PASSES if interlaced else ((0, 0, 1, 1),)
    parts = [big[top::down, left::right] for top, left, down, right in steps]
    rows = b"".join(b"\0" + np.ascontiguousarray(row).tobytes() for part in parts for row in part)
    colour = {2: 0, 3: {2: 4, 3: 2, 4: 6}.get(values.shape[-1])}[values.ndim]
    header = (values.shape[1], values.shape[0], 8 * values.itemsize, colour, 0, 0, interlaced)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", *header))
    return start + before + chunk(b"IDAT", zlib.compress(rows)) + behind + chunk(b"IEND", b"")


def tiff(values, orientation=1) -> bytes:
    """A TIFF of 16-bit colors, which PIL does not write."""
    height, width, samples = values.shape
    bits = struct.pack(f"<{samples}H", *[16] * samples)
    data, entries = values.astype("<u2").tobytes(), []
    start = 8 + 2 + 12 * 10 + 4
    for tag, kind, count, value in (
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, samples, start), (259, 3, 1, 1),
        (262, 3, 1, 2), (273, 4, 1, start + len(bits)), (274, 3, 1, orientation),
        (277, 3, 1, samples), (278, 4, 1, height), (279, 4, 1, len(data)),
    ):  # fmt: skip
        entries.append(struct.pack("<HHII", tag, kind, count, value))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", 10) + b"".join(entries) + bytes(4) + bits + data


def saved(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def palette() -> Image.Image:
    image = Image.fromarray(noise((9, 12)) // 64).convert("P")
    image.putpalette([10, 20, 30, 200, 0, 0, 0, 90, 0, 5, 5, 250])
    return image


RGB = Image.fromarray(noise((9, 12, 3)))
GREY = RGB.convert("L")
SIXTEEN = Image.fromarray(np.ascontiguousarray(WIDE[..., 0]))
CONTENTS = {
    "1 png": saved(GREY.convert("1"), "PNG"),
    "1 tiff": saved(GREY.convert("1"), "TIFF"),
    "L png": saved(GREY, "PNG"),
    "L bmp": saved(GREY, "BMP"),
    "L jpeg": saved(GREY, "JPEG"),
    "LA png": saved(Image.fromarray(noise((9, 12, 2))), "PNG"),
    "P png": saved(palette(), "PNG"),
    "P transparent": saved(palette(), "PNG", transparency=1),
    "L transparent": saved(GREY, "PNG", transparency=int(np.asarray(GREY)[0, 0])),
    "RGB png": saved(RGB, "PNG"),
    "RGB tiff": saved(RGB, "TIFF"),
    "RGB lzw": saved(RGB, "TIFF", compression="tiff_lzw"),
    "RGB jpeg": saved(RGB, "JPEG"),
    "RGB webp": saved(RGB, "WEBP", lossless=True),
    "RGBA png": saved(Image.fromarray(noise((9, 12, 4))), "PNG"),
    "RGBA tiff": saved(Image.fromarray(noise((9, 12, 4))), "TIFF"),
    "RGBA webp": saved(Image.fromarray(noise((9, 12, 4))), "WEBP"),
    "CMYK jpeg": saved(RGB.convert("CMYK"), "JPEG"),
    "CMYK tiff": saved(RGB.convert("CMYK"), "TIFF"),
    "I;16 png": saved(SIXTEEN, "PNG"),
    "I;16 tiff": saved(SIXTEEN, "TIFF"),
    "I;16B tiff": saved(Image.frombytes("I;16B", (12, 9), WIDE[..., 0].astype(">u2").tobytes()),
                        "TIFF"),
    "I;16 transparent": png(WIDE[..., 0], chunk(b"tRNS", WIDE[0, 0, :1].astype(">u2").tobytes())),
    "LA;16 png": png(WIDE[..., :2]),
    "RGB;16 png": png(WIDE[..., :3]),
    "RGB;16 interlaced": png(WIDE[..., :3], interlaced=True),
    "RGB;16 tiff": tiff(WIDE[..., :3]),
    "RGBA;16 png": png(WIDE),
    "L interlaced": png(noise((9, 12)), interlaced=True),
    "L profile": png(noise((9, 12)), chunk(b"iCCP", b"x\0\0" + zlib.compress(b"none"))),
    "I tiff": saved(Image.fromarray(WIDE[..., 0].astype(np.int32)), "TIFF"),
    "F tiff": saved(Image.fromarray(WIDE[..., 0].astype(np.float32) / 65535), "TIFF"),
    "turned jpeg": saved(RGB, "JPEG", exif=turned(6)),
    "turned png": saved(RGB, "PNG", exif=turned(8)),
    "turned behind": png(noise((9, 12)), behind=chunk(b"eXIf", turned(6).tobytes()[6:])),
    "turned tiff": saved(RGB, "TIFF", exif=turned(3)),
    "turned RGB;16 tiff": tiff(WIDE[..., :3], 6),
    "turned webp": saved(RGB, "WEBP", lossless=True, exif=turned(5)),
}  # fmt: skip
TURNED_ASIDE = ("turned jpeg", "turned png", "turned behind", "turned RGB;16 tiff", "turned webp")
# PIL keeps 8 bits of each color once it has read the pixels.
LOSSY = [n for n in CONTENTS if "A;16" in n or "RGB;16" in n or n == "I;16 transparent"]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", CONTENTS)
def test_all_ways_in_give_the_same_pixels(tmp_path, capfd, name, channels):
    path = tmp_path / "a.png"  # its content tells the kind
    path.write_bytes(CONTENTS[name])
    expected = load_image(path, channels)
    assert expected.dtype == np.uint8
    assert expected.shape[:2] == ((12, 9) if name in TURNED_ASIDE else (9, 12))
    assert image_size(path) == expected.shape[:2]
    with Image.open(path) as opened, Image.open(io.BytesIO(CONTENTS[name])) as from_bytes:
        for way in (CONTENTS[name], opened, from_bytes, expected):
            np.testing.assert_array_equal(load_image(way, channels), expected)
        opened.load()
        if name not in LOSSY:
            np.testing.assert_array_equal(load_image(opened, channels), expected)
            np.testing.assert_array_equal(load_image(opened.copy(), channels), expected)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", CONTENTS)
def test_strips_change_no_pixel(monkeypatch, name):
    whole = load_image(CONTENTS[name], 3)
    monkeypatch.setattr(memory, "STRIP", 24)
    np.testing.assert_array_equal(load_image(CONTENTS[name], 3), whole)


def test_sixteen_bits_are_those_of_an_array():
    rgb = np.ascontiguousarray(WIDE[..., :3])
    expected = np.rint(rgb / 257).astype(np.uint8)
    for way in (rgb, rgb.astype(">u2"), png(rgb), png(rgb, interlaced=True), tiff(rgb)):
        np.testing.assert_array_equal(load_image(way, 3), expected)
    opaque = np.concatenate([rgb, np.full_like(rgb[..., :1], 65535)], 2)
    np.testing.assert_array_equal(load_image(png(opaque), 3), expected)
    np.testing.assert_array_equal(load_image(tiff(rgb, 6), 3), np.rot90(expected, -1))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((4, 4), np.int64), "image of int64: give uint8"),
        (np.zeros((4, 4), bool), "image of bool: give uint8"),
        (np.zeros((4, 4), object), "image of object: give uint8"),
        (np.full((4, 4), np.inf), "float values from inf"),
        (np.zeros((4, 4, 4), np.uint8), "image array of uint8 4×4×4"),
        (np.zeros((4, 4, 2), np.uint8), "image array of uint8 4×4×2"),
        (np.zeros((0, 4), np.uint8), "image array of uint8 0×4"),
        (np.zeros((0, 4), np.uint16), "no pixels"),
        (np.zeros(4, np.uint8), "image array of uint8 4"),
        (b"", "image of 0 bytes: the file is empty"),
        (b"hello", "not an image of a known kind"),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_no_image_is_refused(values, message, channels):
    with fails(message):
        load_image(values, channels)


# Bits


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_bits_are_those_of_the_camera_not_of_the_file(bits):
    top = 2**bits - 1
    values = np.linspace(0, top, 12).round().astype(np.uint16).reshape(3, 4)
    expected = np.rint(values.astype(float) * 255 / top)
    colours = np.repeat(values[..., None], 3, 2)
    wide = Image.fromarray(values.astype(np.int32))
    for way in (values, values.astype(np.int32), png(values), saved(wide, "TIFF")):
        np.testing.assert_array_equal(load_image(way, 1, bits), expected)
    for way in (colours, png(colours), tiff(colours)):
        np.testing.assert_array_equal(load_image(way, 3, bits)[..., 1], expected)
    if bits < 16:
        with fails("values from 1 to", f"data.bits {bits} allows 0 to {top}"):
            load_image(values + np.uint16(1), 1, bits)
    eight = noise((3, 4))
    np.testing.assert_array_equal(load_image(saved(Image.fromarray(eight), "PNG"), 1, bits), eight)


@pytest.mark.parametrize("top", [1, 255, 4095, 16383])
@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_thirty_two_bits_of_unknown_range_are_refused(tmp_path, dtype, top):
    values = np.full((4, 4), top, dtype)
    values[0] = 0
    if dtype == np.float32 and top == 1:
        assert load_image(values, 1).max() == 255
        return
    path = write(tmp_path / "a.tif", values)
    for way in (path, values, Image.fromarray(values)):
        with fails("values from 0 to", top):
            load_image(way, 1)


def test_a_warning_of_bits_that_images_do_not_use(tmp_path):
    dark = [write(tmp_path / f"{i}.png", np.full((4, 4), 900 * i, np.uint16)) for i in range(5)]
    warning = bits_warning(dark)
    assert "up to 3600 only" in warning
    assert "--config.data.bits=12" in warning
    assert bits_warning(dark, 12) is None
    more = write(tmp_path / "a.png", np.full((4, 4), 16000, np.uint16))
    assert "--config.data.bits=14" in bits_warning([*dark, more])
    bright = write(tmp_path / "b.png", np.full((4, 4), 16384, np.uint16))
    assert bits_warning([*dark, bright]) is None
    eight = write(tmp_path / "c.png", grey(3))
    assert bits_warning([eight, grey(3)]) is None
    assert "changes nothing" in bits_warning([eight, grey(3)], 12)


# What stays closed

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n0 0 8 8 rectfill\n%%EOF\n"


@pytest.mark.parametrize("kind", ["GIF", "ICO", "TGA", "PPM", "PCX", "JPEG2000", "AVIF", "SGI"])
def test_other_kinds_are_refused_by_name(tmp_path, kind):
    path = tmp_path / "part.png"
    path.write_bytes(saved(RGB, kind))
    for load in (lambda path: load_image(path, 3), load_mask, image_size):
        with fails(path, "not an image of a known kind"):
            load(path)
    with fails(f"PIL image of a {kind} file"), Image.open(path) as image:
        load_image(image, 3)


def test_postscript_starts_nothing(tmp_path, monkeypatch):
    started = tmp_path / "started"
    for name in ("gs", "gswin32c", "gswin64c"):
        (tmp_path / name).write_text(f"#!/bin/sh\ntouch {started}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    path = tmp_path / "part.png"
    path.write_bytes(EPS)
    with Image.open(path) as image:
        for way in (path, EPS, image):
            with fails("image"):
                load_image(way, 3)
    assert not started.exists()


@pytest.mark.parametrize("kind", ["TIFF", "PNG", "WEBP"])
def test_several_pages_are_refused_unless_one_is_chosen(tmp_path, kind):
    pages = [Image.fromarray(grey(60 * i, (8, 8))).convert("RGB") for i in range(1, 4)]
    path = tmp_path / "a.tif"
    path.write_bytes(saved(pages[0], kind, save_all=True, append_images=pages[1:]))
    with Image.open(path) as image:
        for way in (path, path.read_bytes(), image):
            with fails("has 3 pages"):
                load_image(way, 1)
    with Image.open(path) as chosen:
        chosen.seek(2)
        np.testing.assert_allclose(load_image(chosen, 1), 180, atol=3)


def test_a_smaller_copy_in_a_tiff_is_no_page(tmp_path):
    path = tmp_path / "a.tif"
    RGB.save(path, save_all=True, append_images=[RGB.resize((4, 3))])
    with fails("has 2 pages"):
        load_image(path, 3)
    small = RGB.resize((4, 3))
    small.encoderinfo = {"tiffinfo": {254: 1}}  # NewSubfileType: a reduced copy of another page
    RGB.save(path, save_all=True, append_images=[small])
    with Image.open(path) as image:
        for way in (path, image):
            np.testing.assert_array_equal(load_image(way, 3), np.asarray(RGB))


def special(path: Path, kind: str) -> None:
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    else:
        path.symlink_to("/dev/zero")


@pytest.mark.parametrize("kind", ["pipe", "folder", "socket", "device"])
def test_what_is_no_file_is_named_and_not_waited_for(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    special(tmp_path / "part.png", kind)
    for load in (lambda path: load_image(path, 3), load_mask, image_size):
        with fails("part.png", f"a {kind}"):
            load(tmp_path / "part.png")


# Memory


def test_a_large_image_waits_until_it_is_alone():
    budget, order = PixelBudget(10), []

    def work(pixels):
        with budget.take(pixels), budget.take(99):  # a second one of a thread does not wait
            order.append(pixels)

    with budget.take(4):
        small = threading.Thread(target=work, args=(6,))
        small.start()
        small.join(5)
        assert order == [6]
        large = threading.Thread(target=work, args=(50,))
        large.start()
        large.join(0.05)
        assert order == [6]
    large.join(5)
    assert order == [6, 50]


def test_an_image_has_its_turn_until_its_pixels_were_used(monkeypatch):
    budget = PixelBudget(50)
    monkeypatch.setattr("vtadl_jax.data.opening.BUDGET", budget)
    with loaded(CONTENTS["RGB png"], 3):
        assert budget._used == 9 * 12
    assert budget._used == 0
    with pytest.raises(ZeroDivisionError), loaded(CONTENTS["RGB png"], 3):
        _ = 1 / 0
    assert budget._used == 0
    with pytest.raises(Exception, match="cannot read"):
        load_image(CONTENTS["RGB png"][:60], 3)
    assert budget._used == 0


def test_of_a_phones_jpeg_the_photograph_is_read(tmp_path):
    photo, depth = Image.fromarray(noise((16, 24, 3))), Image.fromarray(noise((8, 8), 1))
    path = tmp_path / "phone.jpg"
    path.write_bytes(saved(photo, "MPO", save_all=True, append_images=[depth.convert("RGB")]))
    with Image.open(path) as image:
        assert image.format == "MPO"
    alone = load_image(saved(photo, "JPEG"), 3)
    with Image.open(path) as image:
        for given in (path, path.read_bytes(), image):
            np.testing.assert_array_equal(load_image(given, 3), alone)
