from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from mmim.data.crops import Window, centre_window, multi_scale_window, random_resized_window, resized_crop
from mmim.draw import Draw
from tests.images import picture

SIZES = [(240, 320), (320, 240), (77, 101), (48, 48), (1, 1), (5, 200)]


def draws(count=400):
    return [Draw(torch.tensor([key])) for key in range(count)]


@pytest.mark.parametrize("window", [random_resized_window, multi_scale_window])
@pytest.mark.parametrize("size", SIZES)
def test_windows_lie_inside_the_picture(window, size):
    for draw in draws(200):
        top, left, height, width = window(*size, draw)
        assert 0 <= top <= top + height <= size[0]
        assert 0 <= left <= left + width <= size[1]
        assert min(height, width) >= 1


@pytest.mark.parametrize("window", [random_resized_window, multi_scale_window])
def test_equal_keys_give_equal_windows_and_others_give_others(window):
    first = [window(240, 320, draw) for draw in draws()]
    assert first == [window(240, 320, draw) for draw in draws()]
    assert len(set(first)) > 60


def test_multi_scale_has_ten_shapes_and_thirteen_places_each_equally_likely():
    windows = [multi_scale_window(240, 320, draw) for draw in draws(1500)]
    shapes = Counter((window.height, window.width) for window in windows)
    sides = [240, 210, 180, 158]
    assert set(shapes) == {(a, b) for i, a in enumerate(sides) for j, b in enumerate(sides) if abs(i - j) <= 1}
    assert min(shapes.values()) > 1500 / 10 * 0.7

    places = Counter((window.top, window.left) for window in windows if (window.height, window.width) == (180, 180))
    down, across = 60 // 4, 140 // 4
    corners_edges_centre = {(a * down, b * across) for a in (0, 2, 4) for b in (0, 2, 4)}
    assert set(places) == corners_edges_centre | {(a * down, b * across) for a in (1, 3) for b in (1, 3)}
    assert len(places) == 13


def test_random_resized_areas_and_aspects_fill_their_ranges():
    windows = [random_resized_window(480, 640, draw, scale=(0.2, 0.6), ratio=(0.5, 2.0)) for draw in draws()]
    areas = torch.tensor([window.height * window.width / (480 * 640) for window in windows])
    aspects = torch.tensor([window.width / window.height for window in windows])
    assert (areas.min(), areas.max()) == (pytest.approx(0.2, abs=0.01), pytest.approx(0.6, abs=0.03))
    assert (aspects.min(), aspects.max()) == (pytest.approx(0.5, abs=0.02), pytest.approx(2.0, abs=0.05))
    assert len({window.top for window in windows}) > 100


