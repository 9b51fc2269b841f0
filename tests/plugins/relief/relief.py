"""Reliefs: heights of a surface in millimetres, as 16-bit maps."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import PIL.Image
import torch
from mmim.data.crops import Filter
from mmim.data.map_read import read_map
from mmim.data.maps import MapModality, shown
from mmim.data.world.picture import direct, outline
from mmim.errors import ReadError
from mmim.layers.patches import cut, from_patches
from mmim.records import Tokens
from mmim.targets.pixels import Pixels
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Relief(MapModality):
    """Metres [b 1 H W] in square patches: values [b n 1 patch patch]; rises are bodies: shape, size, place, motion."""

    suffixes: ClassVar[tuple[str, ...]] = (".relief.png",)
    filter: ClassVar[Filter] = "bilinear"
    target = Pixels(error="absolute")

    @property
    def piece(self) -> tuple[int, ...]:
        return (1, self.patch, self.patch)

    def pixels(self, path: Path) -> Tensor:
        if (heights := read_map(path)).dtype != np.uint16:
            raise ReadError(f"numbers of type {heights.dtype}; heights are millimetres in 16 bits")
        return torch.from_numpy(heights.astype(np.float32) / 1000)[..., None]

    def blank(self) -> Tensor:
        return torch.zeros(1, *self.size)

    def tokenize(self, raw: Any) -> Tokens:
        return cut("Relief", raw.to(torch.get_default_dtype()), self.piece[1:])

    def untokenize(self, values: Tensor, tokens: Tokens) -> Tensor:
        return from_patches(values, tokens.grid)

    def render(self, data: Tensor) -> list[np.ndarray]:
        return shown(data / 4)

    def features(self, raw: Any) -> Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(raw, (24, 24)).flatten(1)

    def depict(self, scene: Any, path: Path) -> None:
        rng = scene.nuisance("relief")
        heights = rng.uniform(100, 400) + rng.uniform(0, 40, (96, 96)) + 3 * np.arange(96) * rng.uniform(-1, 1)
        body = outline(scene, direct(scene, rng, rng.random(1)), 96)
        (left, top), rise = body.corners[0], 2500 * np.sqrt(np.clip(-body.distance[0], 0, 1))
        heights[top : top + len(rise), left : left + len(rise)] += rise
        PIL.Image.fromarray(np.clip(heights, 0, 65535).astype(np.uint16)).save(path, format="PNG")
