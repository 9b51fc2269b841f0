import io
import tarfile

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image, ImageFile

from mmim.data.image_read import PIXELS, read_picture
from mmim.errors import ReadError
from tests.images import encoded, picture, png, png_header, tiff, turned
from tests.videos import shared_data

RGB = picture()
GREY = RGB[..., 0]
ALPHA = np.where(np.mgrid[:24, :40][1] < 20, 0, 255).astype(np.uint8)  # the left half can't be seen
CLEAR = np.dstack([RGB, ALPHA])
HIDDEN = np.where(ALPHA[..., None] == 0, 255, RGB)
WIDE = RGB.astype(np.uint16) * 257
WIDE_ALPHA = ALPHA.astype(np.uint16) * 257
INK = Image.frombytes("CMYK", (40, 24), np.dstack([255 - RGB, np.zeros_like(GREY)]).tobytes())  # without black


def grey(array):
    return np.stack([array] * 3, axis=-1)


def read(tmp_path, data, name="picture"):
    (tmp_path / name).write_bytes(data)
    return read_picture(tmp_path / name)


def palette():
    """Pure colours, which a palette holds exactly."""
    indices = np.repeat([0, 1, 2, 3], 6)[:, None].repeat(8, axis=1).astype(np.uint8)
    image = Image.fromarray(indices).convert("P")
    image.putpalette([10, 20, 30, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    return image, np.array([[10, 20, 30], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)[indices]


PALETTE, COLOURS = palette()
ON_WHITE = np.where((COLOURS[0, 0] == COLOURS).all(axis=2, keepdims=True), 255, COLOURS)
BITS = Image.fromarray(GREY).convert("1")
LOSSLESS = {"lossless": True, "exact": True}

EXACT = {
    "png rgb": (encoded(RGB, "PNG"), RGB),
    "png grey": (encoded(GREY, "PNG"), grey(GREY)),
    "png 1 bit": (encoded(BITS, "PNG"), grey(np.array(BITS) * np.uint8(255))),
    "png palette": (encoded(PALETTE, "PNG"), COLOURS),
    "png palette, one colour transparent": (encoded(PALETTE, "PNG", transparency=0), ON_WHITE),
    "png palette, alpha for each": (encoded(PALETTE, "PNG", transparency=bytes([0, 255, 255, 255])), ON_WHITE),
    "png rgba": (encoded(CLEAR, "PNG"), HIDDEN),
    "png grey and alpha": (encoded(np.dstack([GREY, ALPHA]), "PNG"), np.where(ALPHA[..., None], grey(GREY), 255)),
    "png rgb, one colour transparent": (
        png(COLOURS, 2, depth=8, transparent=(10, 20, 30)),
        ON_WHITE,
    ),
    "png grey, 16 bit": (png(WIDE[..., 0], 0), grey(GREY)),
    "png grey, 16 bit, one transparent": (
        png(WIDE[..., 0], 0, transparent=(WIDE[3, 0, 0],)),
        np.where(grey(GREY) == GREY[3, 0], 255, grey(GREY)),
    ),
    "png rgb, 16 bit": (png(WIDE, 2), RGB),
    "png grey and alpha, 16 bit": (
        png(np.dstack([WIDE[..., 0], WIDE_ALPHA]), 4),
        np.where(ALPHA[..., None], grey(GREY), 255),
    ),
    "png rgba, 16 bit": (png(np.dstack([WIDE, WIDE_ALPHA]), 6), HIDDEN),
    "webp": (encoded(RGB, "WEBP", lossless=True), RGB),
    "webp rgba": (encoded(CLEAR, "WEBP", **LOSSLESS), HIDDEN),
    "bmp": (encoded(RGB, "BMP"), RGB),
    "bmp grey": (encoded(GREY, "BMP"), grey(GREY)),
    "bmp 1 bit": (encoded(BITS, "BMP"), grey(np.array(BITS) * np.uint8(255))),
    "gif": (encoded(PALETTE, "GIF"), COLOURS),
    "gif with a transparent colour": (encoded(PALETTE, "GIF", transparency=0), ON_WHITE),
    "gif grey": (encoded(GREY, "GIF"), grey(GREY)),
    "gif, its first frame": (
        encoded(PALETTE, "GIF", save_all=True, append_images=[Image.new("P", PALETTE.size)]),
        COLOURS,
    ),
    "tiff": (encoded(RGB, "TIFF"), RGB),
    "tiff lzw": (encoded(RGB, "TIFF", compression="tiff_lzw"), RGB),
    "tiff deflate": (encoded(RGB, "TIFF", compression="tiff_adobe_deflate"), RGB),
    "tiff rgba": (encoded(CLEAR, "TIFF"), HIDDEN),
    "tiff palette": (encoded(PALETTE, "TIFF"), COLOURS),
    "tiff cmyk": (encoded(INK, "TIFF"), RGB),
    "tiff, 0 is white": (tiff(255 - GREY, photometric=0), grey(GREY)),
    "tiff grey, 16 bit": (tiff(WIDE[..., 0]), grey(GREY)),
    "tiff grey, 16 bit, big-endian": (tiff(WIDE[..., 0], order=">"), grey(GREY)),
    "tiff rgb, 16 bit": (tiff(WIDE), RGB),
    "tiff rgb, 16 bit, big-endian": (tiff(WIDE, order=">"), RGB),
    "tiff rgba, 16 bit": (tiff(np.dstack([WIDE, WIDE_ALPHA])), HIDDEN),
    "tiff, its first page": (
        encoded(RGB, "TIFF", save_all=True, append_images=[Image.new("RGB", (40, 24))]),
        RGB,
    ),
    "ppm": (encoded(RGB, "PPM"), RGB),
    "pgm": (encoded(GREY, "PPM"), grey(GREY)),
    "pgm, 16 bit": (b"P5 40 24 65535 " + WIDE[..., 0].astype(">u2").tobytes(), grey(GREY)),
    "ppm, 16 bit": (b"P6 40 24 65535 " + WIDE.astype(">u2").tobytes(), RGB),
}  # fmt: skip


@pytest.mark.parametrize("name", EXACT)
def test_every_kind_of_pixel_ends_as_rgb(name, tmp_path):
    data, expected = EXACT[name]
    pixels = read(tmp_path, data)
    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable
    assert_array_equal(pixels, expected)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (encoded(RGB, "JPEG", quality=95, subsampling=0), RGB),
        (encoded(RGB, "JPEG", quality=95, subsampling=0, progressive=True), RGB),
        (encoded(GREY, "JPEG", quality=95), grey(GREY)),
        (encoded(INK, "JPEG", quality=95), RGB),
        (encoded(RGB, "WEBP", quality=95), RGB),
        (encoded(RGB, "TIFF", compression="jpeg", quality=95), RGB),
    ],
    ids=["jpeg", "progressive jpeg", "grey jpeg", "cmyk jpeg, inverted as Adobe writes it", "webp", "jpeg in tiff"],
)  # fmt: skip
def test_lossy_pictures_are_near_what_was_written(data, expected, tmp_path):
    assert np.abs(read(tmp_path, data).astype(int) - expected).mean() < 3


def test_half_transparent_pixels_mix_with_white(tmp_path):
    pixels = read(tmp_path, encoded(np.full((2, 2, 4), (100, 0, 200, 51), np.uint8), "PNG"))
    assert_array_equal(pixels, np.full((2, 2, 3), (224, 204, 244), np.uint8))  # 255 + (x - 255) / 5


def test_numbers_of_16_bits_keep_their_high_byte_and_are_not_clipped(tmp_path):
    numbers = np.array([[0, 255, 256, 12345, 40000, 65535]], np.uint16)
    for data in (png(numbers, 0), tiff(numbers), png(grey(numbers), 2)):
        assert_array_equal(read(tmp_path, data), grey(numbers >> 8))
    naive = np.array(Image.open(io.BytesIO(png(numbers, 0))).convert("RGB"))
    assert (naive[0, 2:] == 255).all()  # Pillow's own conversion clips: the reason for ours


# Turns


def shown(stored, orientation):
    """The stored picture as EXIF wants it shown, by the places of its first row and column."""
    turns = {
        1: stored,
        2: stored[:, ::-1],  # first row top, first column right
        3: stored[::-1, ::-1],  # bottom, right
        4: stored[::-1],  # bottom, left
        5: stored.swapaxes(0, 1),  # left, top
        6: stored.swapaxes(0, 1)[:, ::-1],  # right, top
        7: stored.swapaxes(0, 1)[::-1, ::-1],  # right, bottom
        8: stored.swapaxes(0, 1)[::-1],  # left, bottom
    }
    return turns[orientation]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("form", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("JPEG", {"quality": 95})]
)
def test_the_turn_that_a_camera_wrote_is_carried_out(form, options, orientation, tmp_path):
    pixels = read(tmp_path, encoded(RGB, form, exif=turned(orientation), **options))
    expected = shown(RGB, orientation)
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).mean() < (3 if form == "JPEG" else 1e-9)


