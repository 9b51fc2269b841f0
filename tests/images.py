"""Picture files for tests: what Pillow writes, what it does not (16-bit colour), and ways to spoil them."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def picture(height=24, width=40):
    """Smooth colours that differ from place to place, so that a turn, a mirror and a swap of channels all show."""
    y, x = np.mgrid[:height, :width] / (height, width)[0]
    waves = [230 * y / y.max() + 10, 200 * x / x.max() + 30, 120 + 90 * np.sin(3 * x + y)]
    return np.stack(waves, axis=-1).round().astype(np.uint8)


def encoded(array, form, mode=None, **options):
    """The bytes of a file: an array, or a Pillow image, in Pillow's name of a format."""
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    file = io.BytesIO()
    (image if mode is None else image.convert(mode)).save(file, form, **options)
    return file.getvalue()


def turned(orientation, **more):
    """EXIF with an orientation from 1 to 8."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def png(array, colour, *, transparent=None, depth=16):
    """A PNG of any colour type (0 grey, 2 RGB, 4 grey with alpha, 6 RGBA) and depth, with a transparent colour."""
    array = np.asarray(array, ">u2" if depth == 16 else "u1")
    rows = b"".join(b"\0" + row.tobytes() for row in array)
    size = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], depth, colour, 0, 0, 0)
    key = b"" if transparent is None else _chunk(b"tRNS", np.asarray(transparent, ">u2").tobytes())
    data = _chunk(b"IHDR", size) + key + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def png_header(width, height):
    """A PNG that promises so many pixels and holds none."""
    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", size) + _chunk(b"IDAT", b"") + _chunk(b"IEND", b"")


def _chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def tiff(array, *, order="<", photometric=None, bits=None, samples=None):
    """An uncompressed TIFF: grey, RGB or RGBA; uint8 or uint16; either byte order. `bits` and `photometric` may lie."""
    samples = samples or (array.shape[2] if array.ndim == 3 else 1)
    depth = bits or 8 * array.itemsize
    photometric = (1 if samples == 1 else 2) if photometric is None else photometric
    pixels = array.astype(array.dtype.newbyteorder(order)).tobytes()
    tags = [(256, 4, array.shape[1]), (257, 4, array.shape[0]), (259, 3, 1), (262, 3, photometric)]
    tags += [(277, 3, samples), (278, 4, array.shape[0]), (279, 4, len(pixels))]
    tags += [(338, 3, 2)] if samples == 4 else []
    behind = 8 + 2 + 12 * (len(tags) + 2) + 4
    depths = struct.pack(f"{order}{samples}H", *[depth] * samples) if samples > 1 else b""
    tags.append((273, 4, behind + len(depths)))
    entries = {tag: struct.pack(f"{order}HHI", tag, kind, 1) + _number(order, kind, value) for tag, kind, value in tags}
    many = struct.pack(f"{order}HHII", 258, 3, samples, behind)
    entries[258] = many if depths else struct.pack(f"{order}HHI", 258, 3, 1) + _number(order, 3, depth)
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, len(entries))
    return head + b"".join(entries[tag] for tag in sorted(entries)) + bytes(4) + depths + pixels


def _number(order, kind, value):
    return struct.pack(f"{order}I", value) if kind == 4 else struct.pack(f"{order}HH", value, 0)
