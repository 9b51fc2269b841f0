from dataclasses import replace

import pytest
import torch

from mmim.draw import Draw
from mmim.errors import MaskingError, OptionError
from mmim.masking.budget import groups_of
from mmim.masking.cell import CellMasking
from mmim.masking.complementary import Complementary
from mmim.masking.random import RandomMasking
from mmim.parts import lookup
from tests.toy import tokens

GRID = (4, 6)
NAMES = ("a", "b", "c")


def cut(budget, names=NAMES, policy=None, made=None):
    made = made or {name: tokens(5, GRID) for name in names}
    draw, policy = Draw(torch.arange(5)), policy or RandomMasking()
    ranks = {name: policy.rank(part, draw.named(name)) for name, part in made.items()}
    groups = {name: groups_of(policy, part) for name, part in made.items()}
    return budget.cut(ranks, made, draw, groups), ranks


def seen(splits):
    return torch.stack([torch.zeros(5, 24).scatter(1, split.ids_keep, 1.0) for split in splits.values()])


@pytest.mark.parametrize(("share", "places"), [(0.25, 6), (1 / 3, 8), (0.3, 7)])
def test_no_two_modalities_see_the_same_place(share, places):
    found = seen(cut(Complementary(share=share))[0])
    assert (found.sum(dim=0) <= 1).all()
    assert (found.sum(dim=2) == places).all()


def test_together_they_see_everything_where_the_shares_add_up_to_1():
    assert (seen(cut(Complementary(share=1 / 3))[0]).sum(dim=0) == 1).all()
    assert (seen(cut(Complementary(share=0.5), NAMES[:2])[0]).sum(dim=0) == 1).all()


def test_each_is_asked_for_all_that_it_does_not_see():
    for split in cut(Complementary(share=0.25))[0].values():
        both = torch.cat([split.ids_keep, split.ids_masked], dim=1).sort(dim=1).values
        assert torch.equal(both, torch.arange(24).expand(5, 24))
        assert split.keep_valid is None


def test_the_ranking_of_the_first_decides():
    splits, ranks = cut(Complementary(share=0.25))
    assert torch.equal(splits["a"].ids_keep, ranks["a"].argsort(dim=1)[:, :6])
    assert torch.equal(splits["b"].ids_keep, ranks["a"].argsort(dim=1)[:, 6:12])


def test_cells_stay_whole():
    splits, _ = cut(Complementary(share=0.5), NAMES[:2], CellMasking(cell=2))
    for flags in seen(splits):
        cells = flags.unflatten(1, (2, 2, 3, 2)).transpose(2, 3).flatten(3)
        assert torch.equal(cells.amax(dim=-1), cells.amin(dim=-1))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"a": tokens(5, GRID), "b": tokens(5, (6, 4))}, r"that of 'a' is \(4, 6\), that of 'b' \(6, 4\)"),
        (
            {"a": tokens(5, GRID), "b": tokens(5, GRID, valid=torch.ones(5, 24, dtype=torch.bool))},
            r"that of 'b' \(4, 6\), padded",
        ),
        ({"a": replace(tokens(5, GRID), grid=None), "b": tokens(5, GRID)}, "need one full grid for all"),
    ],
)
def test_other_grids_are_refused(made, message):
    with pytest.raises(MaskingError, match=message):
        cut(Complementary(), made=made)


@pytest.mark.parametrize("share", [0.5, 0.01])
def test_shares_that_leave_one_without_anything_are_refused(share):
    with pytest.raises(MaskingError, match=r"use a share of at least 0\.04167 and at most 0\.3333"):
        cut(Complementary(share=share))


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_a_share_is_a_share(share):
    with pytest.raises(OptionError, match=r"Complementary\.share"):
        Complementary(share=share)


def test_it_is_found_by_its_name():
    assert lookup("budget", "complementary") is Complementary