@pytest.mark.parametrize(
    "exif",
    [b"Exif\0\0garbage that is no TIFF", b"Exif\0\0II*\0\xff\xff\xff\xff", turned(6)[:20], turned(9), b"Exif\0\0"],
    ids=["no tiff", "beyond its end", "cut", "no such turn", "empty"],
)
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_damaged_exif_is_ignored(exif, form, tmp_path):
    assert_array_equal(read(tmp_path, encoded(RGB, form, exif=exif)), read(tmp_path, encoded(RGB, form)))


def test_a_colour_profile_is_ignored(tmp_path):
    assert_array_equal(read(tmp_path, encoded(RGB, "PNG", icc_profile=b"no profile at all")), RGB)


# What a file is


def test_the_content_decides_not_the_suffix(tmp_path):
    assert_array_equal(read(tmp_path, encoded(RGB, "PNG"), "picture.jpg"), RGB)
    assert_array_equal(read(tmp_path, encoded(RGB, "BMP"), "picture"), RGB)


ANOTHER = {
    "nothing": (b"", "^empty file$"),
    "text": (b"this is a text\n" * 100, r"^no picture that can be recognised \(JPEG, PNG, .*\)$"),
    "postscript": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
        "^no picture that can be recognised",
    ),
    "a header alone": (encoded(RGB, "PNG")[:12], "^no picture that can be recognised|truncated"),
    "no columns": (png_header(0, 5), "^no picture that can be recognised"),
    "no rows": (b"P6 5 0 255 ", "^no picture that can be recognised"),
    "a bomb": (png_header(20_000, 20_000), r"^more pixels than the 100,000,000 that are decoded$"),
    "a large picture": (png_header(12_000, 10_000), r"^12000 x 10000 pixels; at most 100,000,000 are decoded$"),
    "floats": (encoded(GREY.astype(np.float32), "TIFF"), "^floating-point pixels, which have no known range$"),
    "integers": (encoded(GREY.astype(np.int32), "TIFF"), "^signed or 32-bit integer pixels"),
    "12 bit": (tiff(np.zeros((1, 2), np.uint16), bits=12), "^a TIFF of 12-bit grey$"),
    "a negative of 16 bits": (tiff(WIDE[..., 0], photometric=0), "^a TIFF of 16-bit grey where 0 is white$"),
}


