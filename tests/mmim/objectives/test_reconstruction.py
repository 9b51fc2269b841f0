from dataclasses import dataclass
from types import MappingProxyType

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

    given = ("a",)
    present = MappingProxyType({})

    def predicts(self, task):
        return True

    def seen(self, name):
        raise AssertionError("a reconstruction looks at what is asked")

    def latents(self, modalities=None, *, own=False, chained=True):
        raise AssertionError("a reconstruction needs no latents")

    def target(self, task):
        return torch.zeros(*self.counted.shape, 4)


COUNTED = Answers(torch.tensor([[True, True, False], [False, False, False]]))


def test_sums_and_counts_the_tokens_that_count():
    term = Reconstruction().build({"a": (Pixels(), 1.0)}, 8, ("a", "b"))(COUNTED)["a"]
    assert (term.total, term.count) == (2.0, 2.0)


def test_a_weight_scales_the_sum_alone():
    term = Reconstruction().build({"a": (Pixels(), 0.25)}, 8, ("a", "b"))(COUNTED)["a"]
    assert (term.total, term.count) == (0.5, 2.0)


def test_counts_are_those_of_the_losses_without_a_prediction():
    class Bare(Answers):
        def prediction(self, task):
            raise AssertionError

    module = Reconstruction().build({"a": (Pixels(), 1.0)}, 8, ("a", "b"))
    assert module.counts(Bare(COUNTED.counted)) == {"a": module(COUNTED)["a"].count}


def test_with_nothing_to_predict_the_loss_is_zero():
    term = Reconstruction().build({"a": (Pixels(), 1.0)}, 8, ("a", "b"))(Answers(torch.zeros(2, 3, dtype=torch.bool)))[
        "a"
    ]
    assert (term.total, term.count) == (0.0, 0.0)


def test_no_task_named_means_all():
    targets = {"a": (Pixels(), 1.0), "b": (Pixels(), 1.0)}
    assert set(Reconstruction().build(targets, 8, ("a", "b"))(COUNTED)) == {"a", "b"}
    assert set(Reconstruction(tasks=("b",)).build(targets, 8, ("a", "b"))(COUNTED)) == {"b"}


def test_an_unknown_task_is_refused():
    with pytest.raises(OptionError, match=r"asks for the task 'c'; there are a"):
        Reconstruction(tasks=("c",)).build({"a": (Pixels(), 1.0)}, 8, ("a", "b"))


def test_the_mean_over_samples_weighs_a_sample_with_one_token_as_one_with_many():
    counted = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])
    module = Reconstruction(average="samples").build({"a": (Pixels(), 1.0)}, 8, ("a",))
    term = module(Answers(counted))["a"]
    assert (term.total, term.count) == (2.0, 2.0)
    assert module.counts(Answers(counted)) == {"a": 2.0}


def test_the_weight_of_the_term_multiplies_that_of_a_task():
    term = Reconstruction(weight=0.5).build({"a": (Pixels(), 0.25)}, 8, ("a",))(COUNTED)["a"]
    assert (term.total, term.count) == (0.25, 2.0)
