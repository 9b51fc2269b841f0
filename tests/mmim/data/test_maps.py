"""A stranger's map in one short class, and the view that all maps of a sample share."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d
from torch.testing import assert_close

from mmim.data.crops import Filter
from mmim.data.map_read import read_map
from mmim.data.maps import MapModality, shown
from mmim.data.world import relief
from mmim.draw import Draw
from mmim.layers.patches import PatchEmbed, cut, from_patches
from mmim.modality import Source, Target
from mmim.records import Tokens
from mmim.targets.pixels import Pixels
from mmim.testing import MODALITY_CHECKS, depicted, run
from modalities.depth import Depth
from modalities.image import Image
from modalities.semseg import SemSeg


@dataclass(frozen=True, kw_only=True)
class Thermal(MapModality):
    """Pictures of a thermal camera: 8-bit grey, as shares of its range."""

    suffixes: ClassVar[tuple[str, ...]] = (".thermal.png",)
    target: ClassVar[Target] = Pixels(normalise="token")

    @property
    def filter(self) -> Filter:
        return "bilinear"

    @property
    def piece(self) -> tuple[int, ...]:
        return (1, self.patch, self.patch)

    def blank(self) -> Tensor:
        return torch.zeros(1, *self.size, dtype=torch.uint8)

    def pixels(self, path: Path) -> Tensor:
        return torch.from_numpy(read_map(path).astype(np.uint8))[..., None]

    def tokenize(self, raw: Tensor) -> Tokens:
        return cut("Thermal", raw.to(torch.get_default_dtype()) / 255, self.piece[1:])

    def untokenize(self, values: Tensor, tokens: Tokens) -> Tensor:
        return from_patches(values, tokens.grid)

    def raw(self, values: Tensor) -> Tensor:
        return values

    def embedder(self, width: int) -> nn.Module:
        return PatchEmbed(self.piece, width, xavier=True)

    def render(self, data: Tensor) -> list[np.ndarray]:
        return shown(data)

    def features(self, raw: Tensor) -> Tensor:
        return adaptive_avg_pool2d(raw / 255, (24, 24)).flatten(1)

    def depict(self, scene: Any, path: Path) -> None:
        grey = relief.distances(scene, scene.nuisance("thermal")) >> 4
        PIL.Image.fromarray(grey.astype(np.uint8)).save(path, format="PNG")


THERMAL = Thermal(size=(32, 32), patch=8)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return depicted(THERMAL, tmp_path_factory.mktemp("thermal"), 4)


@pytest.mark.parametrize("check", MODALITY_CHECKS, ids=lambda check: check.__name__)
def test_a_stranger_s_map_honours_the_contract(check, files):
    run(check, THERMAL, files)


# One view


def rows_and_columns(height, width):
    """The row of each pixel and its column, as shares of the extent."""
    y, x = (np.mgrid[:height, :width] + 0.5) / np.array([height, width])[:, None, None]
    return y, x


@pytest.fixture
def sample(tmp_path):
    """A picture with rows in red and columns in green; depths that are columns; classes that are columns."""
    y, x = rows_and_columns(240, 320)
    colours = np.stack([255 * y, 255 * x, 0 * x], axis=-1).round().astype(np.uint8)
    PIL.Image.fromarray(colours).save(tmp_path / "a.png")
    PIL.Image.fromarray((60000 * x).round().astype(np.uint16)).save(tmp_path / "a.depth.png")
    PIL.Image.fromarray((100 * x).astype(np.uint8)).save(tmp_path / "a.semseg.png")
    return {name: Source(tmp_path / f"a{name}") for name in (".png", ".depth.png", ".semseg.png")}


@pytest.mark.parametrize("key", range(6))
def test_picture_depth_and_classes_of_a_sample_show_the_same_part(key, sample):
    draw = Draw(torch.tensor([key]))
    image, depth, semseg = Image(size=(64, 64)), Depth(size=(64, 64)), SemSeg(size=(64, 64), classes=100)
    columns = image.read(sample[".png"], draw)[1] / 255
    assert_close(depth.read(sample[".depth.png"], draw)[0] * 65536 / 60000, columns, rtol=0, atol=0.01)
    coarse = columns.reshape(16, 4, 16, 4).mean(dim=(1, 3))
    assert_close(semseg.read(sample[".semseg.png"], draw)[0] / 100, coarse, rtol=0, atol=0.03)


def test_some_of_the_views_above_are_mirrored_and_all_are_cropped(sample):
    image = Image(size=(64, 64))
    views = [image.read(sample[".png"], Draw(torch.tensor([key])))[1] / 255 for key in range(6)]
    assert 0 < sum(bool(view[0, 0] > view[0, -1]) for view in views) < 6
    assert all(view.max() - view.min() < 0.99 for view in views)


def test_a_map_of_half_the_resolution_shows_the_same_part(sample, tmp_path):
    _, x = rows_and_columns(120, 160)
    PIL.Image.fromarray((60000 * x).round().astype(np.uint16)).save(tmp_path / "half.png")
    depth = replace(Depth(size=(64, 64)), flip=True)
    for key in range(6):
        draw = Draw(torch.tensor([key]))
        full, half = depth.read(sample[".depth.png"], draw), depth.read(Source(tmp_path / "half.png"), draw)
        assert_close(half, full, rtol=0, atol=0.01)


def test_grey_and_colour_are_shown_between_black_and_white():
    grey, colour = shown(torch.tensor([[[[-1.0, 0.5, 2.0]]]])), shown(torch.ones(1, 3, 1, 1) * 0.2)
    assert grey[0].tolist() == [[[0, 0, 0], [128, 128, 128], [255, 255, 255]]]
    assert colour[0].tolist() == [[[51, 51, 51]]]