@pytest.mark.parametrize("name", ANOTHER)
def test_what_can_not_be_read_gives_its_reason(name, tmp_path):
    data, reason = ANOTHER[name]
    with pytest.raises(ReadError, match=reason) as refused:
        read(tmp_path, data, "picture.png")
    assert str(tmp_path) not in str(refused.value)
    assert len(str(refused.value)) < 160


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(ReadError, match=r"^can't be read: No such file or directory$"):
        read_picture(tmp_path / "absent.png")
    with pytest.raises(ReadError, match=r"^can't be read: Is a directory$"):
        read_picture(tmp_path)


def test_a_picture_of_the_largest_size_passes_the_check(tmp_path):
    with pytest.raises(ReadError, match=r"truncated|broken"):  # it was opened, and holds nothing
        read(tmp_path, png_header(10_000, PIXELS // 10_000))


TEXTURE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)  # whose data fill the files


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {}),
        ("BMP", {}),
        ("GIF", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("PPM", {}),
    ],
)
@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9, 0.98])
def test_a_file_that_breaks_off_is_refused(share, form, options, tmp_path):
    data = encoded(TEXTURE, form, **options)
    with pytest.raises(ReadError):
        read(tmp_path, data[: int(len(data) * share)])
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_damage_anywhere_gives_a_picture_or_a_reason_and_no_warning(form, tmp_path):
    options = {} if form in ("GIF", "BMP", "PPM") else {"exif": turned(6)}
    whole, rng = encoded(RGB, form, **options), np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        data = np.frombuffer(whole, np.uint8).copy()
        data[rng.integers(0, min(len(data), 300), 4)] = rng.integers(0, 256, 4)
        try:
            assert read(tmp_path, data.tobytes()).shape[2] == 3
        except ReadError:
            refused += 1
    assert refused > 0


# Real pictures


@pytest.mark.parametrize("archive", ["caltech101", "sign_digits"])
def test_real_photographs_read_as_pillow_reads_them(archive, tmp_path):
    with tarfile.open(shared_data() / "images" / f"{archive}.tar") as tar:
        members = [member for member in tar.getmembers() if member.name.endswith(".jpg")][::97]
        assert len(members) > 10
        for member in members:
            data = tar.extractfile(member).read()
            with Image.open(io.BytesIO(data)) as image:
                expected = np.array(image.convert("RGB"))
            assert_array_equal(read(tmp_path, data), expected)
