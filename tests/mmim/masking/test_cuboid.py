import math

import pytest
import torch

from mmim.draw import Draw
from mmim.errors import MaskingError, OptionError
from mmim.masking.block import BlockMasking
from mmim.masking.budget import Ratio, groups_of
from mmim.masking.cuboid import CuboidMasking
from mmim.masking.random import RandomMasking
from mmim.parts import lookup
from mmim.records import Tokens

MASKFEAT = (8, 14, 14)
DRAW = Draw(torch.arange(200))


def on(grid, batch=200, valid=None):
    n = math.prod(grid or (24,))
    return Tokens(torch.zeros(1, 1, 1).expand(batch, n, 1), torch.zeros(1, n, 3), valid, grid)


def hidden(policy, grid=MASKFEAT, ratio=0.4, draw=DRAW):
    """Which places MaskFeat's ratio hides."""
    made = on(grid, len(draw.keys))
    ranks, groups = {"a": policy.rank(made, draw)}, {"a": groups_of(policy, made)}
    split = Ratio(ratio, rounding="nearest").cut(ranks, {"a": made}, draw, groups)["a"]
    return (
        torch.zeros(len(draw.keys), made.count, dtype=torch.bool).scatter(1, split.ids_masked, True).unflatten(1, grid)
    )


def neighbours(places, axis):
    """The share of pairs of neighbours along an axis, one of them hidden, of which both are."""
    first, second = places.narrow(axis, 0, places.shape[axis] - 1), places.narrow(axis, 1, places.shape[axis] - 1)
    return float((first & second).sum() / (first | second).sum())


def test_cuboid_is_found_by_its_name():
    assert lookup("masking", "cuboid") is CuboidMasking


def test_as_many_cells_are_hidden_as_by_the_published_system():
    assert CuboidMasking().group(on(MASKFEAT)) == 4
    places = hidden(CuboidMasking())
    assert (places.flatten(1).sum(dim=1) == 157 * 4).all()  # fact sheet 2.2: 157 of 392 cells of 2 x 2 tokens
    image = hidden(BlockMasking(smallest=15, largest=78), (14, 14))
    assert (image.flatten(1).sum(dim=1) == 78).all()  # and 78 of 196 tokens


def test_the_tokens_of_a_cell_stay_or_go_together():
    places = hidden(CuboidMasking())
    cells = places.unflatten(3, (7, 2)).unflatten(2, (7, 2))
    assert torch.equal(cells, cells[:, :, :, :1, :, :1].expand_as(cells))
    assert len({tuple(row.flatten().tolist()) for row in places}) == 200  # samples hide different ones


def test_hidden_places_lie_together_in_space_and_time():
    together, scattered = hidden(CuboidMasking(cell=1), (8, 7, 7)), hidden(RandomMasking(), (8, 7, 7))
    for axis in (1, 2, 3):
        assert neighbours(together, axis) > neighbours(scattered, axis) + 0.25


def test_the_first_cuboids_have_the_sizes_of_the_paper():
    turns = CuboidMasking(cell=1)._turns(DRAW, (8, 20, 20))  # large enough that no rectangle is clamped
    boxes = (turns == turns.amax(dim=1, keepdim=True)).unflatten(1, (8, 20, 20))
    lasting = boxes.any(dim=(2, 3)).sum(dim=1)
    heights, widths = boxes.any(dim=(1, 3)).sum(dim=1), boxes.any(dim=(1, 2)).sum(dim=1)
    assert torch.equal(lasting * heights * widths, boxes.sum(dim=(1, 2, 3)))  # whole cuboids
    areas, aspects = (heights * widths).float(), heights / widths
    assert 6 <= areas.min() < 14  # of 9 to 49 cells, sides rounded
    assert 44 < areas.max() <= 56
    assert areas.mean() == pytest.approx(29, abs=3)
    assert 0.2 < aspects.min() < 0.4
    assert 2.5 < aspects.max() < 5
    assert lasting.bincount(minlength=9)[1:].float().div(200).sub(1 / 8).abs().max() < 0.1


def test_frames_bound_how_long_a_cuboid_lasts():
    turns = CuboidMasking(cell=1, frames=(3, 4))._turns(DRAW, (8, 7, 7))
    first = (turns == turns.amax(dim=1, keepdim=True)).unflatten(1, (8, 49)).any(dim=2)
    assert set(first.sum(dim=1).tolist()) == {3, 4}
    short = CuboidMasking(cell=1, frames=(3, 8))._turns(DRAW, (2, 7, 7))  # more than there are is all
    first = (short == short.amax(dim=1, keepdim=True)).unflatten(1, (2, 49)).any(dim=2)
    assert first.all()


def test_every_place_is_hidden_with_a_sane_frequency():
    often = hidden(CuboidMasking(cell=1), (8, 7, 7)).float().mean(dim=0)
    assert often.min() > 0.05
    assert often.max() < 0.75


def test_cuboids_cover_what_usual_ratios_hide():
    for grid in ((8, 7, 7), (4, 4, 4), (16, 7, 7)):
        covered = (CuboidMasking(cell=1)._turns(DRAW, grid) > 0).float().mean(dim=1)
        assert covered.min() > 0.6
        assert covered.mean() > 0.9


@pytest.mark.parametrize("grid", [MASKFEAT, (1, 4, 6), (30, 8, 8)])
def test_every_cell_has_a_rank_of_its_own(grid):
    ranks = CuboidMasking().rank(on(grid, 5), Draw(DRAW.keys[:5]))
    cells = math.prod(grid) // 4
    for row in ranks:
        assert row.unique().tolist() == list(range(cells))


def test_the_rank_depends_on_the_draw_alone():
    some = CuboidMasking().rank(on(MASKFEAT, 3), Draw(DRAW.keys[:3]))
    assert torch.equal(some, CuboidMasking().rank(on(MASKFEAT, 5), Draw(DRAW.keys[:5]))[:3])


@pytest.mark.parametrize(
    ("grid", "valid", "message"),
    [
        (None, None, r"Cuboids need a full grid of time, rows and columns, and these tokens have None: use random"),
        ((4, 6), None, r"these tokens have \(4, 6\): use random"),
        ((4, 2, 6), torch.ones(200, 48, dtype=torch.bool), r"these tokens have \(4, 2, 6\), padded: use random"),
        ((4, 3, 6), None, r"Cells of 2 x 2 tokens do not divide the grid \(4, 3, 6\)\. Use a cell of 3"),
    ],
)
def test_tokens_on_another_grid_are_refused(grid, valid, message):
    made = on(grid, valid=valid)
    for ask in (lambda: CuboidMasking().rank(made, DRAW), lambda: CuboidMasking().group(made)):
        with pytest.raises(MaskingError, match=message):
            ask()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cell": 0}, "CuboidMasking.cell is 0; it must be at least 1"),
        ({"smallest": 50}, "CuboidMasking.smallest is 50; it must be at most largest, 49"),
        ({"aspect": 0.0}, "CuboidMasking.aspect is 0.0; it must be above 0 and at most 1"),
        ({"frames": (3, 2)}, r"CuboidMasking.frames is \(3, 2\); it must be 1 <= least <= most"),
        ({"frames": (0, 2)}, r"CuboidMasking.frames is \(0, 2\); it must be 1 <= least <= most"),
    ],
)
def test_options_that_can_not_be_are_refused_with_the_reason(options, message):
    with pytest.raises(OptionError, match=message):
        CuboidMasking(**options)
