from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from mmim.decoders.decoder import Query
from mmim.errors import OptionError
from mmim.objectives.reconstruction import Reconstruction
from mmim.targets.pixels import Pixels
from tests.toy import tokens


@dataclass
class Answers:
    """What a Step would say: predictions one off at every place, of which some count."""

    counted: Tensor

    def query(self, task):
        return Query(tokens(), torch.zeros(self.counted.shape, dtype=torch.int64)), self.counted

    def prediction(self, task):
        return torch.ones(*self.counted.shape, 4)

    def latents(self, modalities=None):
        raise AssertionError("a reconstruction needs no latents")

    def target(self, task):
        return torch.zeros(*self.counted.shape, 4)


COUNTED = Answers(torch.tensor([[True, True, False], [False, False, False]]))


def test_sums_and_counts_the_tokens_that_count():
    term = Reconstruction().build({"a": (Pixels(), 1.0)}, 8)(COUNTED)["a"]
    assert (term.total, term.count) == (2.0, 2.0)


def test_a_weight_scales_the_sum_alone():
    term = Reconstruction().build({"a": (Pixels(), 0.25)}, 8)(COUNTED)["a"]
    assert (term.total, term.count) == (0.5, 2.0)


def test_counts_are_those_of_the_losses_without_a_prediction():
    class Bare(Answers):
        def prediction(self, task):
            raise AssertionError

    module = Reconstruction().build({"a": (Pixels(), 1.0)}, 8)
    assert module.counts(Bare(COUNTED.counted)) == {"a": module(COUNTED)["a"].count}


def test_with_nothing_to_predict_the_loss_is_zero():
    term = Reconstruction().build({"a": (Pixels(), 1.0)}, 8)(Answers(torch.zeros(2, 3, dtype=torch.bool)))["a"]
    assert (term.total, term.count) == (0.0, 0.0)


def test_no_task_named_means_all():
    targets = {"a": (Pixels(), 1.0), "b": (Pixels(), 1.0)}
    assert set(Reconstruction().build(targets, 8)(COUNTED)) == {"a", "b"}
    assert set(Reconstruction(tasks=("b",)).build(targets, 8)(COUNTED)) == {"b"}


def test_an_unknown_task_is_refused():
    with pytest.raises(OptionError, match=r"asks for the task 'c'; there are a"):
        Reconstruction(tasks=("c",)).build({"a": (Pixels(), 1.0)}, 8)
