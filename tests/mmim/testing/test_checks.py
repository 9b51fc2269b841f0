"""Every check notices the fault that it is for, and no other check takes it for its own."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from mmim.errors import ReadError
from mmim.masking.random import RandomMasking
from mmim.masking.tube import TubeMasking
from mmim.modality import BatchEmbedder, MaskingPolicy, Modality, Target
from mmim.records import Tokens
from mmim.targets.pixels import Pixels
from mmim.testing import MODALITY_CHECKS, depicted, run_all
from tests.toy import Toy


@dataclass(frozen=True, kw_only=True)
class Sound(Toy):
    """The toy as it should be: it draws its file of a scene."""

    masking: ClassVar[MaskingPolicy] = TubeMasking()
    target: ClassVar[Target] = Pixels()

    def depict(self, scene: Any, path: Any) -> None:
        np.save(path, scene.nuisance("toy").normal(size=(self.rows, self.columns)).astype(np.float32))


class Embedder(nn.Module):
    """A linear map with something after it."""

    def __init__(self, columns: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(columns, width)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.after(self.proj(values))

    def after(self, x: torch.Tensor) -> torch.Tensor:
        return x


class OfTheProcess(Embedder):
    """Begins in another way in every process."""

    def __init__(self, columns: int, width: int) -> None:
        super().__init__(columns, width)
        self.proj.weight.data.mul_(1 + os.getpid() % 7919 / 7919)


class AnyOrder(nn.Module):
    """Linear maps in the order of a set of words, which another process has by chance once in 12! times."""

    def __init__(self, columns: int, width: int) -> None:
        super().__init__()
        words = set("one two three four five six seven eight nine ten eleven twelve".split())  # noqa: SIM905
        self.maps = nn.ModuleDict({name: nn.Linear(columns, width) for name in words})

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return torch.stack([one(values) for one in self.maps.values()]).sum(dim=0)


# One fault each


class UnseededRead(Sound):
    def read(self, source, draw):
        return super().read(source, draw) + (0 if draw is None else torch.rand(1))


class UnseededEvaluation(Sound):
    def read(self, source, draw):
        return super().read(source, draw) + (1e-6 * torch.rand(1) if draw is None else 0)


class NothingRandom(Sound):
    def read(self, source, draw):
        return super().read(source, None)


class HalfBlank(Sound):
    def blank(self):
        return super().blank().half()


class PathInReason(Sound):
    def read(self, source, draw):
        try:
            return super().read(source, draw)
        except ReadError as error:
            raise ReadError(f"{source.path} is no array") from error


@dataclass(frozen=True, kw_only=True)
class Closure(Sound):
    function: Callable[[int], int] = field(default=lambda x: x)


class CrashesOnDamage(Sound):
    def read(self, source, draw):
        if not source.path.is_file():
            raise ReadError("no file")
        numbers = torch.from_numpy(np.load(source.path))
        return numbers if draw is None else numbers + draw.uniform("shift", 1)


class ReadsTheName(Sound):
    def read(self, source, draw):
        return super().read(source, draw) + len(source.name)


@dataclass(frozen=True, kw_only=True)
class FieldOfASet(Sound):
    chosen: frozenset[str] = frozenset({"a"})


class AnotherInEachProcess(Sound):
    def embedder(self, width):
        return OfTheProcess(self.columns, width)


class OrderOfASet(Sound):
    def embedder(self, width):
        return AnyOrder(self.columns, width)


class OtherGrid(Sound):
    def grid(self):
        return 2, 4


class TurnedCoords(Sound):
    def tokenize(self, raw):
        tokens = super().tokenize(raw)
        return Tokens(tokens.values, tokens.coords.flip(2), grid=tokens.grid)


class WrongInverse(Sound):
    def untokenize(self, values, tokens):
        return values.roll(1, dims=1)


class WrongRaw(Sound):
    def raw(self, values):
        return values * (1 + torch.arange(self.columns))


class InPlace(Sound):
    def tokenize(self, raw):
        return super().tokenize(raw.clamp_(-1, 1))


class LyingGroups(RandomMasking):
    def group(self, tokens):
        return 2


class Unseen(RandomMasking):
    """Wants some tokens never seen, and ranks them like padding."""

    def rank(self, tokens, draw, hint=None):
        return super().rank(tokens, draw).index_fill(1, torch.arange(4, 8), torch.inf)


class FirstServesAll(RandomMasking):
    def rank(self, tokens, draw, hint=None):
        return super().rank(tokens, draw)[:1].expand(len(tokens.values), -1)


class Lies(Sound):
    masking = LyingGroups()


class Padded(Sound):
    """The first token of every sample is padding."""

    def tokenize(self, raw):
        tokens = super().tokenize(raw)
        valid = (torch.arange(tokens.count) > 0).expand(len(raw), -1)
        return Tokens(tokens.values, tokens.coords, valid, tokens.grid)


class PaddedSound(Padded):
    masking = RandomMasking()


class NeverSeen(Padded):
    masking = Unseen()


class SharedMask(Sound):
    masking = FirstServesAll()


class PositionsThatSee(nn.Module):
    def __init__(self, positions):
        super().__init__()
        self.positions = positions

    def forward(self, tokens):
        return self.positions(tokens) + tokens.values.mean(dim=(1, 2), keepdim=True)


class Peeking(Sound):
    def position(self, width):
        return PositionsThatSee(super().position(width))


class MixesTokens(Embedder):
    def after(self, x):
        return x + x.mean(dim=1, keepdim=True)


class Mixing(Sound):
    def embedder(self, width):
        return MixesTokens(self.columns, width)


class CentresInTraining(BatchEmbedder):
    """Takes the mean of all tokens away, the hidden ones too, while it trains."""

    sees_hidden = True

    def __init__(self, columns: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(columns, width)

    def forward(self, values, counted):
        if self.training:
            weights = counted[..., None].to(values.dtype)
            values = values - (values * weights).sum(dim=(0, 1)) / weights.sum().clamp(min=1)
        return self.proj(values)


class Statistics(Sound):
    def embedder(self, width):
        return CentresInTraining(self.columns, width)


class HalfTarget(Pixels):
    """Predicts twice as much as it compares."""

    def size(self, modality):
        return 2 * super().size(modality)

    def loss(self, pred, target):
        return super().loss(pred[..., : target.shape[-1]], target)

    def pieces(self, pred, tokens, ids, modality):
        return super().pieces(pred[..., : pred.shape[-1] // 2], tokens, ids, modality)


class TwiceTheSize(Sound):
    target = HalfTarget()


class TinyTarget(Pixels):
    def values(self, tokens, ids, modality):
        return super().values(tokens, ids, modality) * 1e-3


class Vanishing(Sound):
    target = TinyTarget()


class BatchNorm(Embedder):
    def __init__(self, columns, width):
        super().__init__(columns, width)
        self.norm = nn.BatchNorm1d(width)

    def after(self, x):
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


class MixesSamples(Sound):
    def embedder(self, width):
        return BatchNorm(self.columns, width)


class NoEpsilon(Sound):
    def tokenize(self, raw):
        return super().tokenize(raw / raw.square().mean(dim=(1, 2), keepdim=True).sqrt())


class LoudestHidden(Pixels):
    """Scales by the largest hidden value, of which there may be none."""

    def values(self, tokens, ids, modality):
        values = super().values(tokens, ids, modality)
        return values / values.abs().amax(dim=(1, 2), keepdim=True).clamp(min=1)


class NeedsHidden(Sound):
    target = LoudestHidden()


class LargestOfSome(Embedder):
    """Looks at the largest of the tokens, of which there may be none."""

    def after(self, x):
        return x + 0 * x.amax(dim=1, keepdim=True)


class NeedsSome(Sound):
    def embedder(self, width):
        return LargestOfSome(self.columns, width)


class Standardises(Embedder):
    def after(self, x):
        return (x - x.mean(dim=1, keepdim=True)) / x.var(dim=1, keepdim=True).add(1e-3).sqrt()


class NeedsTwo(Sound):
    masking = RandomMasking()

    def embedder(self, width):
        return Standardises(self.columns, width)


class Idle(Embedder):
    def __init__(self, columns, width):
        super().__init__(columns, width)
        self.scale = nn.Parameter(torch.ones(width))


class IdleParameter(Sound):
    def embedder(self, width):
        return Idle(self.columns, width)


class Nowhere(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.width = width

    def forward(self, tokens):
        return torch.zeros(1, tokens.count, self.width)


class NoPositions(Sound):
    def position(self, width):
        return Nowhere(width)


class OnlyFloat32(Embedder):
    def after(self, x):
        places = torch.arange(x.shape[1]).reshape(1, -1, 1).expand_as(x)
        return torch.zeros(x.shape, dtype=torch.float32).scatter(1, places, x)


class NotInBfloat16(Sound):
    def embedder(self, width):
        return OnlyFloat32(self.columns, width)


class FloatPicture(Sound):
    def render(self, data):
        return [np.zeros((2, 2, 3), np.float32) for _ in data]


class LogFeatures(Sound):
    def features(self, raw):
        return super().features(raw).log()


class CentresTheBatch(Embedder):
    def after(self, x):
        return x if self.training else x - x.mean(dim=0, keepdim=True)


class Neighbours(Sound):
    def embedder(self, width):
        return CentresTheBatch(self.columns, width)


FAULTS: dict[type[Modality], set[str]] = {
    Sound: set(),
    PaddedSound: set(),
    UnseededRead: {
        "reading_depends_on_the_draw_alone",
        "reading_does_not_depend_on_where_the_file_lies",
        "a_worker_reads_the_same",
    },
    UnseededEvaluation: {
        "the_evaluation_view_is_always_the_same",
        "reading_does_not_depend_on_where_the_file_lies",
    },
    NothingRandom: {"another_draw_gives_another_view"},
    HalfBlank: {"an_absent_sample_stands_among_others", "a_batch_without_anybody_is_harmless"},
    PathInReason: {"a_file_that_is_not_there_is_left_out", "a_damaged_file_is_read_or_refused"},
    CrashesOnDamage: {"a_damaged_file_is_read_or_refused"},
    ReadsTheName: {"reading_does_not_depend_on_where_the_file_lies"},
    FieldOfASet: {"its_fields_survive_a_recipe_file"},
    Closure: {"a_worker_reads_the_same", "its_fields_survive_a_recipe_file", "two_ranks_agree"},
    AnotherInEachProcess: {"two_ranks_agree"},
    OrderOfASet: {"two_ranks_agree"},
    OtherGrid: {"tokens_have_the_declared_shapes"},
    TurnedCoords: {"tokens_have_the_declared_shapes"},
    WrongInverse: {"untokenize_is_the_inverse_of_the_cut"},
    WrongRaw: {"untokenize_is_the_inverse_of_the_cut"},
    InPlace: {"tokenizing_leaves_its_input_alone"},
    Lies: {"masks_keep_whole_groups_and_the_promised_count"},
    NeverSeen: {"visible_and_masked_partition_the_tokens"},
    SharedMask: {"a_sample_gets_the_same_mask_in_any_batch", "parts_of_a_batch_add_up_to_the_whole"},
    Peeking: {
        "hidden_content_stays_hidden",
        "hidden_content_stays_hidden_behind_mask_tokens",
        "hidden_content_stays_hidden_in_training",
    },
    Statistics: {"hidden_content_stays_hidden_in_training", "parts_of_a_batch_add_up_to_the_whole"},
    Mixing: {"hidden_content_stays_hidden_behind_mask_tokens"},
    TwiceTheSize: {"targets_fit_their_predictions"},
    Vanishing: {"targets_are_of_order_one"},
    MixesSamples: {"absent_samples_count_for_nothing", "parts_of_a_batch_add_up_to_the_whole"},
    NoEpsilon: {"absent_samples_count_for_nothing", "a_batch_without_anybody_is_harmless"},
    NeedsHidden: {"a_fully_visible_batch_is_harmless"},
    NeedsSome: {"a_fully_hidden_sample_is_harmless"},
    NeedsTwo: {"one_visible_group_is_enough", "hidden_content_stays_hidden_behind_mask_tokens"},
    IdleParameter: {"every_parameter_gets_a_gradient"},
    NoPositions: {"one_batch_can_be_learnt"},
    NotInBfloat16: {"bfloat16_is_finite_and_near"},
    FloatPicture: {"a_reconstruction_is_a_picture"},
    LogFeatures: {"features_are_finite_vectors"},
    Neighbours: {"an_embedding_does_not_depend_on_its_neighbours", "hidden_content_stays_hidden_behind_mask_tokens"},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return depicted(Sound(), tmp_path_factory.mktemp("files"), 4)


@pytest.mark.parametrize("part", FAULTS, ids=lambda part: part.__name__)
def test_a_fault_fails_its_checks_and_no_other(part, files):
    outcomes = run_all(MODALITY_CHECKS, part(), files)
    failed = {outcome.check: outcome.came for outcome in outcomes if outcome.result == "failed"}
    assert set(failed) == FAULTS[part], failed


def test_every_check_has_a_fault_that_it_notices():
    assert {name for names in FAULTS.values() for name in names} == {check.__name__ for check in MODALITY_CHECKS}
