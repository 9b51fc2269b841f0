import math
import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close

from mmim.draw import Draw
from mmim.errors import MaskingError, OptionError
from mmim.masking.block import BlockMasking
from mmim.masking.budget import Ratio, split_at
from mmim.masking.random import RandomMasking
from mmim.parts import lookup
from mmim.records import Tokens
from tests.toy import tokens

BEIT = (14, 14)
DRAW = Draw(torch.arange(600))


def on(grid, batch=600):
    n = math.prod(grid)
    return Tokens(torch.zeros(1, 1, 1).expand(batch, n, 1), torch.zeros(1, n, 2), grid=grid)


def hidden(policy, grid, num_hidden, draw=DRAW):
    """Which places are hidden."""
    n = math.prod(grid)
    split = split_at(policy.rank(on(grid, len(draw.keys)), draw), n - num_hidden)
    return torch.zeros(len(draw.keys), n, dtype=torch.bool).scatter(1, split.ids_masked, True).unflatten(1, grid)


def neighbours(places):
    """The share of the hidden places' neighbours that are hidden too."""
    down = places[:, 1:] & places[:, :-1]
    across = places[:, :, 1:] & places[:, :, :-1]
    some = (places[:, 1:] | places[:, :-1]).sum() + (places[:, :, 1:] | places[:, :, :-1]).sum()
    both = down.sum() + across.sum()
    return float(2 * both / (both + some))


def test_block_is_found_by_its_name():
    assert lookup("masking", "block") is BlockMasking


@pytest.mark.parametrize("grid", [BEIT, (4, 4), (8, 64), (64, 8), (1, 30), (3, 5), (16, 16)])
def test_every_token_has_a_rank_of_its_own(grid):
    ranks = BlockMasking().rank(on(grid, 20), Draw(DRAW.keys[:20]))
    assert ranks.shape == (20, math.prod(grid))
    assert (ranks.sort(dim=1).values.diff(dim=1) > 0).all()


def test_ranks_stay_distinct_with_thousands_of_blocks():
    ranks = BlockMasking(smallest=1, largest=1).rank(on((24, 24), 2), Draw(DRAW.keys[:2]))
    assert (ranks.sort(dim=1).values.diff(dim=1) > 0).all()


@pytest.mark.parametrize("ratio", [0.1, 0.4, 0.75])
def test_the_budget_cuts_the_exact_count(ratio):
    made = on(BEIT)
    split = Ratio(ratio, "hidden_down").cut({"a": BlockMasking().rank(made, DRAW)}, {"a": made}, DRAW)["a"]
    assert split.ids_masked.shape == (600, int(196 * ratio))


def test_the_rank_depends_on_the_draw_alone():
    policy = BlockMasking()
    some = policy.rank(on(BEIT, 3), Draw(DRAW.keys[:3]))
    assert torch.equal(some, policy.rank(on(BEIT, 5), Draw(DRAW.keys[:5]))[:3])
    assert not torch.equal(some[0], some[1])


@pytest.mark.parametrize(("grid", "num_hidden"), [(BEIT, 75), (BEIT, 147), ((64, 8), 300), ((8, 64), 300)])
def test_hidden_places_lie_together(grid, num_hidden):
    ratio = num_hidden / math.prod(grid)
    scattered, together = (neighbours(hidden(policy(), grid, num_hidden)) for policy in (RandomMasking, BlockMasking))
    assert scattered == pytest.approx(ratio, abs=0.01)
    assert together > scattered + 0.6 * (1 - scattered)


def test_what_is_hidden_first_is_a_rectangle():
    policy = BlockMasking(smallest=30, largest=30)
    for places in hidden(policy, BEIT, 20):
        rows, columns = places.any(dim=1).nonzero().flatten(), places.any(dim=0).nonzero().flatten()
        height, width = int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1
        assert height * width <= 36  # 20 random tokens of one block of about 30


