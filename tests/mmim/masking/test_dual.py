import pytest
import torch

from mmim.config import from_plain, to_plain
from mmim.corruption.mask_token import MaskToken
from mmim.draw import Draw
from mmim.encoders.encoder import Trunk
from mmim.encoders.joint import JointEncoder
from mmim.errors import MaskingError, OptionError
from mmim.masking.budget import Budget, Ratio, groups_of
from mmim.masking.cell import CellMasking
from mmim.masking.dual import DualMasking
from mmim.masking.random import RandomMasking
from mmim.masking.running_cell import RunningCellMasking
from mmim.masking.tube import TubeMasking
from mmim.model import MaskedModel, Step
from mmim.options import apply
from mmim.parts import lookup
from mmim.records import Batch, Split
from tests.toy import TOY, Toy, branch, tokens

GRID = (4, 4, 6)
DRAW = Draw(torch.arange(20))


def cut(budget, made=None, policy=None):
    made, policy = made or tokens(20, GRID), policy or TubeMasking()
    ranks, groups = {"a": policy.rank(made, DRAW)}, {"a": groups_of(policy, made)}
    return budget.cut(ranks, {"a": made}, DRAW, groups)["a"]


def flags(ids, valid=None, n=96):
    valid = torch.ones_like(ids, dtype=torch.bool) if valid is None else valid
    return torch.zeros(len(ids), n, dtype=torch.bool).scatter(1, ids, valid)


def test_dual_is_found_by_its_name():
    assert lookup("budget", "dual") is DualMasking


def test_the_encoder_sees_what_its_own_budget_gives_it():
    encoder = Ratio(0.75, rounding="hidden_down")
    assert torch.equal(cut(DualMasking(encoder=encoder)).ids_keep, cut(encoder).ids_keep)


def test_the_decoder_is_asked_for_its_share_of_all_places_each_once():
    split = cut(DualMasking())
    assert split.ids_masked.shape == (20, 48)
    assert (flags(split.ids_masked).sum(dim=1) == 48).all()
    assert split.masked_valid is None


def test_it_is_asked_for_visible_places_too():
    split = cut(DualMasking(encoder=Ratio(0.5, rounding="hidden_down")))
    both = flags(split.ids_keep) & flags(split.ids_masked)
    assert (both.sum(dim=1) == 24).all()  # the tube's half of the frame's half: two visible slots in four


def test_what_counts_was_hidden_from_the_encoder():
    split = cut(DualMasking(encoder=Ratio(0.75, rounding="hidden_down")))
    hidden = ~flags(split.ids_keep)
    assert torch.equal(split.counted, hidden.gather(1, split.ids_masked))
    assert 0 < split.counted.float().mean() < 1


def test_some_hidden_places_are_not_asked_for():
    split = cut(DualMasking(encoder=Ratio(0.75, rounding="hidden_down")))
    assert (~flags(split.ids_keep) & ~flags(split.ids_masked)).any(dim=1).all()


@pytest.mark.parametrize(("ratio", "asked"), [(0.0, 96), (0.25, 72), (0.9, 10), (0.999, 1)])
def test_the_ratio_is_the_share_that_is_not_decoded(ratio, asked):
    split = cut(DualMasking(decoder=RandomMasking(), ratio=ratio))
    assert split.ids_masked.shape == (20, asked)


def test_groups_of_the_decoders_policy_go_together():
    split = cut(DualMasking(decoder=CellMasking(2), ratio=0.5))
    cells = flags(split.ids_masked).unflatten(1, (2, 2, 2, 2, 3, 2))
    assert torch.equal(cells, cells[:, :, :1, :, :1, :, :1].expand_as(cells))


def test_encoder_and_decoder_draw_apart():
    split = cut(DualMasking(encoder=Ratio(0.5), decoder=RandomMasking()), policy=RandomMasking())
    both = (flags(split.ids_keep) & flags(split.ids_masked)).sum(dim=1)
    assert both.min() > 10  # 24 of 48 by chance; one order for both would give 48
    assert both.max() < 40


def test_two_modalities_draw_apart_and_by_their_place():
    made = tokens(20, GRID)
    ranks = {name: RandomMasking().rank(made, DRAW) for name in ("a", "b")}
    budget = DualMasking(decoder=RandomMasking())
    splits = budget.cut(ranks, {"a": made, "b": made}, DRAW)
    assert not torch.equal(splits["a"].ids_masked, splits["b"].ids_masked)
    renamed = budget.cut({"c": ranks["a"]}, {"c": made}, DRAW)
    assert torch.equal(renamed["c"].ids_masked, splits["a"].ids_masked)


