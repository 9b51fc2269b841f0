import pytest
import torch

from mmim.draw import Draw
from mmim.errors import MaskingError
from mmim.masking.budget import Ratio
from mmim.masking.random import RandomMasking
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
    split = Ratio(0.75, rounding="hidden_down", whole_frames=True).cut(ranks, {"a": made}, draw)["a"]
    return torch.zeros(50, 120, dtype=torch.bool).scatter(1, split.ids_masked, True).reshape(50, 4, 30)


def test_the_same_places_are_hidden_in_every_frame(hidden):
    assert torch.equal(hidden, hidden[:, :1].expand_as(hidden))


def test_every_frame_hides_as_many_places(hidden):
    assert (hidden.sum(dim=2) == int(30 * 0.75)).all()


def test_samples_hide_different_places(hidden):
    assert len({tuple(row) for row in hidden[:, 0].tolist()}) == 50


def test_every_place_is_hidden_equally_often(hidden):
    assert (hidden[:, 0].float().mean(dim=0) - 22 / 30).abs().max() < 4 * (22 / 30 * 8 / 30 / 50) ** 0.5


def test_tubes_ask_for_a_budget_that_cuts_whole_frames():
    assert TubeMasking.whole_frames
    assert not RandomMasking.whole_frames
    assert Ratio(0.5, whole_frames=True).cuts_whole_frames
    assert not Ratio(0.5).cuts_whole_frames


@pytest.mark.parametrize("grid", [None, (24,)])
def test_tokens_without_time_and_places_are_refused(grid):
    made = tokens()
    flat = Tokens(made.values, made.coords, grid=grid)
    with pytest.raises(MaskingError, match=r"Tubes need a grid of time and places, .* use random masking"):
        TubeMasking().rank(flat, Draw(torch.arange(2)))