def test_blocks_have_the_areas_and_aspects_of_the_paper():
    first = BlockMasking()._turns(DRAW, (16, 16))  # large enough that no block is clamped
    places = (first == first.amax(dim=1, keepdim=True)).unflatten(1, (16, 16))
    heights, widths = places.any(dim=2).sum(dim=1), places.any(dim=1).sum(dim=1)
    areas, aspects = (heights * widths).float(), heights / widths
    assert torch.equal(areas.int(), places.sum(dim=(1, 2)).int())  # whole rectangles
    assert 12 <= areas.min() < 20
    assert 70 < areas.max() <= 82  # sides are rounded
    assert areas.mean() == pytest.approx((16 + 75) / 2, abs=2.5)
    assert 0.2 < aspects.min() < 0.35
    assert 2.9 < aspects.max() < 4.5
    assert aspects.log().mean() == pytest.approx(0, abs=0.1)


def test_every_place_is_hidden_with_a_sane_frequency():
    often = hidden(BlockMasking(), BEIT, 75).float().mean(dim=0)
    assert often.mean() == pytest.approx(75 / 196, abs=1e-6)
    assert often.min() > 0.02  # a corner, which few rectangles reach: 0.04, the middle 0.73
    assert often.max() < 0.82
    for axes in ([0], [1]):
        assert_close(often, often.flip(axes), rtol=0, atol=0.12)  # 600 draws


@pytest.mark.parametrize("grid", [BEIT, (16, 16), (8, 64), (64, 8), (24, 24)])
def test_blocks_cover_what_usual_ratios_hide(grid):
    covered = (BlockMasking()._turns(Draw(DRAW.keys[:200]), grid) > 0).float().mean(dim=1)
    assert covered.min() > 0.8


def test_a_block_larger_than_the_grid_is_clamped_to_it():
    turns = BlockMasking()._turns(Draw(DRAW.keys[:50]), (4, 4))
    assert (turns > 0).any(dim=1).all()
    places = hidden(BlockMasking(), (4, 4), 12)
    assert_close(places.float().mean(dim=0), torch.full((4, 4), 0.75), rtol=0, atol=0.2)


def test_smaller_blocks_suit_a_small_grid():
    policy = BlockMasking(smallest=4, largest=9)
    assert neighbours(hidden(policy, (8, 8), 24)) > neighbours(hidden(RandomMasking(), (8, 8), 24)) + 0.25


COMPILE = """
import torch
from mmim.draw import Draw
from mmim.masking.block import BlockMasking
from mmim.records import Tokens
made = Tokens(torch.zeros(4, 196, 1), torch.zeros(1, 196, 2), grid=(14, 14))
rank = lambda keys: BlockMasking().rank(made, Draw(keys))
keys = torch.arange(4)
assert torch.equal(torch.compile(rank, fullgraph=True, backend="aot_eager")(keys), rank(keys))
"""


@pytest.mark.slow
def test_ranking_compiles_into_one_graph():
    # In a process of its own, since a graph can't hold the shape checks that pytest adds.
    subprocess.run([sys.executable, "-c", COMPILE], check=True, timeout=120)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (None, r"Blocks need a grid of two axes, and these tokens have None: use random masking\."),
        ((24,), r"these tokens have \(24,\): use random masking\."),
        ((4, 2, 3), r"these tokens have \(4, 2, 3\): use random masking, or tube masking\."),
    ],
)
def test_tokens_without_rows_and_columns_are_refused(grid, message):
    made = tokens()
    with pytest.raises(MaskingError, match=message):
        BlockMasking().rank(Tokens(made.values, made.coords, grid=grid), Draw(torch.arange(2)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"smallest": 0}, "BlockMasking.smallest is 0; it must be at least 1"),
        ({"smallest": 80}, "BlockMasking.smallest is 80; it must be at most largest, 75"),
        ({"aspect": 3.0}, "BlockMasking.aspect is 3.0; it must be above 0 and at most 1"),
    ],
)
def test_options_that_can_not_be_are_refused_with_the_reason(options, message):
    with pytest.raises(OptionError, match=message):
        BlockMasking(**options)
