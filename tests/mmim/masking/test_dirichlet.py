from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency, ks_2samp

from mmim.config import from_plain, to_plain
from mmim.draw import Draw
from mmim.errors import MaskingError, OptionError
from mmim.masking.budget import Budget, groups_of
from mmim.masking.dirichlet import Dirichlet
from mmim.masking.random import RandomMasking
from mmim.masking.tube import TubeMasking
from mmim.parts import lookup
from tests.toy import tokens

NAMES = ("rgb", "depth", "semseg")
N, TOTAL, DRAWS = 196, 98, 10_000


def visits(count: int, start: int = 0) -> Draw:
    return Draw(torch.arange(start, start + count) * 7919 + 12345)


def cut(budget, made, draw, present=None, policy=None):
    """The splits of some modalities' tokens, under random ranks unless a policy is given."""
    policy = policy or RandomMasking()
    ranks = {name: policy.rank(part, draw.named(name)) for name, part in made.items()}
    groups = {name: groups_of(policy, part) for name, part in made.items()}
    return budget.cut(ranks, made, draw, groups, present or {})


def counts(splits) -> np.ndarray:
    """Visible tokens of each sample and modality."""
    return torch.stack([split.keep_valid.sum(dim=1) for split in splits.values()], dim=1).numpy()


def ours(alpha: float, **alphas: float) -> np.ndarray:
    made = {name: tokens(DRAWS, (14, 14)) for name in NAMES}
    return counts(cut(Dirichlet(total=TOTAL, alpha=alpha, alphas=alphas), made, visits(DRAWS)))


