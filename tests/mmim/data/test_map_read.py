import numpy as np
import PIL.Image
import pytest

from mmim.data.map_read import read_map
from mmim.errors import ReadError
from tests import clouds, images

NUMBERS = np.arange(35, dtype=np.uint8).reshape(5, 7)


def stored(path, data):
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("numbers", "form"),
    [
        (NUMBERS, "PNG"),
        (NUMBERS, "TIFF"),
        (NUMBERS.astype(np.uint16) * 1001, "PNG"),
        (NUMBERS.astype(np.uint16) * 1001, "TIFF"),
        (NUMBERS.astype(np.float32) / 3, "TIFF"),
    ],
)
def test_a_picture_of_one_channel_gives_its_numbers(numbers, form, tmp_path):
    found = read_map(stored(tmp_path / "map", images.encoded(numbers, form)))
    assert found.dtype == numbers.dtype
    np.testing.assert_array_equal(found, numbers)


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_byte_order_of_a_file_does_not_matter(order, tmp_path):
    numbers = NUMBERS.astype(np.uint16) * 1001
    for data in (images.tiff(numbers, order=order), clouds.npy(numbers.astype(f"{order}u2"))):
        found = read_map(stored(tmp_path / "map", data))
        assert found.dtype == np.uint16
        np.testing.assert_array_equal(found, numbers)


@pytest.mark.parametrize("kind", ["i1", "i4", "u8", "f2", "f8"])
def test_an_array_keeps_its_type(kind, tmp_path):
    found = read_map(stored(tmp_path / "map", clouds.npy(np.asfortranarray(NUMBERS.astype(kind)))))
    assert found.dtype == np.dtype(kind)
    np.testing.assert_array_equal(found, NUMBERS)


def test_a_palette_gives_indices_and_two_tones_give_0_and_1(tmp_path):
    palette = PIL.Image.fromarray(NUMBERS)
    palette.putpalette([255 - i // 3 for i in range(768)])
    assert palette.mode == "P"
    np.testing.assert_array_equal(read_map(stored(tmp_path / "p", images.encoded(palette, "PNG"))), NUMBERS)
    two = read_map(stored(tmp_path / "1", images.encoded(NUMBERS * 8, "PNG", mode="1")))
    assert two.dtype == np.uint8
    assert set(two.flat) == {0, 1}


def test_a_map_is_turned_upright_as_pictures_are(tmp_path):
    data = images.encoded(NUMBERS, "PNG", exif=images.turned(6))
    np.testing.assert_array_equal(read_map(stored(tmp_path / "map", data)), np.rot90(NUMBERS, -1))


GREY4 = images.png(NUMBERS[:, :4], 0, depth=4)
REFUSED = {
    "empty": (b"", "^empty file$"),
    "colours": (images.encoded(images.picture(), "PNG"), "^pixels of the kind RGB; a map has one number for each"),
    "alpha": (images.encoded(NUMBERS, "PNG", mode="LA"), "^pixels of the kind LA"),
    "JPEG": (images.encoded(NUMBERS, "JPEG"), r"^no picture that can be recognised \(PNG, TIFF, NPY\)$"),
    "4 bits": (GREY4, "^4-bit grey, which is stretched to 8 bits when decoded: save it with 8$"),
    "32 bits": (images.encoded(NUMBERS.astype(np.int32), "TIFF"), "^pixels of the kind I;"),
    "0 is white": (images.tiff(NUMBERS.astype(np.uint16), photometric=0), "^a TIFF of 16-bit grey where 0 is white$"),
    "cut": (images.encoded(images.picture()[..., 0], "PNG")[:-30], "truncated"),
    "array of objects": (clouds.npy(np.array([[None] * 3] * 9)), "^an array of type object; a map is of numbers$"),
    "array of truths": (clouds.npy(NUMBERS > 3), "^an array of type bool; a map is of numbers$"),
    "array of three axes": (clouds.npy(NUMBERS[None]), r"^an array of shape \(1, 5, 7\); a map is \(rows, columns\)$"),
    "array of nothing": (clouds.npy(NUMBERS[:0]), r"^an array of shape \(0, 7\); a map is"),
    "array cut": (clouds.npy(NUMBERS)[:-1], "^truncated: it holds less than its header says$"),
    "array that promises too much": (clouds.npy_head((10**6, 10**6)), "^1000000 x 1000000 pixels; at most"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_map_gives_its_reason(case, tmp_path):
    data, reason = REFUSED[case]
    with pytest.raises(ReadError, match=reason):
        read_map(stored(tmp_path / "map", data))
