"""Semantic maps: which class each pixel of a picture belongs to, in square patches."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import PIL.Image
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, one_hot

from mmim.data.crops import Filter
from mmim.data.map_read import read_map
from mmim.data.maps import MapModality
from mmim.data.world import relief
from mmim.errors import ReadError, expect
from mmim.layers.class_embed import ClassPatchEmbed
from mmim.layers.patches import cut, from_patches
from mmim.layers.positions import MapPositions
from mmim.modality import Target, Vocabulary
from mmim.records import Tokens
from mmim.targets.ids import NO_ID, Ids

FLOOR = (4, 4)  # rows, columns of the plain features
VOID = 255
"""Stands in a sample where there is no class, whatever it is in the file."""


@dataclass(frozen=True, kw_only=True)
class SemSeg(MapModality):
    """Maps of class ids in square patches.

    Input   [b 1 H/stride W/stride], uint8: the ids of a grey file or the indices of a palette, resized by the nearest
            pixel; 255 where the file has `void`
    Tokens  n = H / patch * W / patch, row by row from the top left; values [b n p p] with p = patch / stride, ids of
            classes, -1 where there is none; coords (row, column) in tokens
    Void    pixels of no class are not embedded (zeros stand there), not predicted, and not counted in their token's
            mean; a token of nothing else counts with a loss of 0. Any other id that is no class makes a file unreadable
    Paper   Bachmann et al. 2022 (MultiMAE), sections 3.1 and 4.1, arXiv:2204.01678; there, no void
    """

    suffixes: ClassVar[tuple[str, ...]] = (".semseg.png", ".semseg.npy")
    target: ClassVar[Target] = Ids()

    positions: MapPositions = "sincos_row_first"
    """The position codes (MultiMAE: sincos_row_first)."""
    classes: int = 133
    """Classes, with ids from 0 (MultiMAE: the 133 of COCO); at most 255."""
    stride: int = 4
    """Pixels of `size` to one of the map that is kept (MultiMAE: 4)."""
    class_width: int = 64
    """Width of the vectors of classes, of which a patch is embedded (MultiMAE: 64)."""
    void: int | None = 255
    """The id of pixels without a class (usual: 255); None: there are none (MultiMAE)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        expect(1 <= self.classes <= VOID, self.classes, f"from 1 to {VOID}", "SemSeg.classes")
        expect(self.class_width >= 1, self.class_width, "at least 1", "SemSeg.class_width")
        divides = self.stride >= 1 and self.patch % self.stride == 0
        expect(divides, self.stride, f"at least 1 and a divisor of the patch, {self.patch}", "SemSeg.stride")

    @property
    def filter(self) -> Filter:
        return "nearest"

    @property
    def extent(self) -> tuple[int, int]:
        return self.size[0] // self.stride, self.size[1] // self.stride

    @property
    def piece(self) -> tuple[int, ...]:
        return (self.patch // self.stride, self.patch // self.stride)

    @property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(self.classes, mask=None)

    def blank(self) -> UInt8[Tensor, "1 h w"]:
        return torch.zeros(1, *self.extent, dtype=torch.uint8)

    def pixels(self, path: Path) -> UInt8[Tensor, "h w 1"]:
        ids = read_map(path)
        if ids.dtype.kind not in "iu":
            raise ReadError(f"numbers of type {ids.dtype}; ids of classes are whole")
        void = np.zeros(ids.shape, dtype=bool) if self.void is None else ids == self.void
        wrong = ids[~void & ((ids < 0) | (ids >= self.classes))]
        if wrong.size:
            known = f"0 to {self.classes - 1}" + ("" if self.void is None else f", and {self.void} for none")
            raise ReadError(f"the id {wrong[0]}, which is no class: they are {known}")
        return torch.from_numpy(np.where(void, VOID, ids).astype(np.uint8))[..., None]

    def tokenize(self, raw: UInt8[Tensor, "b 1 h w"]) -> Tokens:  # type: ignore[override]
        ids = raw.long()
        tokens = cut("SemSeg", ids.masked_fill(ids == VOID, NO_ID), self.piece)
        return replace(tokens, values=tokens.values[:, :, 0])

    def untokenize(self, values: Int64[Tensor, "b n *piece"], tokens: Tokens) -> Int64[Tensor, "b 1 h w"]:
        return from_patches(values[:, :, None], tokens.grid)

    def raw(self, values: Int64[Tensor, "b n *piece"]) -> Int64[Tensor, "b n *piece"]:
        return values

    def embedder(self, width: int) -> nn.Module:
        return ClassPatchEmbed(self.classes, self.class_width, self.piece[0], width)

    def render(self, data: Int64[Tensor, "b 1 h w"]) -> list[UInt8[np.ndarray, "h w 3"]]:
        """A colour for each class; black below the first and white beyond the last."""
        ids = data[:, 0].clamp(-1, self.classes).cpu().numpy() + 1
        return list(_colours(self.classes)[ids])

    def features(self, raw: UInt8[Tensor, "b 1 h w"]) -> Float[Tensor, "b p"]:  # type: ignore[override]
        """The share of each class in 4 x 4 blocks: p = 16 classes."""
        ids = raw[:, 0].long()
        classes = one_hot(ids.masked_fill(ids == VOID, self.classes), self.classes + 1)[..., :-1]
        return adaptive_avg_pool2d(classes.movedim(-1, 1).to(torch.get_default_dtype()), FLOOR).flatten(1)

    def depict(self, scene: Any, path: Path) -> None:
        """The scene's object in the class of its shape before a background of class 0, in PNG."""
        PIL.Image.fromarray(relief.classes(scene, scene.nuisance("semseg"))).save(path, format="PNG")


def _colours(classes: int) -> UInt8[np.ndarray, "n 3"]:
    """Black, a colour far from its neighbours' for each class, white."""
    at = np.arange(classes)
    turns = 2 * np.pi * (at[:, None] * 0.618034 + np.arange(3) / 3)  # the golden ratio never comes near itself
    own = (140 - 30 * (at[:, None] % 3) + 80 * np.cos(turns)).astype(np.uint8)
    return np.concatenate([np.zeros((1, 3), np.uint8), own, np.full((1, 3), 255, np.uint8)])