def multimae(alpha: float, seed: int = 0) -> np.ndarray:
    """The same from MultiMAE's procedure (fact sheet 3.5): shares rounded, then the sum mended by random tokens."""
    noise = np.random.default_rng(seed)
    shares = noise.dirichlet([alpha] * len(NAMES), size=DRAWS)
    chosen = np.round(shares * TOTAL).astype(int)  # b 3
    order = noise.random((DRAWS, len(NAMES), N)).argsort(axis=2).argsort(axis=2)
    hidden = (order >= chosen[:, :, None]).reshape(DRAWS, -1)  # chosen 0, others 1
    kept = (hidden + noise.random(hidden.shape)).argsort(axis=1)[:, :TOTAL]
    return np.stack([(kept // N == place).sum(axis=1) for place in range(len(NAMES))], axis=1)


@pytest.fixture(scope="module", params=[1.0, 0.2])
def both(request) -> tuple[np.ndarray, np.ndarray]:
    return ours(request.param), multimae(request.param)


def test_every_sample_keeps_exactly_the_total(both):
    assert (both[0].sum(axis=1) == TOTAL).all()
    assert (both[1].sum(axis=1) == TOTAL).all()  # and so does what it is compared with


def test_the_mean_is_that_of_multimae(both):
    found, expected = both
    error = 4 * np.sqrt(2 * expected.var(axis=0) / DRAWS)
    assert (np.abs(found.mean(axis=0) - expected.mean(axis=0)) < error).all()
    assert found.mean(axis=0) == pytest.approx(TOTAL / 3, abs=error.max())


def test_the_variance_is_that_of_multimae(both):
    found, expected = both
    centred = (expected - expected.mean(axis=0)) ** 2
    error = 4 * np.sqrt(2 * centred.var(axis=0) / DRAWS)
    assert (np.abs(found.var(axis=0) - expected.var(axis=0)) < error).all()


@pytest.mark.parametrize("place", range(3))
def test_kept_tokens_of_a_modality_are_distributed_as_multimaes(both, place):
    found, expected = (part[:, place] for part in both)
    assert ks_2samp(found, expected).pvalue > 0.005
    rows = np.array([np.histogram(part, bins=[*range(0, 90, 7), TOTAL + 1])[0] for part in (found, expected)])
    assert chi2_contingency(rows).pvalue > 0.005


@pytest.mark.parametrize("alpha", [1.0, 0.2])
def test_of_the_same_shares_it_makes_what_multimae_makes_give_or_take_a_token(alpha):
    # Where the rounded shares add up, exactly that; elsewhere MultiMAE mends the sum by a random token, we by the rule.
    draw = visits(2000)
    gammas = draw.log_gamma("shares", torch.full((3,), alpha)).double()
    rounded = (gammas.softmax(dim=1) * TOTAL).round().long().numpy()
    found = counts(cut(Dirichlet(total=TOTAL, alpha=alpha), {name: tokens(2000, (14, 14)) for name in NAMES}, draw))
    adds_up = rounded.sum(axis=1) == TOTAL
    assert 0.7 < adds_up.mean() < 0.95
    assert (found[adds_up] == rounded[adds_up]).all()
    assert np.abs(found - rounded).max() == 1


def test_two_modalities_vary_together_as_multimaes(both):
    found, expected = both
    assert np.corrcoef(found.T) == pytest.approx(np.corrcoef(expected.T), abs=0.04)


def test_the_comparison_notices_another_concentration():
    assert ks_2samp(ours(1.25)[:, 0], multimae(1.0)[:, 0]).pvalue < 1e-4


def test_alphas_of_single_modalities_give_the_shares_of_such_a_dirichlet():
    found = ours(1.0, rgb=4.0, semseg=0.5) / TOTAL
    assert found.mean(axis=0) == pytest.approx([4 / 5.5, 1 / 5.5, 0.5 / 5.5], abs=0.01)
    variance = [a * (5.5 - a) / (5.5**2 * 6.5) for a in (4.0, 1.0, 0.5)]
    assert found.var(axis=0) == pytest.approx(variance, rel=0.1)


def test_within_a_modality_every_token_is_as_likely():
    made = {name: tokens(2000, (2, 5)) for name in NAMES}
    split = cut(Dirichlet(total=9), made, visits(2000))["depth"]
    seen = split.ids_keep[split.keep_valid].bincount(minlength=10).double()
    assert (seen / seen.mean()).numpy() == pytest.approx(np.ones(10), abs=4 * (10 / seen.sum().item()) ** 0.5)


# Who lacks what, and how much there is.


def test_what_a_sample_lacks_takes_none_and_the_others_take_all():
    made = {name: tokens(60, (14, 14)) for name in NAMES}
    present = {name: torch.ones(60, dtype=torch.bool) for name in NAMES}
    present["depth"][:40] = False
    present["rgb"][20:40] = False
    found = counts(cut(Dirichlet(total=TOTAL), made, visits(60), present))
    assert (found.sum(axis=1) == TOTAL).all()
    assert (found[:40, 1] == 0).all()
    assert (found[20:40, 2] == TOTAL).all()
    assert (found[40:, 1] > 0).any()


def test_a_sample_that_has_nothing_keeps_nothing():
    made = {"rgb": tokens(2, (4, 4))}
    found = cut(Dirichlet(total=4), made, visits(2), {"rgb": torch.tensor([True, False])})
    assert counts(found)[:, 0].tolist() == [4, 0]


def test_an_alpha_of_0_is_never_an_input_and_all_of_it_is_hidden():
    made = {name: tokens(20, (14, 14)) for name in NAMES}
    split = cut(Dirichlet(total=TOTAL, alphas={"depth": 0.0}), made, visits(20))["depth"]
    assert split.ids_keep.shape == (20, 0)
    assert split.masked_valid.all()
    assert torch.equal(split.ids_masked.sort(dim=1).values, torch.arange(N).expand(20, N))


def test_a_sample_with_fewer_tokens_than_the_total_keeps_all():
    valid = torch.arange(24) < torch.tensor([24, 3, 0])[:, None]
    made = {"a": tokens(3, valid=valid), "b": tokens(3, (2, 3))}
    splits = cut(Dirichlet(total=20), made, visits(3))
    assert counts(splits).sum(axis=1).tolist() == [20, 9, 6]
    assert not splits["a"].masked_valid[1:].any()
    kept = splits["a"].ids_keep[1][splits["a"].keep_valid[1]]
    assert sorted(kept.tolist()) == [0, 1, 2]


def test_visible_and_hidden_partition_the_valid_tokens():
    valid = torch.arange(24) < torch.tensor([24, 11, 5, 0])[:, None]
    made = {"a": tokens(4, valid=valid), "b": tokens(4, (3, 3))}
    splits = cut(Dirichlet(total=8), made, visits(4))
    for name, part in made.items():
        split, n = splits[name], part.count
        seen, hidden = (
            torch.zeros(4, n, dtype=torch.long).scatter_add(1, ids, flags.long())
            for ids, flags in ((split.ids_keep, split.keep_valid), (split.ids_masked, split.masked_valid))
        )
        there = torch.ones(4, n, dtype=torch.long) if part.valid is None else part.valid.long()
        assert torch.equal(seen + hidden, there)


def test_the_lowest_ranks_of_each_modality_stay():
    made = {name: tokens(10, (4, 4)) for name in NAMES}
    ranks = {name: torch.rand(10, 16, generator=torch.Generator().manual_seed(i)) for i, name in enumerate(NAMES)}
    for name, split in Dirichlet(total=20).cut(ranks, made, visits(10)).items():
        for row in range(10):
            kept, hidden = split.ids_keep[row][split.keep_valid[row]], split.ids_masked[row][split.masked_valid[row]]
            order = torch.cat([ranks[name][row, kept], ranks[name][row, hidden]])
            assert all(one <= two for one, two in pairwise(order.tolist()))


def test_a_sample_alone_is_cut_as_in_a_batch():
    budget, keys = Dirichlet(total=20), visits(9).keys

    def cuts(chosen):
        draw = Draw(keys[chosen])
        return cut(budget, {name: tokens(len(chosen), (5, 5)) for name in NAMES}, draw)

    whole = cuts(list(range(9)))
    for row in (0, 4, 8):
        for name, alone in cuts([row]).items():
            for part in ("ids_keep", "ids_masked", "keep_valid", "masked_valid"):
                assert torch.equal(getattr(alone, part)[0], getattr(whole[name], part)[row])


def test_another_seed_draws_other_shares():
    made = {name: tokens(30, (14, 14)) for name in NAMES}
    one, other = (counts(cut(Dirichlet(), made, visits(30, start))) for start in (0, 1000))
    assert (one != other).mean() > 0.9


def test_tubes_stay_whole_and_the_sum_is_below_the_total_by_less_than_one_of_each():
    made = {"clip": tokens(40, (4, 3, 3)), "other": tokens(40, (4, 2, 2))}
    splits = cut(Dirichlet(total=18), made, visits(40), policy=TubeMasking())
    for name, places in (("clip", 9), ("other", 4)):
        split = splits[name]
        seen = torch.zeros(40, 4 * places, dtype=torch.bool).scatter(1, split.ids_keep, split.keep_valid)
        frames = seen.unflatten(1, (4, places))
        assert torch.equal(frames.any(dim=1), frames.all(dim=1))
    found = counts(splits).sum(axis=1)
    assert ((found >= 18 - 2 * 3) & (found <= 18)).all()


def test_shapes_do_not_depend_on_what_was_drawn():
    made = {name: tokens(3, (14, 14)) for name in NAMES} | {"short": tokens(3, (2, 3))}
    shapes = {
        tuple(
            (name, split.ids_keep.shape, split.ids_masked.shape) for name, split in cut(Dirichlet(), made, draw).items()
        )
        for draw in (visits(3, start) for start in range(0, 50, 10))
    }
    assert len(shapes) == 1
    assert {name: keep[1] for name, keep, _ in shapes.pop()} == dict.fromkeys(NAMES, TOTAL) | {"short": 6}


def test_its_total_is_what_the_encoder_makes_room_for():
    assert Dirichlet(total=98).total == 98


def test_it_can_be_written_and_read_again():
    budget = Dirichlet(total=128, alpha=0.5, alphas={"rgb": 10.0})
    assert from_plain(Budget, to_plain(budget)) == budget
    assert lookup("budget", "dirichlet") is Dirichlet


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"total": 0}, r"Dirichlet\.total"),
        ({"alpha": 0.0}, r"Dirichlet\.alpha"),
        ({"alphas": {"rgb": -1.0}}, r"Dirichlet\.alphas\.rgb"),
    ],
)
def test_values_that_are_no_budget_are_refused(fields, message):
    with pytest.raises(OptionError, match=message):
        Dirichlet(**fields)


def test_an_alpha_for_nobody_and_none_for_anybody_are_refused():
    with pytest.raises(OptionError, match=r"Dirichlet\.alphas names 'sound'; there are rgb, depth, semseg"):
        Dirichlet(alphas={"sound": 1.0}).check(NAMES)
    with pytest.raises(OptionError, match=r"Dirichlet\.alphas is 0 for every modality"):
        Dirichlet(alphas=dict.fromkeys(NAMES, 0.0)).check(NAMES)


def test_groups_larger_than_the_total_are_refused():
    with pytest.raises(MaskingError, match=r"those of 'clip' stay or go 4 at a time: use a larger total"):
        cut(Dirichlet(total=3), {"clip": tokens(2, (4, 3, 3))}, visits(2), policy=TubeMasking())
