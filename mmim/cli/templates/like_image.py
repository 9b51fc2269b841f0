"""NewName: maps with a number for each pixel, beside pictures. What to change first is marked CHANGE."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import PIL.Image
import torch
from mmim.data.crops import Filter
from mmim.data.map_read import read_map
from mmim.data.maps import MapModality, shown
from mmim.data.world.picture import still
from mmim.layers.patches import PatchEmbed, cut, from_patches
from mmim.records import Tokens
from mmim.targets.pixels import Pixels
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class NewName(MapModality):
    """Maps [b 1 H W] in square patches: values [b n 1 patch patch]. MapModality crops and mirrors."""

    suffixes: ClassVar[tuple[str, ...]] = (".newname.png", ".newname.npy")  # CHANGE
    filter: ClassVar[Filter] = "bilinear"  # of the resize; "nearest" for what can't be averaged
    target = Pixels()  # what is predicted, unless a recipe says otherwise
    full: float = 255.0  # CHANGE: the number that becomes 1 (of 16 bits: 65535; of degrees: the largest that matters)

    @property
    def piece(self) -> tuple[int, ...]:  # the content of a token: channels, rows, columns
        return (1, self.patch, self.patch)

    def pixels(self, path: Path) -> Tensor:  # CHANGE: all of a file as [h w 1]; raises ReadError for any other file
        return torch.from_numpy(read_map(path).astype(np.float32) / np.float32(self.full))[..., None]

    def blank(self) -> Tensor:  # a sample without this modality: zeros like what is read
        return torch.zeros(1, *self.size)

    def tokenize(self, raw: Any) -> Tokens:  # CHANGE: subtract the mean of your data, divide by their deviation
        return cut("NewName", (raw.to(torch.get_default_dtype()) - 0.5) / 0.1, self.piece[1:])

    def raw(self, values: Tensor) -> Tensor:  # CHANGE: the inverse of this normalisation
        return values * 0.1 + 0.5

    def untokenize(self, values: Tensor, tokens: Tokens) -> Tensor:  # the inverse of the cut
        return from_patches(values, tokens.grid)

    def embedder(self, width: int) -> nn.Module:  # from the content of a token to a vector
        return PatchEmbed(self.piece, width, xavier=True)

    def render(self, data: Tensor) -> list[np.ndarray]:  # for a person: 0 is black, 1 is white
        return shown(data)

    def features(self, raw: Any) -> Tensor:  # without learning: the floor that embeddings have to beat
        return nn.functional.adaptive_avg_pool2d(raw, (24, 24)).flatten(1)

    def depict(self, scene: Any, path: Path) -> None:  # CHANGE: what your device makes of a scene of the sample world
        grey = still(scene, scene.nuisance("newname")).mean(axis=2)
        PIL.Image.fromarray(grey.astype(np.uint8)).save(path, format="PNG")
