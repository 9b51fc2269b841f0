"""Every check of a term notices its fault and no other, and all built-in terms pass."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from mmim.objectives.contrastive import Contrastive
from mmim.objectives.reconstruction import Reconstruction, ReconstructionModule
from mmim.parts import lookup, names
from mmim.records import LossTerm
from mmim.testing import TERM_CHECKS, run, run_all

BUILT_IN = (
    Reconstruction(),
    Reconstruction(average="samples", weight=0.5),
    Reconstruction(tasks=("maps",), weight=0.0),
    Contrastive(),
    Contrastive(pairs=(("series", "maps"),), directions="one", learned=True, width=8, centred=True, chained=False),
)


@pytest.mark.parametrize("check", TERM_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("term", BUILT_IN, ids=str)
def test_a_term_honours_the_contract(term, check):
    run(check, term)


def test_no_term_is_forgotten():
    assert {lookup("term", name) for name in names("term")} == {type(term) for term in BUILT_IN}


class Module(ReconstructionModule):
    """A reconstruction with something done to each of its losses."""

    change = staticmethod(lambda loss, name, step: loss)

    def forward(self, step):
        return {name: self.change(loss, name, step) for name, loss in super().forward(step).items()}


@dataclass(frozen=True)
class Sound(Reconstruction):
    def build(self, targets, width, modalities):
        module = Module(super().build(targets, width, modalities).targets, self.average)
        module.change = self.change
        return module

    def change(self, loss, name, step):
        return loss


class Half(Sound):
    def change(self, loss, name, step):
        return LossTerm(loss.total.half(), loss.count)


class OtherCount(Sound):
    """Counts samples where it said that it counts tokens."""

    def change(self, loss, name, step):
        return LossTerm(loss.total, loss.count.clamp(max=5))


class Mean(Sound):
    def change(self, loss, name, step):
        return LossTerm(loss.total / loss.count.clamp(min=1), loss.count)


class NoGuard(Sound):
    """A factor that is no number where nobody is there."""

    def change(self, loss, name, step):
        return LossTerm(loss.total * (loss.count / loss.count), loss.count)


class CountsAbsent(Module):
    """Averages over whoever stands in the batch."""

    def counts(self, step):
        return {name: torch.ones_like(count) * count.sign() for name, count in super().counts(step).items()}

    def forward(self, step):
        counts = self.counts(step)
        losses = {}
        for name, (target, weight) in self.targets.items():
            if step.predicts(name):
                per_token = target.loss(step.prediction(name), step.target(name))
                losses[name] = LossTerm(weight * per_token.mean(), counts[name])
            else:
                losses[name] = LossTerm(torch.zeros(()), counts[name])
        return losses


class Absent(Sound):
    def build(self, targets, width, modalities):
        return CountsAbsent(super().build(targets, width, modalities).targets, self.average)


class WeightForgotten(Sound):
    def build(self, targets, width, modalities):
        module = super().build({name: (target, 1.0) for name, (target, _) in targets.items()}, width, modalities)
        module.targets = {name: (target, 1.0) for name, (target, _) in targets.items()}
        return module


class NoGradientOfZero(Sound):
    """The root of how far apart samples are, which of samples that are alike has no derivative."""

    def change(self, loss, name, step):
        if not step.predicts(name) or len(step.prediction(name)) < 2:
            return loss
        pred = step.prediction(name) * step.present[name][:, None, None]
        apart = (pred[0] - pred[1]).square().sum().sqrt()
        return LossTerm(loss.total + 0 * apart, loss.count)


class IdleModule(Module):
    def __init__(self, targets, average):
        super().__init__(targets, average)
        self.scale = nn.Parameter(torch.ones(()))


class Idle(Sound):
    def build(self, targets, width, modalities):
        return IdleModule(super().build(targets, width, modalities).targets, self.average)


class Unpicklable(Sound):
    def __reduce__(self):
        raise TypeError("it holds a lock")


@dataclass(frozen=True)
class FieldOfASet(Sound):
    chosen: frozenset[int] = frozenset({1})


FAULTS = {
    Sound: set(),
    Half: {"losses_are_sums_with_their_counts", "parts_of_a_batch_add_up_to_the_whole"},
    OtherCount: {"counts_are_known_before_the_pass", "parts_of_a_batch_add_up_to_the_whole"},
    Mean: {"parts_of_a_batch_add_up_to_the_whole"},
    NoGuard: {"nobody_there_costs_nothing"},
    Absent: {"absent_samples_count_for_nothing", "parts_of_a_batch_add_up_to_the_whole"},
    WeightForgotten: {"twice_the_weight_is_twice_the_sum"},
    NoGradientOfZero: {"gradients_are_finite"},
    Idle: {"every_parameter_gets_a_gradient"},
    Unpicklable: {"it_survives_pickling"},
    FieldOfASet: {"its_fields_survive_a_recipe_file"},
}


@pytest.mark.parametrize("part", FAULTS, ids=lambda part: part.__name__)
def test_a_fault_fails_its_checks_and_no_other(part):
    failed = {o.check: o.came for o in run_all(TERM_CHECKS, part()) if o.result == "failed"}
    assert set(failed) == FAULTS[part], failed


def test_every_check_has_a_fault_that_it_notices():
    assert set().union(*FAULTS.values()) == {check.__name__ for check in TERM_CHECKS}
