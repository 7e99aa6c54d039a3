"""Opens images with PIL: plain files of the listed formats, one page each, within bounds of memory.

Reads headers; every error, also of decoding in the with block, becomes a UserError with the file.
"""

import contextlib
import io
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from PIL import Image, ImageFile

from vtadl_jax.data.formats import FORMATS, open_file
from vtadl_jax.data.memory import BUDGET, MAX_PIXELS
from vtadl_jax.errors import UserError, printable

# PIL rejects images above 179 million pixels as an attack; line-scan cameras make larger ones.
if Image.MAX_IMAGE_PIXELS is not None:
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, MAX_PIXELS)

Image.init()  # at import, not at the first TIFF: loading PIL's plugins is not thread-safe
# PIL warns of odd tags, profiles and palettes in sound files; of damaged pixels it raises an error.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

_SUBFILE, _REDUCED = 254, 1  # TIFF tag, and its bit for a smaller copy of another page


@contextmanager
def opened(ref: Path | bytes, turn: ExitStack | None = None) -> Iterator[Image.Image]:
    """Opens a file or its bytes; the image has room in memory for the with block.

    turn: keeps the room until this is closed. Raises UserError with the file if it can't be read.
    """
    name = f"image {printable(ref)}" if isinstance(ref, Path) else f"image of {len(ref)} bytes"
    with ExitStack() as own, _errors(ref, name):
        # Not Image.open(path): PIL maps plain TIFF by its turned size and garbles the pixels.
        file = own.enter_context(open_file(ref) if isinstance(ref, Path) else io.BytesIO(ref))
        image = own.enter_context(Image.open(file, formats=FORMATS))
        _check_size(image)
        _check_pages(image, name)
        (turn or own).enter_context(BUDGET.take(image.width * image.height))
        yield image


@contextmanager
def decoding(image: Image.Image, turn: ExitStack) -> Iterator[None]:
    """Checks a PIL image and gives it room until `turn` is closed; errors as those of `opened`."""
    with _errors(b"-", f"PIL image of mode {image.mode}"):
        _check_format(image)
        _check_size(image)
        if not image.tell():
            _check_pages(image, "PIL image", ", or give image.copy() of one")
        turn.enter_context(BUDGET.take(image.width * image.height))
        yield


def unread_content(image: Image.Image) -> bytes | None:
    """Returns the bytes of an opened file whose pixels PIL has not read yet; None for others.

    None also for a page that was chosen, or a smaller size. Raises UserError for other formats.
    """
    file = getattr(image, "fp", None)
    if not isinstance(image, ImageFile.ImageFile) or not image.tile or file is None:
        return None
    _check_format(image)
    if image.tell():
        return None
    try:
        position = file.tell()
        file.seek(0)
        content = file.read()
        file.seek(position)
        with Image.open(io.BytesIO(content), formats=FORMATS) as again:
            same = (again.size, again.mode) == (image.size, image.mode)
    except Exception:  # PIL reads it, or has the error
        return None
    return content if same else None


def _check_format(image: Image.Image) -> None:
    known = (*FORMATS, "MPO", None)  # a JPEG of several pictures, of which one was chosen
    if image.format not in known:
        raise UserError(
            f"PIL image of a {image.format} file, which is not read ({', '.join(FORMATS)} are): "
            "give image.convert('RGB')"
        )


def _check_size(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise Image.DecompressionBombError(f"{image.width}×{image.height} pixels")


def _check_pages(image: Image.Image, name: str, more: str = "") -> None:
    """Raises UserError for several pages or frames.

    Smaller copies in a TIFF do not count, nor do the pictures behind the photograph that phones add
    to a JPEG (MPO: depth, brightness, a second lens).
    """
    if image.format == "MPO":
        return
    count = getattr(image, "n_frames", 1) if getattr(image, "fp", None) is not None else 1
    if count > 1 and image.format == "TIFF":
        for page in range(1, count):
            image.seek(page)
            count -= image.tag_v2.get(_SUBFILE, 0) & _REDUCED  # type: ignore[attr-defined]
        image.seek(0)
    if count > 1:
        raise UserError(f"{name} has {count} pages or frames: save each as a file{more}")


@contextmanager
def _errors(ref: Path | bytes, name: str) -> Iterator[None]:
    """Turns every error into a UserError that names the image."""
    try:
        yield
    except UserError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(
            f"{name} is larger than {MAX_PIXELS} pixels ({error}): cut it into tiles"
        ) from error
    except Exception as error:  # decoders raise nearly anything: struct.error, SyntaxError, …
        raise UserError(f"cannot read {name}: {_reason(ref, error)}") from error


def _reason(ref: Path | bytes, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file, restore it"
    if isinstance(error, OSError) and error.errno and error.strerror:
        return f"{error.strerror}, replace or remove it"
    with contextlib.suppress(OSError, ValueError):  # a name may hold a zero byte
        if not (ref.stat().st_size if isinstance(ref, Path) else len(ref)):
            return "the file is empty, replace or remove it"
    if isinstance(error, Image.UnidentifiedImageError):
        kinds = ", ".join(FORMATS)
        return f"it is not an image of a known kind ({kinds}), replace or remove it"
    text = printable(" ".join(str(error).split()))
    return f"{text or type(error).__name__}, replace or remove it"
