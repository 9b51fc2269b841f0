"""SimMIM's weights, as its code writes them: with a ViT or a Swin."""

from collections.abc import Callable
from dataclasses import replace
from math import isqrt
from typing import ClassVar, cast

import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor

from mmim.encoders.encoder import Encoder
from mmim.encoders.joint import JointEncoder
from mmim.encoders.swin import SwinEncoder
from mmim.errors import CheckpointError, OptionError
from mmim.interop.converter import Importer, Options
from mmim.interop.files import Weights
from mmim.interop.keys import Ledger
from mmim.interop.vit import Grid, bias_of, block_names, mlp_ratio, move_affine, move_blocks, square_patch
from mmim.layers.patches import grid_coords, to_patches
from mmim.layers.relative import offsets
from mmim.masking.budget import Ratio
from mmim.masking.cell import CellMasking
from mmim.model import Method
from modalities.image import Image
from recipes.simmim import SIMMIM, SWIN, VIT

CELL = 32
"""Side of what is hidden together, in pixels."""
SEAM = -100.0
"""What Swin's mask of a shifted window adds to the logits across its seam."""
TABLE, INDEX = "relative_position_bias_table", "relative_position_index"


class SimMIMImporter(Importer):
    """From the official SimMIM (github.com/microsoft/SimMIM), with or without its head."""

    about: ClassVar[str] = "Official SimMIM: images, ViT or Swin encoder, with or without the linear head."

    def convert(self, ledger: Ledger, weights: Weights, options: Options) -> Method:
        prefix = "encoder." if "encoder.patch_embed.proj.weight" in ledger else ""
        shape = ledger.shape(f"{prefix}patch_embed.proj.weight", 4)
        if shape[1] != 3:
            raise CheckpointError(f"SimMIM sees 3 colours, and this file {shape[1]} channels.")
        patch = square_patch(shape)
        swin = f"{prefix}layers.0.blocks.0.norm1.weight" in ledger
        read: Callable[..., tuple[Encoder, Grid]] = _swin if swin else _vit
        encoder, grid = read(ledger, prefix, shape[0], patch, options)
        size = (grid[0] * patch, grid[1] * patch)
        image = replace(cast("Image", SIMMIM.modalities["image"]), size=size, patch=patch, embed_norm=swin)
        move_affine(ledger, "trunk.embedders.image.proj", f"{prefix}patch_embed.proj")
        move_affine(ledger, "trunk.encoder.norm", f"{prefix}norm")
        ledger.move("trunk.corruption.image.mask_token", f"{prefix}mask_token")
        head = "decoder.0.weight" in ledger
        if head:
            _move_head(ledger, encoder.stride, patch)
        budget = cast("Ratio", SIMMIM.budget)
        return Method(
            modalities={"image": image},
            masking={"image": CellMasking(cell=max(CELL // patch, 1))},
            budget=replace(budget, ratio=options.need("ratio", budget.ratio, "the ratio")),
            corruption=SIMMIM.corruption,
            encoder=encoder,
            decoders=SIMMIM.decoders if head else {},
            tasks=SIMMIM.tasks if head else {},
            objective=SIMMIM.objective if head else {},
        )


def _move_head(ledger: Ledger, stride: int, patch: int) -> None:
    """A 1 x 1 convolution before a pixel shuffle, as a linear map to tokens."""
    rows, side = ledger.shape("decoder.0.weight", 4)[0], stride * patch
    if rows != 3 * side**2:
        raise CheckpointError(
            f"'decoder.0.weight' predicts {rows} numbers, and a latent stands for 3 x {side} x {side} of them."
        )

    def ours(x: Float[Tensor, "colour_row_column *rest"]) -> Float[Tensor, "row_column_values *rest"]:
        return rearrange(x, "(c f r g s) ... -> (f g r s c) ...", c=3, f=stride, r=patch, g=stride, s=patch)

    ledger.move("decoders.image.heads.image.weight", "decoder.0.weight", lambda weight: ours(weight).flatten(1))
    ledger.move("decoders.image.heads.image.bias", "decoder.0.bias", ours)


def _vit(ledger: Ledger, prefix: str, width: int, patch: int, options: Options) -> tuple[JointEncoder, Grid]:
    """The ViT with one relative bias for all blocks."""
    table = f"{prefix}rel_pos_bias.{TABLE}"
    rows, heads = ledger.shape(table, 2)
    grid = _grid(rows, patch, options)
    ledger.move("trunk.encoder.relative.table", table)
    index = f"{prefix}rel_pos_bias.{INDEX}"
    if index in ledger:
        ledger.expect(index, _beit_index(grid, rows), "the index of a table over offsets, row by row")
    ledger.move("trunk.encoder.global_tokens", f"{prefix}cls_token")
    depth, first = ledger.count(f"{prefix}blocks."), f"{prefix}blocks.0."
    bias, scaled = bias_of(ledger, first), f"{first}gamma_1" in ledger
    names = block_names(bias, *(("gamma_1", "gamma_2") if scaled else ()))
    move_blocks(ledger, "trunk.encoder.blocks.", f"{prefix}blocks.", depth, names)
    encoder = replace(
        VIT,
        width=width,
        depth=depth,
        heads=heads,
        bias=bias,
        mlp_ratio=mlp_ratio(ledger, first),
        layer_scale=VIT.layer_scale if scaled else None,
    )
    return encoder, grid


def _grid(rows: int, patch: int, options: Options) -> Grid:
    """The square grid whose offsets a table has, besides three rows for the class token."""
    side = (isqrt(rows - 3) + 1) // 2
    if (2 * side - 1) ** 2 + 3 != rows:
        raise CheckpointError(f"A relative table of {rows} rows is of no square grid.")
    size: tuple[int, int] | None = options.get("size")
    if size is not None and size != (side * patch, side * patch):
        raise OptionError(
            f"--size {size[0]} {size[1]}: the relative biases are of {side * patch} x {side * patch} pixels, and are "
            "stretched when a picture comes, not at import. Leave out --size."
        )
    return side, side


def _beit_index(grid: Grid, rows: int) -> Int64[Tensor, "n n"]:
    """Which row of the table a pair of tokens reads, the class token first."""
    index = torch.nn.functional.pad(offsets(grid, torch.device("cpu")), (1, 0, 1, 0), value=rows - 3)
    index[:, 0] = rows - 2
    index[0, 0] = rows - 1
    return index


def _swin(ledger: Ledger, prefix: str, width: int, patch: int, options: Options) -> tuple[SwinEncoder, Grid]:
    """The Swin; what merges 2 x 2 tokens stands at the end of a stage there, and at the start of the next here."""
    stages = ledger.count(f"{prefix}layers.")
    depths = tuple(ledger.count(f"{prefix}layers.{stage}.blocks.") for stage in range(stages))
    sides, heads = zip(*(_window(ledger, f"{prefix}layers.{stage}.") for stage in range(stages)), strict=True)
    encoder = replace(
        SWIN,
        width=width,
        depths=depths,
        heads=heads,
        window=max(sides),
        mlp_ratio=mlp_ratio(ledger, f"{prefix}layers.0.blocks.0."),
    )
    grid = _swin_grid(ledger, f"{prefix}layers.0.", max(sides), patch, options)
    move_affine(ledger, "trunk.embedders.image.norm", f"{prefix}patch_embed.norm")
    for stage in range(stages):
        old, new = f"{prefix}layers.{stage}.", f"trunk.encoder.layers.{stage}."
        extent = (grid[0] // 2**stage, grid[1] // 2**stage)
        window = min(encoder.window, *extent)
        if window != sides[stage]:
            raise CheckpointError(f"Stage {stage} has windows of {sides[stage]}, and {window} fit a map of {extent}.")
        move_blocks(ledger, f"{new}blocks.", f"{old}blocks.", depths[stage], block_names("qkv", f"attn.{TABLE}"))
        _check_buffers(ledger, f"{old}blocks.", depths[stage], extent, window)
        if stage + 1 < stages:
            merging = f"trunk.encoder.layers.{stage + 1}.downsample"
            move_affine(ledger, f"{merging}.norm", f"{old}downsample.norm")
            ledger.move(f"{merging}.reduction.weight", f"{old}downsample.reduction.weight")
    return encoder, grid


def _window(ledger: Ledger, stage: str) -> tuple[int, int]:
    """The side of a stage's windows and its heads, from its bias table."""
    rows, heads = ledger.shape(f"{stage}blocks.0.attn.{TABLE}", 2)
    side = (isqrt(rows) + 1) // 2
    if (2 * side - 1) ** 2 != rows:
        raise CheckpointError(f"The bias table of {stage[:-1]} has {rows} rows, which are of no square window.")
    return side, heads


def _swin_grid(ledger: Ledger, stage: str, window: int, patch: int, options: Options) -> Grid:
    """The square grid of the first stage, from the number of windows that its shifted blocks mask."""
    mask = f"{stage}blocks.1.attn_mask"
    if mask in ledger:
        side = isqrt(ledger.shape(mask, 3)[0]) * window
        return side, side
    size: tuple[int, int] = options.need("size", None, "the size of a picture")
    if size[0] % patch or size[1] % patch:
        raise OptionError(f"--size {size[0]} {size[1]} is not divided by patches of {patch}.")
    return size[0] // patch, size[1] // patch


def _check_buffers(ledger: Ledger, blocks: str, depth: int, extent: Grid, window: int) -> None:
    """What the file keeps beside its parameters must be what our blocks compute from their sizes."""
    shifted = min(extent) > window
    for number in range(depth):
        index, mask = f"{blocks}{number}.attn.{INDEX}", f"{blocks}{number}.attn_mask"
        if index in ledger:
            ledger.expect(index, offsets((window, window), torch.device("cpu")), "the index of a window's offsets")
        if mask in ledger:
            if not shifted or number % 2 == 0:
                raise CheckpointError(f"{mask!r} is of a shifted window, and that block has none.")
            ledger.expect(mask, _seams(extent, window), "the mask of windows shifted by half")


def _seams(extent: Grid, window: int) -> Float[Tensor, "windows area area"]:
    """What shifted windows add to the logits: nothing within a region of the rolled map, else the seam's number."""
    shift = window // 2
    row, column = grid_coords(extent)[0].reshape(*extent, 2).unbind(-1)
    regions = [
        (at >= size - window).long() + (at >= size - shift).long()
        for at, size in zip((row, column), extent, strict=True)
    ]
    region = to_patches((3 * regions[0] + regions[1]).float()[None, None], (window, window))[0].flatten(1)
    return torch.where(region[:, None] == region[:, :, None], 0.0, SEAM)
