"""Picture files as RGB pixels, with Pillow.

The content decides what a file is, not its suffix. Of a file with several pictures (GIF, TIFF, a burst) the first is
read. Every kind of pixel ends as 8-bit RGB:

- Transparency lies over white, as on a page; the colours under it, which nobody was meant to see, do not show.
- 16-bit numbers keep their high byte (257 v reads as v), where Pillow's own conversion of grey clips at 255.
- CMYK is turned by the plain formula (255 - ink) (255 - black) / 255; colour profiles (ICC) are ignored, in every mode.
- Floating-point pixels and wider integers have no known range, and are refused.
- A turn or mirror that a camera wrote into EXIF is carried out; damaged EXIF is ignored.

A file that breaks off is refused, never filled up with grey (Pillow's LOAD_TRUNCATED_IMAGES stays off). libjpeg does
not tell Pillow of damage in the middle of a JPEG that still has its end marker: such a picture is read as it decodes.
JPEGs are decoded at full size: libjpeg's quick reduced sizes (`draft`) filter otherwise than the resize that follows.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from mmim.errors import ReadError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""What is tried, so that no file can call another of Pillow's readers (EPS starts a program)."""

PIXELS = 100_000_000
"""The largest picture that is decoded: 300 MB as RGB and as much for Pillow, in each of a loader's workers."""
ROWS = 256
"""How many are turned into RGB at a time."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by EXIF's orientation
_ORIENTATION, _BITS, _PHOTOMETRIC = 0x0112, 258, 262  # tags of EXIF and TIFF


def read_picture(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    """The pixels of a picture file, upright, red green blue.

    Raises:
        ReadError: it is no picture, damaged, too large, or of a kind that is not read. The message is a short reason
            without the path.
    """
    with translated(FORMATS):
        check_not_empty(path)
        with Image.open(path, formats=FORMATS) as picture:
            check_size(*picture.size)
            picture.load()
            turn = turn_of(picture)
            stored = _high_byte(picture) if picture.mode.startswith("I") else picture
            return _rgb(stored if turn is None else stored.transpose(turn))


def check_not_empty(path: Path) -> None:
    """Asked first: nobody waits for what a pipe never says."""
    if path.stat().st_size == 0:
        raise ReadError("empty file")


def check_size(width: int, height: int) -> None:
    """Asked of the header, before anything is decoded."""
    if width * height > PIXELS:
        raise ReadError(f"{width} x {height} pixels; at most {PIXELS:,} are decoded")


def _rgb(picture: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
    """Some rows at a time, since every step of the way would need the memory of the picture once more."""
    if picture.mode == "F":
        raise ReadError("floating-point pixels, which have no known range")
    width, height = picture.size
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, ROWS):
        rows = picture.crop((0, top, width, min(top + ROWS, height)))
        if rows.has_transparency_data:
            over = rows.convert("RGBA")
            rows = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)
        pixels[top : top + ROWS] = np.asarray(rows.convert("RGB"))
    return pixels


def _high_byte(picture: Image.Image) -> Image.Image:
    """A 16-bit grey picture as an 8-bit one. Pillow calls it I;16 with some byte order, or I if it was a PGM."""
    if picture.mode == "I" and picture.format != "PPM":
        raise ReadError("signed or 32-bit integer pixels, which have no known range")
    check_plain_grey(picture)
    numbers = np.asarray(picture)
    grey = (numbers >> 8).astype(np.uint8)
    if "transparency" in picture.info:
        grey[numbers == picture.info["transparency"]] = 255
    return Image.fromarray(grey)


def check_plain_grey(picture: Image.Image) -> None:
    """Refuse a 16-bit grey TIFF whose numbers are others than Pillow says."""
    if isinstance(picture, TiffImagePlugin.TiffImageFile):
        bits, zero = picture.tag_v2[_BITS], picture.tag_v2[_PHOTOMETRIC]
        if bits != (16,) or zero == 0:  # Pillow neither widens 12 bits nor turns a negative round
            raise ReadError(f"a TIFF of {bits[0]}-bit grey{' where 0 is white' if zero == 0 else ''}")


def turn_of(picture: Image.Image) -> Image.Transpose | None:
    """What brings a picture upright; Pillow has turned a TIFF already."""
    try:
        return _UPRIGHT.get(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF makes Pillow raise anything, and is no reason to lose a picture
        return None


@contextmanager
def translated(formats: tuple[str, ...]) -> Iterator[None]:
    """The one place where Pillow's exceptions become ours; its warnings, of pictures that it reads, end here too."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ReadError:
        raise
    except UnidentifiedImageError as error:
        raise ReadError(f"no picture that can be recognised ({', '.join(formats)})") from error
    except Image.DecompressionBombError as error:
        raise ReadError(f"more pixels than the {PIXELS:,} that are decoded") from error
    except Exception as error:  # a damaged file makes Pillow raise anything
        text = getattr(error, "strerror", None) or (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ReadError(f"can't be read: {text[:120].rstrip('.')}") from error