def test_a_padded_sample_is_asked_for_its_own_places():
    valid = (torch.arange(4) < torch.tensor([[4], [2]])).repeat_interleave(24, dim=1)
    made = tokens(2, GRID, valid=valid)
    ranks, groups = {"a": TubeMasking().rank(made, Draw(DRAW.keys[:2]))}, {"a": groups_of(TubeMasking(), made)}
    budget = DualMasking(encoder=Ratio(0.75, rounding="hidden_down"))
    split = budget.cut(ranks, {"a": made}, Draw(DRAW.keys[:2]), groups)["a"]
    asked, visible = flags(split.ids_masked, split.masked_valid), flags(split.ids_keep, split.keep_valid)
    assert asked.sum(dim=1).tolist() == [48, 24]
    assert not (asked & ~valid).any()
    assert asked.unflatten(1, (4, 24))[1].sum(dim=1).tolist() == [12, 12, 0, 0]  # half of each frame that is there
    counted = flags(split.ids_masked, split.masked_valid & split.counted)
    assert torch.equal(counted, asked & ~visible)


def test_a_budget_in_a_budget_survives_the_way_to_a_file_and_back():
    budget = DualMasking(encoder=Ratio(0.8), decoder=CellMasking(3), ratio=0.25)
    plain = to_plain(budget)
    assert plain["encoder"] == {"kind": "ratio", "ratio": 0.8, "rounding": "kept_down"}
    assert plain["decoder"] == {"kind": "cell", "cell": 3}
    assert from_plain(Budget, plain) == budget


def test_an_encoder_that_would_see_nothing_is_refused():
    with pytest.raises(MaskingError, match=r"Ratio\(ratio=1.0, .* hides all 96 tokens"):
        cut(DualMasking(encoder=Ratio(1.0)))


def test_a_grid_that_does_not_suit_the_decoders_policy_is_refused():
    with pytest.raises(MaskingError, match=r"Running cells of 2 x 2 tokens do not divide the grid \(4, 2, 3\)"):
        cut(DualMasking(), tokens(20))


class Hinted(RandomMasking):
    hint = "attention"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 1.0}, r"DualMasking.ratio is 1.0; it must be a share in \[0, 1\)"),
        ({"ratio": -0.1}, r"DualMasking.ratio is -0.1"),
        ({"decoder": Hinted()}, r"DualMasking.decoder is .*; it must be a policy without a hint, and it wants 'attent"),
    ],
)
def test_options_that_can_not_be_are_refused_with_the_reason(options, message):
    with pytest.raises(OptionError, match=message):
        DualMasking(**options)


def test_the_defaults_are_those_of_the_paper():
    assert DualMasking() == DualMasking(
        encoder=Ratio(0.9, rounding="hidden_down"), decoder=RunningCellMasking(), ratio=0.5
    )


def test_mask_tokens_stand_where_the_encoder_sees_nothing_whatever_is_decoded():
    budget = DualMasking(encoder=Ratio(0.5), decoder=RandomMasking(), ratio=0.25)
    recipe = apply(TOY, {"budget": budget, "masking.toy": RandomMasking(), "corruption": {"toy": MaskToken()}})
    model, ids = MaskedModel(recipe), torch.arange(5)
    batch = Batch({"main": {"toy": torch.randn(5, 8, 4)}}, {"toy": ids >= 0}, ids, ids, torch.tensor(0))
    step = Step(model, batch)
    visible = step.branch("toy")
    masked = (visible.values - visible.positions - model.trunk.corruption["toy"].mask_token).abs().amax(dim=2) < 1e-6
    split = step.splits["toy"]
    assert torch.equal(masked, ~flags(split.ids_keep, n=8))
    assert torch.equal(split.counted, masked.gather(1, split.ids_masked))


def test_what_a_decoder_is_not_asked_for_is_hidden_all_the_same_behind_mask_tokens():
    trunk = Trunk({"a": Toy()}, JointEncoder(width=8, depth=1, heads=2), {"a": MaskToken()})
    values, ids = torch.randn(1, 8, 4), torch.arange(8)[None]
    split = Split(ids[:, :3], ids[:, 2:5], counted=ids[:, 2:5] >= 3)  # 5, 6, 7 are hidden, and nobody asks for them
    before = branch(trunk, "a", Toy().tokenize(values), split).values
    values[:, 3:] = 100
    assert torch.equal(before, branch(trunk, "a", Toy().tokenize(values), split).values)
