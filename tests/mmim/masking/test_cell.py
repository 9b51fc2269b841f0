import math

import pytest
import torch

from mmim.draw import Draw
from mmim.errors import MaskingError, OptionError
from mmim.masking.budget import Ratio, groups_of
from mmim.masking.cell import CellMasking
from mmim.parts import lookup
from mmim.records import Tokens
from tests.toy import tokens

DRAW = Draw(torch.arange(60))


def on(grid, batch=60, valid=None):
    n = math.prod(grid)
    return Tokens(torch.zeros(1, 1, 1).expand(batch, n, 1), torch.zeros(1, n, len(grid)), valid=valid, grid=grid)


def hidden(policy, grid, ratio=0.6):
    """Which places SimMIM's ratio hides."""
    made = on(grid)
    budget = Ratio(ratio, rounding="hidden_up")
    split = budget.cut({"a": policy.rank(made, DRAW)}, {"a": made}, DRAW, {"a": groups_of(policy, made)})["a"]
    return torch.zeros(60, made.count, dtype=torch.bool).scatter(1, split.ids_masked, True).unflatten(1, grid)


def test_cell_is_found_by_its_name():
    assert lookup("masking", "cell") is CellMasking


@pytest.mark.parametrize(
    ("grid", "cell", "cells", "hidden_cells"),
    [
        ((48, 48), 8, 36, 22),  # Swin, 192 pixels, patch 4: fact sheet 2.2
        ((14, 14), 2, 49, 30),  # ViT, 224 pixels, patch 16: fact sheet 2.2
    ],
)
def test_as_many_cells_are_hidden_as_by_the_published_system(grid, cell, cells, hidden_cells):
    policy = CellMasking(cell)
    assert policy.group(on(grid)) == cell**2
    assert math.prod(grid) // cell**2 == cells
    assert (hidden(policy, grid).sum(dim=(1, 2)) == hidden_cells * cell**2).all()


@pytest.mark.parametrize(("grid", "cell"), [((14, 14), 2), ((6, 12), 3), ((16, 8), 4), ((4, 6), 1)])
def test_the_tokens_of_a_cell_stay_or_go_together(grid, cell):
    places = hidden(CellMasking(cell), grid, 0.4)
    parts = places.unflatten(2, (-1, cell)).unflatten(1, (-1, cell))
    corner = parts[:, :, :1, :, :1].expand_as(parts)
    assert torch.equal(parts, corner)
    assert len({tuple(row.flatten().tolist()) for row in places}) > 10  # and samples hide different ones


def test_cells_may_have_three_axes_or_one():
    assert CellMasking(2).group(on((4, 6, 2))) == 8
    assert CellMasking(2).group(on((6,))) == 2
    ranks = CellMasking(2).rank(on((4, 6, 2)), DRAW).reshape(60, 2, 2, 3, 2, 1, 2)
    assert torch.equal(ranks, ranks[:, :, :1, :, :1, :, :1].expand_as(ranks))


def test_every_cell_has_a_rank_of_its_own():
    ranks = CellMasking(2).rank(on((40, 40)), DRAW)
    for row in ranks:
        assert row.unique().tolist() == list(range(400))


def test_every_cell_is_hidden_equally_often():
    often = hidden(CellMasking(2), (14, 14)).float().mean(dim=0)
    assert (often - 30 / 49).abs().max() < 4 * (30 / 49 * 19 / 49 / 60) ** 0.5


def test_the_rank_depends_on_the_draw_alone():
    policy = CellMasking(2)
    some = policy.rank(on((4, 6), 3), Draw(DRAW.keys[:3]))
    assert torch.equal(some, policy.rank(on((4, 6), 5), Draw(DRAW.keys[:5]))[:3])


def test_a_grid_that_the_cell_does_not_divide_is_refused():
    with pytest.raises(MaskingError, match=r"Cells of 4 tokens do not divide the grid \(14, 16\)\. Use a cell"):
        CellMasking(4).rank(on((14, 16)), DRAW)
    with pytest.raises(MaskingError, match="do not divide"):
        CellMasking(4).group(on((14, 16)))


@pytest.mark.parametrize("grid", [None, (4, 6)])
def test_tokens_without_a_full_grid_are_refused(grid):
    made = tokens()
    valid = None if grid is None else torch.ones(2, 24, dtype=torch.bool)
    with pytest.raises(MaskingError, match=r"Cells need a full grid of tokens, .* use random masking"):
        CellMasking().rank(Tokens(made.values, made.coords, valid=valid, grid=grid), Draw(torch.arange(2)))


def test_a_cell_has_at_least_one_token():
    with pytest.raises(OptionError, match=r"CellMasking.cell is 0; it must be at least 1"):
        CellMasking(0)
