import pytest
import torch

from mmim.config import from_plain, to_plain
from mmim.draw import Draw
from mmim.errors import OptionError
from mmim.masking.budget import Budget, Ratio
from mmim.masking.dirichlet import Dirichlet
from mmim.masking.each import Each
from mmim.masking.mixture import Mixture
from mmim.parts import lookup
from tests.toy import tokens

DRAW = Draw(torch.arange(6))
MADE = {"image": tokens(6, (14, 14)), "video": tokens(6, (8, 14, 14))}
RANKS = {name: DRAW.uniform(name, part.count) for name, part in MADE.items()}
OMNIMAE = Each(of={"image": Ratio(0.75, "hidden_down"), "video": Ratio(0.9, "hidden_down")})


def test_each_modality_is_cut_by_its_own_budget():
    splits = OMNIMAE.cut(RANKS, MADE, DRAW)
    assert [split.ids_keep.shape for split in splits.values()] == [(6, 49), (6, 157)]  # fact sheet 2.2
    for name, budget in OMNIMAE.of.items():
        alone = budget.cut({name: RANKS[name]}, {name: MADE[name]}, DRAW)[name]
        assert torch.equal(splits[name].ids_keep, alone.ids_keep)
        assert torch.equal(splits[name].ids_masked, alone.ids_masked)


def test_a_modality_that_nobody_in_the_batch_has_is_left_out():
    assert set(OMNIMAE.cut({"video": RANKS["video"]}, {"video": MADE["video"]}, DRAW)) == {"video"}


def test_a_shared_budget_inside_is_shared_with_nobody():
    budget = Each(of={"image": Dirichlet(total=40), "video": Ratio(0.9)})
    split = budget.cut(RANKS, MADE, DRAW)["image"]
    assert split.keep_valid.sum(dim=1).tolist() == [40] * 6


def test_two_random_budgets_draw_independently():
    draw = Draw(torch.arange(400))
    made = {name: tokens(400, (2, 2)) for name in ("a", "b")}
    ranks = {name: draw.uniform(name, 4) for name in made}
    either = Mixture(budgets=(Ratio(0.25), Ratio(0.75)))
    splits = Each(of={"a": either, "b": either}).cut(ranks, made, draw)
    one, other = (split.keep_valid.sum(dim=1) for split in splits.values())
    assert (one == other).double().mean().item() == pytest.approx(0.5, abs=4 * 0.5 / 20)


@pytest.mark.parametrize(
    ("of", "message"),
    [
        ({"image": Ratio()}, "The budget has no part for 'video'; there are image"),
        (
            {"image": Ratio(), "video": Ratio(), "sound": Ratio()},
            "The budget has a part for 'sound'; there are image, video",
        ),
        ({"image": Dirichlet(alphas={"video": 1.0}), "video": Ratio()}, r"Dirichlet\.alphas names 'video'"),
    ],
)
def test_budgets_and_modalities_must_be_the_same(of, message):
    with pytest.raises(OptionError, match=message):
        Each(of=of).check(["image", "video"])


def test_it_can_be_written_and_read_again():
    assert from_plain(Budget, to_plain(OMNIMAE)) == OMNIMAE
    assert lookup("budget", "each") is Each
