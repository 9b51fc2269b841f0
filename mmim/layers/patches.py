"""Cutting arrays on a grid into patches and back, in any number of dimensions."""

from collections.abc import Callable, Sequence
from math import prod

import torch
from einops import rearrange
from jaxtyping import Float, Num
from torch import Tensor, nn

from mmim.errors import OptionError
from mmim.records import Tokens


def check_divides(name: str, size: tuple[int, ...], patch: tuple[int, ...]) -> None:
    """Raise unless the patch divides the size along every axis."""
    if len(size) != len(patch) or any(p < 1 or s % p for s, p in zip(size, patch, strict=True)):
        below = tuple(max(p, s // p * p) if p > 0 else s for s, p in zip(size, patch, strict=True))
        raise OptionError(
            f"{name}: patches of {patch} do not divide {size}. "
            f"Use a size that they divide, {below} for one, or other patches."
        )


def to_patches(data: Num[Tensor, "b c *size"], patch: tuple[int, ...]) -> Num[Tensor, "b n c *patch"]:
    """Patches in raster order, the first axis slowest; each (channel, *patch), the order of a convolution's weight."""
    axes = range(len(patch))
    cut = " ".join(f"(g{i} p{i})" for i in axes)
    grid, inner = " ".join(f"g{i}" for i in axes), " ".join(f"p{i}" for i in axes)
    return rearrange(data, f"b c {cut} -> b ({grid}) c {inner}", **{f"p{i}": p for i, p in enumerate(patch)})


def cut(name: str, data: Num[Tensor, "b c *size"], patch: tuple[int, ...], valid: Tensor | None = None) -> Tokens:
    """Data of any size that the patch divides, as tokens on their grid.

    Raises:
        OptionError: it does not divide it; `name` says whose data they are.
    """
    size = tuple(data.shape[2:])
    check_divides(name, size, patch)
    grid = tuple(extent // step for extent, step in zip(size, patch, strict=True))
    return Tokens(to_patches(data, patch), grid_coords(grid, data.device), valid, grid)


def from_patches(values: Num[Tensor, "b n c *patch"], grid: tuple[int, ...] | None) -> Num[Tensor, "b c *size"]:
    """The inverse of `to_patches`."""
    if grid is None:
        raise OptionError("Patches can't be put together without their grid.")
    axes = range(len(grid))
    cut = " ".join(f"(g{i} p{i})" for i in axes)
    places, inner = " ".join(f"g{i}" for i in axes), " ".join(f"p{i}" for i in axes)
    return rearrange(values, f"b ({places}) c {inner} -> b c {cut}", **{f"g{i}": g for i, g in enumerate(grid)})


def per_channel(numbers: Sequence[float], like: Tensor, axes: int) -> Float[Tensor, "c *ones"]:
    """A number per channel as a tensor that broadcasts over so many axes behind the channel's."""
    return like.new_tensor(numbers).reshape(-1, *[1] * axes)


def grid_coords(grid: tuple[int, ...], device: torch.device | None = None) -> Float[Tensor, "1 n axes"]:
    """Coordinates of every token of a grid, in tokens, raster order."""
    axes = [torch.arange(extent, device=device, dtype=torch.float32) for extent in grid]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(1, prod(grid), len(grid))


def patch_convolution(piece: tuple[int, ...], width: int, *, xavier: bool = False) -> nn.Conv1d | nn.Conv2d | nn.Conv3d:
    """A convolution that steps from patch to patch, initialised as torch does it.

    `xavier` draws the flattened matrix Xavier-uniform instead (MAE).
    """
    convolutions: dict[int, Callable[..., nn.Conv1d | nn.Conv2d | nn.Conv3d]]
    convolutions = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
    convolution = convolutions[len(piece) - 1](piece[0], width, kernel_size=piece[1:], stride=piece[1:])
    if xavier:
        nn.init.xavier_uniform_(convolution.weight.flatten(1))
    return convolution


def embed_patches(
    convolution: nn.Conv1d | nn.Conv2d | nn.Conv3d, patches: Float[Tensor, "b k c *patch"]
) -> Float[Tensor, "b k d"]:
    """What the convolution makes of patches that are cut already."""
    return nn.functional.linear(patches.flatten(2), convolution.weight.flatten(1), convolution.bias)


class PatchEmbed(nn.Module):
    """A linear map of patches, held as a convolution.

    `proj.weight [d c *patch]` is as published code has it, so that weights carry over.

    Initialised as torch initialises a convolution; `xavier` draws the flattened matrix Xavier-uniform instead (MAE).
    With `norm_eps` a LayerNorm follows (Swin).
    """

    def __init__(
        self, piece: tuple[int, ...], width: int, *, xavier: bool = False, norm_eps: float | None = None
    ) -> None:
        super().__init__()
        self.proj = patch_convolution(piece, width, xavier=xavier)
        self.norm = nn.Identity() if norm_eps is None else nn.LayerNorm(width, eps=norm_eps)

    def forward(self, values: Float[Tensor, "b k c *patch"]) -> Float[Tensor, "b k d"]:
        embedded: Tensor = self.norm(embed_patches(self.proj, values))
        return embedded
