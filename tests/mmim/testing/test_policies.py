"""Every check of a masking policy notices its fault and no other, and all built-in policies pass."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from mmim.errors import MaskingError
from mmim.masking.ball import BallMasking
from mmim.masking.block import BlockMasking
from mmim.masking.cell import CellMasking
from mmim.masking.cuboid import CuboidMasking
from mmim.masking.random import RandomMasking
from mmim.masking.running_cell import RunningCellMasking
from mmim.masking.span import SpanMasking
from mmim.masking.stripes import FrequencyMasking, TimeFrequencyMasking, TimeMasking
from mmim.masking.tube import TubeMasking
from mmim.parts import lookup, names
from mmim.testing import MASKING_CHECKS, run, run_all

BUILT_IN = (
    BallMasking(),
    BlockMasking(),
    BlockMasking(smallest=2, largest=5),
    CellMasking(),
    CuboidMasking(),
    CuboidMasking(cell=1, smallest=1, largest=4, frames=(1, 2)),
    FrequencyMasking(),
    RandomMasking(),
    RunningCellMasking(),
    SpanMasking(),
    SpanMasking(mean=5.0, longest=10),
    TimeMasking(),
    TimeFrequencyMasking(),
    TubeMasking(),
)


@pytest.mark.parametrize("check", MASKING_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("policy", BUILT_IN, ids=str)
def test_a_policy_honours_the_contract(policy, check):
    run(check, policy)


def test_no_policy_is_forgotten():
    assert {lookup("masking", name) for name in names("masking")} == {type(policy) for policy in BUILT_IN}


class Sound(RandomMasking):
    pass


class TakesNothing(RandomMasking):
    def rank(self, tokens, draw, hint=None):
        raise MaskingError("never")


class NotFinite(RandomMasking):
    """One token of each sample is to stay whatever happens."""

    def rank(self, tokens, draw, hint=None):
        ranks = super().rank(tokens, draw)
        return torch.where(ranks == ranks.amin(dim=1, keepdim=True), -torch.inf, ranks)


class Unseeded(RandomMasking):
    def rank(self, tokens, draw, hint=None):
        return torch.rand(tokens.values.shape[:2])


class OnlyOnce(RandomMasking):
    """Whatever the draw, the same: no place is ever hidden that was not at first."""

    def rank(self, tokens, draw, hint=None):
        return torch.linspace(0, 1, tokens.count).expand(len(draw.keys), -1)


class FirstServesAll(RandomMasking):
    def rank(self, tokens, draw, hint=None):
        return super().rank(tokens, draw)[:1].expand(len(tokens.values), -1)


class LyingGroups(RandomMasking):
    def group(self, tokens):
        return 2


class Unseen(RandomMasking):
    """Has no ranks for some tokens, which sort behind the padding, and are lost where there is some."""

    def rank(self, tokens, draw, hint=None):
        ranks = super().rank(tokens, draw)
        return ranks if tokens.valid is None else ranks.index_fill(1, torch.arange(2, 4), torch.nan)


class AlwaysSeesTheFirst(RandomMasking):
    def rank(self, tokens, draw, hint=None):
        return super().rank(tokens, draw).index_fill(1, torch.tensor([0]), -1.0)


class WritesIntoTokens(RandomMasking):
    def rank(self, tokens, draw, hint=None):
        tokens.values.detach()[0, 0] = 7
        return super().rank(tokens, draw)


class Unpicklable(RandomMasking):
    def __reduce__(self):
        raise TypeError("it holds a lock")


@dataclass(frozen=True)
class FieldOfASet(RandomMasking):
    chosen: frozenset[int] = frozenset({1})


class Guided(RandomMasking):
    """A policy with a hint gets one."""

    hint: ClassVar[str | None] = "loss"

    def rank(self, tokens, draw, hint=None):
        return super().rank(tokens, draw) + hint


FAULTS = {
    Sound: set(),
    Guided: set(),
    TakesNothing: {"it_takes_some_tokens"},
    NotFinite: {"ranks_are_a_number_for_each_token"},
    Unseeded: {"the_same_draw_gives_the_same_ranks", "ranks_do_not_depend_on_the_batch"},
    OnlyOnce: {"another_draw_gives_other_ranks", "every_place_is_hidden_now_and_then"},
    FirstServesAll: {"ranks_do_not_depend_on_the_batch", "every_place_is_hidden_now_and_then"},
    LyingGroups: {"whole_groups_and_the_promised_count_are_kept"},
    Unseen: {
        "ranks_are_a_number_for_each_token",
        "the_same_draw_gives_the_same_ranks",  # no number is not itself
        "ranks_do_not_depend_on_the_batch",
        "visible_and_masked_partition_the_tokens",
        "every_place_is_hidden_now_and_then",
    },
    AlwaysSeesTheFirst: {"every_place_is_hidden_now_and_then"},
    WritesIntoTokens: {"ranking_leaves_the_tokens_alone"},
    Unpicklable: {"it_survives_pickling"},
    FieldOfASet: {"its_fields_survive_a_recipe_file"},
}


@pytest.mark.parametrize("part", FAULTS, ids=lambda part: part.__name__)
def test_a_fault_fails_its_checks_and_no_other(part):
    failed = {o.check: o.came for o in run_all(MASKING_CHECKS, part()) if o.result == "failed"}
    assert set(failed) == FAULTS[part], failed


def test_every_check_has_a_fault_that_it_notices():
    assert set().union(*FAULTS.values()) == {check.__name__ for check in MASKING_CHECKS}
