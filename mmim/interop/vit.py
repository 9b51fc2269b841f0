"""What state dicts of vision transformers have in common: blocks named as timm's, and position tables."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isqrt, prod
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mmim.errors import CheckpointError, OptionError
from mmim.interop.converter import Options
from mmim.interop.keys import Ledger
from mmim.layers.block import Bias
from mmim.layers.patches import grid_coords
from mmim.layers.positions import stretched
from mmim.modality import Modality
from mmim.records import Tokens

HEADS: Mapping[int, int] = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
"""Attention heads of the published encoders, by width: Ti, S, B, L, H (timm, MAE, VideoMAE alike)."""

BIASES: Mapping[Bias, tuple[str, ...]] = {
    "qkv": ("attn.qkv.bias",),
    "qv": ("attn.q_bias", "attn.v_bias"),
    "none": (),
}
CLOSE = 1e-5  # two position tables that differ by less are the same

_NORM1, _NORM2 = ("norm1.weight", "norm1.bias"), ("norm2.weight", "norm2.bias")
_REST = (
    "attn.proj.weight",
    "attn.proj.bias",
    *_NORM2,
    "mlp.fc1.weight",
    "mlp.fc1.bias",
    "mlp.fc2.weight",
    "mlp.fc2.bias",
)

Grid = tuple[int, int]


def block_names(bias: Bias, *extra: str) -> tuple[str, ...]:
    """The parameters of one block; `extra` come last (layer scales)."""
    return (*_NORM1, "attn.qkv.weight", *BIASES[bias], *_REST, *extra)


def bias_of(ledger: Ledger, block: str) -> Bias:
    """Which attention biases the blocks have, by the names in the first of them."""
    return next(
        (bias for bias, names in BIASES.items() if names and all(f"{block}{n}" in ledger for n in names)), "none"
    )


def move_blocks(ledger: Ledger, new: str, old: str, depth: int, names: Sequence[str]) -> None:
    """Blocks `old0.` ... to `new0.` ..., under the same names inside."""
    for number in range(depth):
        for name in names:
            ledger.move(f"{new}{number}.{name}", f"{old}{number}.{name}")


def move_affine(ledger: Ledger, new: str, old: str) -> None:
    """A weight and a bias."""
    for name in ("weight", "bias"):
        ledger.move(f"{new}.{name}", f"{old}.{name}")


def move_ends(ledger: Ledger, name: str, olds: tuple[str, str, str, str], embed_bias: bool = True) -> None:
    """All of a decoder but its blocks; `olds`: mask token, projection, last norm and head in the file."""
    new, (token, embed, norm, head) = f"decoders.{name}.", olds
    ledger.move(f"{new}mask_token", token)
    ledger.move(f"{new}embed.weight", f"{embed}.weight")
    if embed_bias:
        ledger.move(f"{new}embed.bias", f"{embed}.bias")
    move_affine(ledger, f"{new}norm", norm)
    move_affine(ledger, f"{new}heads.{name}", head)


def read_heads(
    ledger: Ledger,
    options: Options,
    width: int,
    published: Mapping[int, int] = HEADS,
    part: Literal["encoder", "decoder"] = "encoder",
) -> int:
    """Attention heads, which no shape tells: as asked for, else those of published models of this width."""
    name, option = ("heads", "--heads") if part == "encoder" else ("decoder_heads", "--decoder-heads")
    heads: int = options.need(name, published.get(width), f"the heads of the {part}, whose width is {width}")
    if options.get(name) is None:
        ledger.remarks.append(
            f"{heads} heads of the {part}, as published models of width {width} have; {option} says otherwise"
        )
    return heads


def mlp_ratio(ledger: Ledger, block: str) -> float:
    """Hidden width of the MLP over the width."""
    hidden, width = ledger.shape(f"{block}mlp.fc1.weight", 2)
    return hidden / width


def final_norm(ledger: Ledger, old: str) -> bool:
    """Move the norm after the last block, which a file may lack whose `fc_norm` (of pooled tokens) was left out."""
    if f"{old}.weight" not in ledger and any("fc_norm." in name for name in ledger.dropped):
        ledger.remarks.append("no norm after the last block: the file has one of pooled tokens, which was left out")
        return False
    move_affine(ledger, "trunk.encoder.norm", old)
    return True


def square_patch(shape: Sequence[int]) -> int:
    """The side of a patch, from the last two axes of a convolution's weight.

    Raises:
        CheckpointError: it is not square.
    """
    if shape[-1] != shape[-2]:
        raise CheckpointError(f"Patches of {tuple(shape[-2:])} are not square, and ours must be.")
    return shape[-1]


@dataclass(frozen=True)
class Table:
    """A position table of a file (`old`, `[1 n d]`, or `[1 1+n d]` with a row for the class token), and our name.

    turned: its places run along our last axis first, in a file without a row for the class token.
    """

    old: str
    new: str
    width: int
    turned: bool = False


@dataclass(frozen=True)
class Grids:
    """The token grid whose positions a file holds, and the one that is asked for."""

    stored: Grid
    asked: Grid


def read_grids(places: int, patch: int, options: Options, published: Mapping[int, Grid]) -> Grids:
    """The grids of a table with so many places.

    published: grids that are known by their number of places; else a square one is taken.

    Raises:
        OptionError: the grid can't be told from the number, or another --size is asked for without --interpolate.
    """
    size: tuple[int, int] | None = options.get("size")
    if size is not None and any(side < 1 or side % patch for side in size):
        raise OptionError(f"--size {size[0]} {size[1]} is not divided by patches of {patch}: use multiples of {patch}.")
    asked = None if size is None else (size[0] // patch, size[1] // patch)
    if asked is not None and prod(asked) == places:
        return Grids(asked, asked)
    root = isqrt(places)
    stored = published.get(places) or ((root, root) if root * root == places else None)
    if stored is None:
        asked_for = "" if size is None else f", nor the {prod(asked or ())} of --size {size[0]} {size[1]}"
        raise OptionError(
            f"The file holds positions of {places} places, which are no square{asked_for}: give --size, as trained."
        )
    if asked is not None and not options.get("interpolate"):
        raise OptionError(
            f"--size {size[0]} {size[1]} has a grid {asked}, and the file holds positions of {stored}: "  # type: ignore[index]
            f"use --size {stored[0] * patch} {stored[1] * patch}, or --interpolate."
        )
    return Grids(stored, asked or stored)


def read_positions(
    ledger: Ledger,
    tables: Sequence[Table],
    kinds: Sequence[str],
    modality: Callable[[str, Grid], Modality],
    grids: Grids,
    class_rows: bool,
) -> tuple[str, Float[Tensor, "1 1 d"] | None]:
    """The kind of positions that all tables of a file agree with, and the encoder's row for a class token.

    Tables that none of the fixed `kinds` gives, or that must be stretched, are kept as learned ones. modality(kind,
    grid): our modality with such positions. The first table is the encoder's.

    Raises:
        CheckpointError: a decoder adds a position to its class token, which ours does not.
    """
    held = {table: ledger.take(table.old) for table in tables}
    if any(rows is None for rows in held.values()):
        return kinds[0], None  # `close` will say what is missing
    rows = {
        table: _checked(found, table, grids.stored, class_rows) for table, found in held.items() if found is not None
    }
    first = rows[tables[0]][:, :1] if class_rows else None
    for table in tables[1:]:
        if class_rows and rows[table][:, :1].abs().max() > CLOSE:
            raise CheckpointError(
                f"{table.old!r} gives the class token a position in the decoder, which ours does not."
            )
    places = {table: found[:, 1:] if class_rows else found for table, found in rows.items()}
    stays = grids.stored == grids.asked
    for kind in kinds:
        ours = modality(kind, grids.stored)
        off = max(_difference(found, ours, table.width) for table, found in places.items())
        if off <= CLOSE and stays:
            return kind, first
        if off <= CLOSE:
            break
    if not stays:
        ledger.remarks.append(
            f"positions stretched from {grids.stored} to {grids.asked}, bicubic; they are learned ones now"
        )
    else:
        ledger.remarks.append(
            f"positions are a table of the file's own (off by {off:.2g} from {kinds[-1]}), kept as learned"
            if kinds
            else "positions are a learned table"
        )
    for table, found in places.items():
        fitted = stretched(found[0].unflatten(0, grids.stored), grids.asked).flatten(0, 1)[None]
        ledger.put(table.new, found if stays else fitted, table.old)
    return "learned", first


def _checked(found: Tensor, table: Table, grid: Grid, class_rows: bool) -> Tensor:
    shape = (1, prod(grid) + class_rows, table.width)
    if tuple(found.shape) != shape:
        raise CheckpointError(f"{table.old!r} is {tuple(found.shape)}, where {shape} was expected.")
    return found.unflatten(1, grid[::-1]).transpose(1, 2).flatten(1, 2) if table.turned else found


def _difference(found: Float[Tensor, "1 n d"], modality: Modality, width: int) -> float:
    """How far a table is from the one that a modality computes."""
    try:
        ours = codes(modality, width)
    except OptionError:  # no such code has this width
        return float("inf")
    if found.shape != ours.shape:
        return float("inf")
    return float((found - ours).abs().max())


def check_codes(ledger: Ledger, old: str, modality: Modality, width: int) -> None:
    """Take a fixed position table, `[1 n d]` or laid out as a map `[1 d rows columns]`, that our modality computes.

    Raises:
        CheckpointError: it is not the one.
    """
    found = ledger.take(old)
    if found is None:
        return
    rows = found.flatten(2).transpose(1, 2) if found.ndim == 4 else found
    off = _difference(rows, modality, width)
    if off > CLOSE:
        raise CheckpointError(
            f"{old!r} is not the table of {type(modality).__name__} with these sizes (off by {off:.2g}), so the "
            "weights are of another model."
        )


@torch.no_grad()
def codes(modality: Modality, width: int) -> Float[Tensor, "1 n d"]:
    """The position codes of a modality at its declared size."""
    grid = modality.grid()
    if grid is None:
        raise OptionError(f"{type(modality).__name__} has no grid, so its positions are no table.")
    coords = grid_coords(grid)
    found: Tensor = modality.position(width)(Tokens(torch.zeros(1, prod(grid), 1), coords, grid=grid))
    return found


def move_class_token(ledger: Ledger, old: str, row: Float[Tensor, "1 1 d"] | None) -> None:
    """A class token, with the position it gets in the file folded in: ours has none of its own."""
    if row is not None and row.abs().max() > 0:
        ledger.remarks.append("the class token's own position is added into it")
    ledger.move("trunk.encoder.global_tokens", old, lambda token: token if row is None else token + row)
