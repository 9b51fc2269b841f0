import pytest
import torch

from mmim.config import from_plain, to_plain
from mmim.draw import Draw
from mmim.errors import OptionError
from mmim.masking.budget import Budget, Ratio
from mmim.masking.dirichlet import Dirichlet
from mmim.masking.dual import DualMasking
from mmim.masking.mixture import Mixture
from mmim.parts import lookup
from tests.toy import tokens

MANY = 4000
ALONE = [Dirichlet(total=8, alphas={other: 0.0}) for other in ("a", "b")]  # all of b, all of a


def cut(budget, count=MANY, start=0, ranks=None):
    made = {"a": tokens(count, (4, 4)), "b": tokens(count, (3, 4))}
    draw = Draw(torch.arange(start, start + count))
    return budget.cut(ranks or {name: draw.uniform(name, part.count) for name, part in made.items()}, made, draw)


def kept(splits):
    return torch.stack([_valid(split.ids_keep, split.keep_valid).sum(dim=1) for split in splits.values()], dim=1)


def _valid(ids, valid):
    return torch.ones_like(ids, dtype=torch.bool) if valid is None else valid


@pytest.mark.parametrize(("weights", "share"), [((), 0.5), ((1.0, 3.0), 0.25), ((0.0, 2.0), 0.0), ((5.0, 0.0), 1.0)])
def test_each_budget_is_drawn_as_often_as_its_weight_says(weights, share):
    found = kept(cut(Mixture(budgets=tuple(ALONE), weights=weights)))
    assert {tuple(row) for row in found.unique(dim=0).tolist()} <= {(0, 8), (8, 0)}
    error = 4 * (share * (1 - share) / MANY) ** 0.5
    assert (found[:, 1] == 8).double().mean().item() == pytest.approx(share, abs=error)


def test_a_sample_is_cut_as_the_budget_that_was_drawn_cuts_it():
    budgets = (Ratio(0.25), Ratio(0.75))
    mixed, parts = cut(Mixture(budgets=budgets), 50), [cut(budget, 50) for budget in budgets]
    for name, split in mixed.items():
        for row in range(50):
            which = 0 if split.keep_valid[row].sum() > parts[1][name].ids_keep.shape[1] else 1
            alone = parts[which][name]
            assert torch.equal(split.ids_keep[row][split.keep_valid[row]], alone.ids_keep[row])
            assert torch.equal(split.ids_masked[row][split.masked_valid[row]], alone.ids_masked[row])


def test_one_draw_decides_for_all_modalities_of_a_sample():
    found = kept(cut(Mixture(budgets=(Ratio(0.25), Ratio(0.75))), 200))
    assert {tuple(row) for row in found.unique(dim=0).tolist()} == {(12, 9), (4, 3)}


def test_shapes_are_the_same_whatever_is_drawn():
    budget = Mixture(budgets=(Dirichlet(total=8), Ratio(0.5), Ratio(0.75)), weights=(1.0, 1.0, 1.0))
    shapes = {
        tuple((split.ids_keep.shape, split.ids_masked.shape, split.keep_valid.shape) for split in splits.values())
        for splits in (cut(budget, 3, start) for start in range(0, 60, 3))
    }
    assert len(shapes) == 1


def test_budgets_of_one_shape_need_no_validity():
    splits = cut(Mixture(budgets=(Ratio(0.5), Ratio(0.5))), 5)
    assert all(split.keep_valid is None and split.masked_valid is None for split in splits.values())


def test_what_counts_follows_the_budget_that_was_drawn():
    made = {"a": tokens(40, (4, 4, 4))}
    draw = Draw(torch.arange(40))
    ranks = {"a": draw.uniform("ranks", 64)}
    budgets = (DualMasking(encoder=Ratio(0.5)), Ratio(0.5))
    mixed = Mixture(budgets=budgets).cut(ranks, made, draw)["a"]
    alone = [budget.cut(ranks, made, draw.named(f"budget {i}"))["a"] for i, budget in enumerate(budgets)]
    dual = (mixed.ids_masked == alone[0].ids_masked).all(dim=1)
    assert 0 < dual.sum() < 40
    assert torch.equal(mixed.counted[dual], alone[0].counted[dual])
    assert not alone[0].counted.all()
    assert mixed.counted[~dual].all()  # of a plain budget all that is asked counts


def test_a_sample_alone_is_cut_as_in_a_batch():
    budget = Mixture(budgets=(Dirichlet(total=8), Ratio(0.5)))
    whole, alone = cut(budget, 9), cut(budget, 1, start=5)
    for name in whole:
        for part in ("ids_keep", "keep_valid", "ids_masked", "masked_valid"):
            assert torch.equal(getattr(whole[name], part)[5], getattr(alone[name], part)[0])


@pytest.mark.parametrize(
    ("budgets", "total"),
    [((Dirichlet(total=8), Dirichlet(total=20)), 20), ((Dirichlet(total=8), Ratio()), None)],
)
def test_the_encoder_makes_room_for_the_largest(budgets, total):
    assert Mixture(budgets=budgets).total == total


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"budgets": ()}, r"Mixture\.budgets"),
        ({"budgets": (Ratio(),), "weights": (1.0, 2.0)}, r"Mixture\.weights"),
        ({"budgets": (Ratio(), Ratio()), "weights": (0.0, 0.0)}, r"Mixture\.weights"),
        ({"budgets": (Ratio(), Ratio()), "weights": (-1.0, 2.0)}, r"Mixture\.weights"),
    ],
)
def test_weights_that_are_none_are_refused(fields, message):
    with pytest.raises(OptionError, match=message):
        Mixture(**fields)


def test_every_budget_inside_is_checked():
    with pytest.raises(OptionError, match=r"Dirichlet\.alphas names 'c'"):
        Mixture(budgets=(Ratio(), Dirichlet(alphas={"c": 1.0}))).check(["a", "b"])


def test_it_can_be_written_and_read_again():
    budget = Mixture(budgets=(Dirichlet(total=8), Ratio(0.5)), weights=(1.0, 3.0))
    assert from_plain(Budget, to_plain(budget)) == budget
    assert lookup("budget", "mixture") is Mixture
