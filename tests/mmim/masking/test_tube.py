import pytest
import torch

from mmim.draw import Draw
from mmim.errors import MaskingError
from mmim.masking.budget import Ratio, groups_of
from mmim.masking.tube import TubeMasking
from mmim.records import Tokens
from tests.toy import tokens

GRID = (4, 5, 6)


@pytest.fixture
def hidden() -> torch.Tensor:
    """Per sample, frame and place whether it is hidden."""
    made = tokens(50, GRID)
    draw = Draw(torch.arange(50))
    ranks = {"a": TubeMasking().rank(made, draw)}
    split = Ratio(0.75, rounding="hidden_down").cut(ranks, {"a": made}, draw, {"a": groups_of(TubeMasking(), made)})[
        "a"
    ]
    return torch.zeros(50, 120, dtype=torch.bool).scatter(1, split.ids_masked, True).reshape(50, 4, 30)


def test_the_same_places_are_hidden_in_every_frame(hidden):
    assert torch.equal(hidden, hidden[:, :1].expand_as(hidden))


def test_every_frame_hides_as_many_places(hidden):
    assert (hidden.sum(dim=2) == int(30 * 0.75)).all()


def test_samples_hide_different_places(hidden):
    assert len({tuple(row) for row in hidden[:, 0].tolist()}) == 50


def test_every_place_is_hidden_equally_often(hidden):
    assert (hidden[:, 0].float().mean(dim=0) - 22 / 30).abs().max() < 4 * (22 / 30 * 8 / 30 / 50) ** 0.5


def test_no_two_places_tie():
    ranks = TubeMasking().rank(tokens(200, GRID), Draw(torch.arange(200)))
    assert all(len(set(row)) == 30 for row in ranks.tolist())


def test_a_padded_sample_hides_whole_tubes_of_its_own_length():
    made = tokens(3, GRID, valid=(torch.arange(4) < torch.tensor([[4], [2], [0]])).repeat_interleave(30, dim=1))
    groups, draw = groups_of(TubeMasking(), made), Draw(torch.arange(3))
    assert groups.valid.tolist() == [4, 2, 0]
    split = Ratio(0.75, rounding="hidden_down").cut(
        {"a": TubeMasking().rank(made, draw)}, {"a": made}, draw, {"a": groups}
    )["a"]
    for row, frames in enumerate([4, 2, 0]):
        kept = split.ids_keep[row][split.keep_valid[row]].tolist()
        assert len(kept) == 8 * frames
        assert {place // 30 for place in kept} == set(range(frames))
        assert len({place % 30 for place in kept}) == 8 * bool(frames)


def test_a_tube_is_as_long_as_the_clip():
    assert groups_of(TubeMasking(), tokens(2, GRID)).size == 4
    assert groups_of(TubeMasking(), tokens(2, GRID)).valid is None


@pytest.mark.parametrize("grid", [None, (24,)])
def test_tokens_without_time_and_places_are_refused(grid):
    made = tokens()
    flat = Tokens(made.values, made.coords, grid=grid)
    with pytest.raises(MaskingError, match=r"Tubes need a grid of time and places, .* use random masking"):
        TubeMasking().rank(flat, Draw(torch.arange(2)))