@pytest.mark.parametrize(("size", "expected"), [((10, 400), (10, 13)), ((400, 10), (13, 10))])
def test_a_picture_that_no_try_fits_gives_its_middle_at_the_nearest_aspect(size, expected):
    height, width = expected
    middle = Window((size[0] - height) // 2, (size[1] - width) // 2, height, width)
    assert {random_resized_window(*size, draw, scale=(0.9, 1.0)) for draw in draws(20)} == {middle}


def test_the_centre_is_the_largest_square_in_the_middle():
    assert centre_window(240, 320) == (0, 40, 240, 240)
    assert centre_window(101, 77) == (12, 0, 77, 77)


@pytest.mark.parametrize(
    ("picture", "size", "expected"),
    [
        ((240, 320), (224, 224), (0, 40, 240, 240)),
        ((240, 320), (48, 96), (40, 0, 160, 320)),  # all of the width
        ((240, 320), (96, 48), (0, 100, 240, 120)),  # all of the height
        ((32, 48), (64, 96), (0, 0, 32, 48)),  # all of it
        ((1, 400), (8, 2), (0, 199, 1, 1)),
        ((400, 1), (2, 8), (199, 0, 1, 1)),
    ],
)
def test_the_centre_of_another_aspect_is_the_largest_window_that_has_it(picture, size, expected):
    assert centre_window(*picture, size) == expected


@pytest.mark.parametrize("size", [(7, 5), (224, 224), (16, 96), (3, 1)])
@pytest.mark.parametrize("picture", [*SIZES, (233, 377), (1000, 3)])
def test_a_centre_window_lies_inside_touches_two_edges_and_has_the_aspect(picture, size):
    top, left, height, width = centre_window(*picture, size)
    assert 0 <= top <= top + height <= picture[0]
    assert 0 <= left <= left + width <= picture[1]
    assert min(height, width) >= 1
    assert height == picture[0] or width == picture[1]
    assert abs(height - width * size[0] / size[1]) <= max(1.0, size[0] / size[1])


def test_all_frames_are_cropped_alike():
    frame = torch.randint(0, 256, (60, 80, 3), dtype=torch.uint8)
    clip = resized_crop(frame.repeat(5, 1, 1, 1), multi_scale_window(60, 80, draws(1)[0]), 32)
    assert clip.shape == (5, 32, 32, 3)
    assert (clip == clip[0]).all()


@pytest.mark.parametrize("size", [16, 48, 96])
def test_a_resize_is_that_of_torchvision_on_the_window(size):
    clip = torch.randint(0, 256, (3, 60, 80, 3), dtype=torch.uint8)
    window = Window(4, 9, 48, 40)
    cut = clip[:, 4:52, 9:49].permute(0, 3, 1, 2)
    expected = v2.functional.resize(cut, [size, size], antialias=True).permute(0, 2, 3, 1)
    torch.testing.assert_close(resized_crop(clip, window, size), expected, rtol=0, atol=0)


def test_a_window_of_the_wanted_size_is_not_changed():
    clip = torch.randint(0, 256, (3, 60, 80, 3), dtype=torch.uint8)
    assert torch.equal(resized_crop(clip, Window(4, 9, 32, 32), 32), clip[:, 4:36, 9:41])


def test_a_window_of_the_wanted_size_that_is_no_square_is_not_changed():
    clip = torch.randint(0, 256, (3, 60, 80, 3), dtype=torch.uint8)
    assert torch.equal(resized_crop(clip, Window(4, 9, 32, 48), (32, 48), "bicubic"), clip[:, 4:36, 9:57])


FILTERS = {"bilinear": v2.InterpolationMode.BILINEAR, "bicubic": v2.InterpolationMode.BICUBIC}
TOLERANCE = {"bilinear": 1, "bicubic": 2}  # grey levels; both round weights and between the axes
SURFACES = {
    "smooth": picture(200, 300),
    "noise": np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8),
    "edges": np.kron(np.random.default_rng(1).integers(0, 2, (20, 30, 1)) * 255, np.ones((10, 10, 3))).astype(np.uint8),
}  # edges overshoot the range where the filter is bicubic


@pytest.mark.parametrize("surface", SURFACES)
@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("size", [(224, 224), (64, 64), (48, 96), (31, 17)])
@pytest.mark.parametrize("window", [Window(3, 20, 150, 200), Window(0, 0, 200, 300), Window(100, 50, 40, 30)])
def test_a_crop_is_within_rounding_that_of_torchvision_on_a_pillow_image(window, size, interpolation, surface):
    pixels = SURFACES[surface]
    wanted = v2.functional.resized_crop(Image.fromarray(pixels), *window, list(size), FILTERS[interpolation])
    (crop,) = resized_crop(torch.from_numpy(pixels)[None], window, size, interpolation)
    assert (crop.int() - torch.from_numpy(np.array(wanted)).int()).abs().max() <= TOLERANCE[interpolation]


@pytest.mark.parametrize("shape", [(40, 64), (13, 7), (90, 33)])
def test_nearest_takes_what_pillow_takes_and_nothing_between(shape):
    ids = torch.randint(0, 256, (1, *shape, 1), dtype=torch.uint8)
    window = Window(2, 1, shape[0] - 4, shape[1] - 3)
    ours = resized_crop(ids, window, (16, 20), "nearest")[0, ..., 0]
    cropped = Image.fromarray(ids[0, 2 : shape[0] - 2, 1 : shape[1] - 2, 0].numpy())
    theirs = np.asarray(cropped.resize((20, 16), Image.Resampling.NEAREST))
    np.testing.assert_array_equal(ours.numpy(), theirs)


@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
def test_floats_are_resized_without_rounding(kind):
    numbers = torch.rand(1, 40, 64, 1)
    ours = resized_crop(numbers, Window(0, 0, 40, 64), (16, 20), kind)[0, ..., 0]
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    theirs = Image.fromarray(numbers[0, ..., 0].numpy()).resize((20, 16), filters[kind])
    torch.testing.assert_close(ours, torch.from_numpy(np.array(theirs)), rtol=0, atol=1e-5)
