import subprocess
import sys

import pytest
import torch

from mmim.draw import Draw
from mmim.layers.patches import grid_coords
from mmim.masking.ball import BallMasking
from mmim.masking.budget import Ratio, split_at
from mmim.parts import lookup
from mmim.records import Tokens

B, N = 200, 64
DRAW = Draw(torch.arange(B))


def spread(b=B, n=N, valid=None):
    """Tokens at random places in space."""
    coords = torch.randn(b, n, 3, generator=torch.Generator().manual_seed(0))
    return Tokens(torch.zeros(b, n, 1), coords, valid)


def flags(ids, n=N):
    return torch.zeros(len(ids), n, dtype=torch.bool).scatter(1, ids, True)


def test_ball_is_found_by_its_name():
    assert lookup("masking", "ball") is BallMasking


def test_hides_a_token_and_those_nearest_to_it():
    made = spread()
    ranks = BallMasking().rank(made, DRAW)
    centre = ranks.argmax(dim=1)
    distances = (made.coords - made.coords[torch.arange(B), centre][:, None]).norm(dim=2)
    hidden = flags(split_at(ranks, N - 38).ids_masked)
    nearest = flags(distances.argsort(dim=1)[:, :38])
    assert torch.equal(hidden, nearest)


def test_ranks_are_ordinals_and_the_budget_cuts_the_papers_count():
    made = spread()
    ranks = BallMasking().rank(made, DRAW)
    assert torch.equal(ranks.sort(dim=1).values, torch.arange(N).double().expand(B, -1))
    split = Ratio(0.6, rounding="hidden_down").cut({"a": ranks}, {"a": made}, DRAW)["a"]
    assert split.ids_masked.shape == (B, 38)  # fact sheet 2.2


def test_every_token_is_the_centre_about_as_often():
    centre = BallMasking().rank(spread(4000, 8), Draw(torch.arange(4000))).argmax(dim=1)
    often = torch.bincount(centre, minlength=8) / 4000
    assert (often - 1 / 8).abs().max() < 0.03


def test_the_rank_depends_on_the_draw_and_the_places_alone():
    made = spread(5)
    ranks = BallMasking().rank(made, Draw(DRAW.keys[:5]))
    some = Tokens(made.values[:3], made.coords[:3])
    assert torch.equal(BallMasking().rank(some, Draw(DRAW.keys[:3])), ranks[:3])
    assert not torch.equal(BallMasking().rank(made, Draw(DRAW.keys[5:10])), ranks)


def test_a_grid_that_all_samples_share_is_hidden_in_balls_too():
    grid = Tokens(torch.zeros(B, 49, 1), grid_coords((7, 7)), grid=(7, 7))
    hidden = flags(split_at(BallMasking().rank(grid, DRAW), 49 - 5).ids_masked, 49).unflatten(1, (7, 7))
    for places in hidden:
        rows, columns = places.nonzero().unbind(1)
        assert int(rows.max() - rows.min()) <= 3
        assert int(columns.max() - columns.min()) <= 3
    assert (hidden.any(dim=0)).all()


def test_padding_is_never_the_centre():
    lengths = torch.arange(B) % (N - 1) + 2
    valid = torch.arange(N) < lengths[:, None]
    made = spread(valid=valid)
    gone = Tokens(made.values, torch.where(valid[..., None], made.coords, 100.0), valid)
    centre = BallMasking().rank(gone, DRAW).argmax(dim=1)
    assert valid[torch.arange(B), centre].all()
    split = Ratio(0.5, rounding="hidden_down").cut({"a": BallMasking().rank(gone, DRAW)}, {"a": gone}, DRAW)["a"]
    assert valid.gather(1, split.ids_masked)[split.masked_valid].all()
    assert torch.equal(split.masked_valid.sum(dim=1), lengths // 2)


def test_valid_tokens_after_padding_can_be_the_centre():
    valid = torch.arange(N) >= 60
    centre = BallMasking().rank(spread(valid=valid.expand(B, -1)), DRAW).argmax(dim=1)
    assert set(centre.tolist()) == {60, 61, 62, 63}


@pytest.mark.parametrize("valid", [None, torch.zeros(3, 5, dtype=torch.bool)])
def test_equal_places_and_samples_without_tokens_have_ranks_too(valid):
    made = Tokens(torch.zeros(3, 5, 1), torch.zeros(1, 5, 3), valid)
    assert BallMasking().rank(made, Draw(torch.arange(3))).sort(dim=1).values.tolist() == [[0, 1, 2, 3, 4]] * 3


COMPILE = """
import torch
from mmim.draw import Draw
from mmim.masking.ball import BallMasking
from mmim.records import Tokens
made = Tokens(torch.zeros(4, 16, 1), torch.randn(4, 16, 3))
rank = lambda keys: BallMasking().rank(made, Draw(keys))
keys = torch.arange(4)
assert torch.equal(torch.compile(rank, fullgraph=True, backend="aot_eager")(keys), rank(keys))
"""


@pytest.mark.slow
def test_ranking_compiles_into_one_graph():
    # In a process of its own, since a graph can't hold the shape checks that pytest adds.
    subprocess.run([sys.executable, "-c", COMPILE], check=True, timeout=300)
