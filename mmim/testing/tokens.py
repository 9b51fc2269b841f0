"""Checks of `tokenize`, `untokenize`, `raw`, `grid` and `piece`."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from mmim.modality import Modality
from mmim.records import Tokens, map_raw
from mmim.testing.example import example, leaves, raw_of
from mmim.testing.failure import require
from mmim.testing.reading import equal


def tokens_have_the_declared_shapes(modality: Modality, files: Sequence[Path]) -> None:
    """Values, coordinates, validity and grid agree with each other, with `piece` and with `grid()`; all is finite."""
    raw = raw_of(example(modality, files))
    tokens = modality.tokenize(raw)
    b, n = len(files), tokens.count

    def fits(holds: bool, expected: str, came: object, method: str = "tokenize") -> None:
        require(holds, expected, came, modality, method)

    shape = tuple(tokens.values.shape)
    fits(shape == (b, n, *modality.piece), f"values [{b} n *piece] with the piece {modality.piece}", shape)
    fits(n >= 2, "at least 2 tokens of a sample", n)
    coords = tuple(tokens.coords.shape)
    fits(coords[0] in (1, b) and coords[1] == n, f"coords [1 {n} c] or [{b} {n} c]", coords)
    for what, part in (("values", tokens.values), ("coords", tokens.coords)):
        fits(bool(part.isfinite().all()), f"finite {what}", "some that are not")
    if tokens.valid is not None:
        fits(tuple(tokens.valid.shape) == (b, n), f"valid [{b} {n}]", tuple(tokens.valid.shape))
        fits(bool(tokens.valid.any(dim=1).all()), "a valid token of each sample", "none of some")
    declared = modality.grid()
    if tokens.grid is None:
        fits(declared is None, "no grid, as its tokens have none", declared, "grid")
        return
    fits(prod(tokens.grid) == n, f"a grid of {n} tokens", tokens.grid)
    if [leaf.shape[1:] for leaf in leaves(raw).values()] == [leaf.shape for leaf in leaves(modality.blank()).values()]:
        fits(declared == tokens.grid, f"{tokens.grid}, the grid of its tokens", declared, "grid")
    fits(_in_raster_order(tokens), "coordinates in raster order, each place once", tokens.coords[0].tolist())


def untokenize_is_the_inverse_of_the_cut(modality: Modality, files: Sequence[Path]) -> None:
    """Every value of the tokens lands at one place of the data, and every token where its coordinates say.

    Where the data have the shape of the raw ones, `untokenize(raw(values))` is them but for a scale and an offset.
    """
    raw = raw_of(example(modality, files))
    tokens = modality.tokenize(raw)
    data, numbered = _numbered(modality, tokens)
    permuted = data.numel() == numbered.numel() and torch.equal(data.flatten().double().sort()[0], numbered.flatten())
    require(permuted, "each value of the tokens once", "values lost, doubled or mixed", modality, "untokenize")
    apart = torch.equal(data[0].flatten().double().sort()[0], numbered[0].flatten())
    require(apart, "each sample in its own row", "samples mixed", modality, "untokenize")
    if tokens.grid is not None:
        require(
            _lie_as_their_coords(data[0], tokens),
            "every token where its coordinates say",
            "places that are no linear function of the coordinates",
            modality,
            "untokenize",
        )
    seen = modality.untokenize(modality.raw(tokens.values), tokens)
    if isinstance(raw, Tensor) and raw.shape == seen.shape and seen.is_floating_point():
        error = _beyond_scale_and_offset(seen, raw)
        require(error < 1e-4, "the raw data but for scale and offset", f"an error of {error:.2g}", modality, "raw")


def tokenizing_leaves_its_input_alone(modality: Modality, files: Sequence[Path]) -> None:
    """The raw batch is the same after it as before."""
    raw = raw_of(example(modality, files))
    before = map_raw(lambda leaf: leaf.clone(), raw)
    modality.tokenize(raw)
    require(equal(before, raw), "raw data as they were", "others: it writes into them", modality, "tokenize")


def _numbered(modality: Modality, tokens: Tokens) -> tuple[Tensor, Tensor]:
    """Every value of the tokens numbered, untokenized (without the place that it may be relative to) and as it was."""
    kind = torch.float64 if tokens.values.is_floating_point() else torch.int64
    numbered = torch.arange(tokens.values.numel(), dtype=kind).reshape(tokens.values.shape)
    data = modality.untokenize(numbered, tokens) - modality.untokenize(torch.zeros_like(numbered), tokens)
    return data.double().round(), numbered.double()


def _in_raster_order(tokens: Tokens) -> bool:
    return all(first < second for rows in tokens.coords.tolist() for first, second in pairwise(rows))


def _lie_as_their_coords(data: Tensor, tokens: Tokens) -> bool:
    """Whether the middle of each token's values in one sample's data is a linear function of its coordinates."""
    owner = data.flatten().long() // prod(tokens.values.shape[2:])
    places = torch.stack(torch.unravel_index(torch.arange(data.numel()), data.shape), dim=1).double()
    middle = torch.zeros(tokens.count, places.shape[1], dtype=torch.float64).index_add(0, owner, places)
    middle = middle / prod(tokens.values.shape[2:])
    known = torch.cat([tokens.coords[0].double(), torch.ones(tokens.count, 1, dtype=torch.float64)], dim=1)
    fitted = known @ torch.linalg.lstsq(known, middle, driver="gelsd").solution
    return bool((fitted - middle).abs().max() < 1e-6)


def _beyond_scale_and_offset(seen: Tensor, raw: Tensor) -> float:
    """The largest error of the best `scale * seen + offset` of a sample, as a share of the sample's deviation."""
    x, y = seen.flatten(1).double(), raw.flatten(1).double()
    x, y = x - x.mean(dim=1, keepdim=True), y - y.mean(dim=1, keepdim=True)
    scale = (x * y).sum(dim=1, keepdim=True) / (x * x).sum(dim=1, keepdim=True).clamp(min=1e-12)
    return float(((scale * x - y).abs().amax(dim=1) / y.std(dim=1).clamp(min=1e-12)).max())
