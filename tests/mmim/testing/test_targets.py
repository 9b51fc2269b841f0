"""Every check of a target notices its fault and no other, and all built-in targets pass."""

from dataclasses import dataclass

import pytest

from mmim.errors import OptionError
from mmim.parts import lookup, names
from mmim.targets.chamfer import Chamfer
from mmim.targets.hog import HOG
from mmim.targets.ids import Ids
from mmim.targets.pixels import Pixels
from mmim.testing import TARGET_CHECKS, run, run_all

BUILT_IN = (
    Chamfer(),
    Chamfer(norm="l1"),
    HOG(),
    HOG(bins=5, cell=4),
    Ids(),
    Pixels(),
    Pixels(normalise="token", error="absolute"),
    Pixels(normalise="channel", eps_inside=False, units="raw"),
)


@pytest.mark.parametrize("check", TARGET_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("target", BUILT_IN, ids=str)
def test_a_target_honours_the_contract(target, check):
    run(check, target)


def test_no_target_is_forgotten():
    assert {lookup("target", name) for name in names("target")} == {type(target) for target in BUILT_IN}


class Sound(Pixels):
    pass


class TakesNothing(Pixels):
    def size(self, modality):
        raise OptionError("never")


class MeanLoss(Pixels):
    def loss(self, pred, target):
        return super().loss(pred, target).mean(dim=1, keepdim=True)


class HalfLoss(Pixels):
    def loss(self, pred, target):
        return super().loss(pred, target).bfloat16()


class NoEpsilon(Pixels):
    def values(self, tokens, ids, modality):
        values = super().values(tokens, ids, modality)
        return values / values.std(dim=2, keepdim=True)


class NeverContent(Pixels):
    def loss(self, pred, target):
        return super().loss(pred, target) + 0.01


class RootLoss(Pixels):
    """The root of the squared error, whose derivative at zero is none."""

    def loss(self, pred, target):
        return super().loss(pred, target).sqrt()


class InOrder(Pixels):
    def values(self, tokens, ids, modality):
        return super().values(tokens, ids.sort(dim=1).values, modality)


class Centred(Pixels):
    def values(self, tokens, ids, modality):
        values = super().values(tokens, ids, modality)
        return values - values.mean(dim=(0, 1), keepdim=True)


class FlatPieces(Pixels):
    def pieces(self, pred, tokens, ids, modality):
        return super().pieces(pred, tokens, ids, modality).flatten(1)


class WritesIntoPredictions(Pixels):
    def pieces(self, pred, tokens, ids, modality):
        return super().pieces(pred.clamp_(-1, 1), tokens, ids, modality)


class Unpicklable(Pixels):
    def __reduce__(self):
        raise TypeError("it holds a lock")


@dataclass(frozen=True)
class FieldOfASet(Pixels):
    chosen: frozenset[int] = frozenset({1})


class NoPicture(Pixels):
    """Not every prediction can be drawn."""

    def pieces(self, pred, tokens, ids, modality):
        return None


FAULTS = {
    Sound: set(),
    NoPicture: set(),
    TakesNothing: {"it_takes_some_tokens"},
    MeanLoss: {"values_and_losses_have_the_declared_shapes"},
    HalfLoss: {"values_and_losses_have_the_declared_shapes"},
    NoEpsilon: {"flat_tokens_are_finite"},
    NeverContent: {"a_perfect_prediction_costs_nothing"},
    RootLoss: {"gradients_are_finite"},
    InOrder: {"values_follow_the_places"},
    Centred: {"a_sample_is_judged_by_itself"},
    FlatPieces: {"pieces_have_the_shape_of_tokens"},
    WritesIntoPredictions: {"values_leave_their_input_alone"},
    Unpicklable: {"it_survives_pickling"},
    FieldOfASet: {"its_fields_survive_a_recipe_file"},
}


@pytest.mark.parametrize("part", FAULTS, ids=lambda part: part.__name__)
def test_a_fault_fails_its_checks_and_no_other(part):
    failed = {o.check: o.came for o in run_all(TARGET_CHECKS, part()) if o.result == "failed"}
    assert set(failed) == FAULTS[part], failed


def test_every_check_has_a_fault_that_it_notices():
    assert set().union(*FAULTS.values()) == {check.__name__ for check in TARGET_CHECKS}


class Constant(Ids):
    """Loses sight of the prediction."""

    def loss(self, pred, target):
        return super().loss(pred, target) * 0 + 1


def test_a_loss_of_ids_that_nothing_lowers_is_noticed():
    failed = {o.check for o in run_all(TARGET_CHECKS, Constant()) if o.result == "failed"}
    assert failed == {"a_perfect_prediction_costs_nothing", "gradients_are_finite"}
