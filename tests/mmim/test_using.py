"""A method with some of its modalities, and with others that it did not know."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from mmim import parts
from mmim.corruption.mask_token import MaskToken
from mmim.decoders.cross_attention import CrossAttentionDecoder
from mmim.errors import OptionError
from mmim.masking.budget import Ratio
from mmim.masking.dirichlet import Dirichlet
from mmim.masking.dual import DualMasking
from mmim.masking.each import Each
from mmim.masking.mixture import Mixture
from mmim.masking.random import RandomMasking
from mmim.masking.tube import TubeMasking
from mmim.modality import MaskingPolicy, Target
from mmim.model import MaskedModel, Task
from mmim.objectives.contrastive import Contrastive
from mmim.objectives.reconstruction import Reconstruction
from mmim.parts import register
from mmim.targets.pixels import Pixels
from mmim.using import using
from tests.several import SEVERAL
from tests.toy import TOY, Toy


@register("stranger")
@dataclass(frozen=True, kw_only=True)
class Stranger(Toy):
    """A toy with defaults of its own."""

    suffixes: ClassVar[tuple[str, ...]] = (".stranger.npy",)
    masking: ClassVar[MaskingPolicy] = TubeMasking()
    target: ClassVar[Target] = Pixels(error="absolute")


@register("unfinished")
@dataclass(frozen=True, kw_only=True)
class Unfinished(Toy):
    """One that has a field without a default."""

    camera: str


def test_what_names_a_modality_that_is_left_out_goes_with_it():
    method = using(replace(SEVERAL, corruption={"a": MaskToken()}, shared_embedders={}), ["c", "b"])
    assert list(method.modalities) == ["b", "c"]
    assert list(method.masking) == ["b", "c"]
    assert list(method.tasks) == ["b", "c"]
    assert method.corruption == {}
    assert list(using(SEVERAL, ["a", "b"]).decoders) == ["joint"]
    MaskedModel(method)


def test_all_of_a_methods_modalities_are_the_method():
    assert using(SEVERAL, ["b", "a", "c"]) is SEVERAL


def test_a_new_modality_brings_its_defaults_and_uses_the_decoder_that_several_use():
    method = using(SEVERAL, ["stranger", "b", "a", "c"])
    assert list(method.modalities) == ["a", "b", "c", "stranger"]
    assert method.masking["stranger"] == TubeMasking()
    assert method.tasks["stranger"] == Task(modality="stranger", decoder="joint", target=Pixels(error="absolute"))
    MaskedModel(method)


def test_where_decoders_are_each_ones_own_a_new_modality_gets_one_like_the_first():
    method = using(TOY, ["toy", "stranger"])
    assert method.decoders == {"toy": TOY.decoders["toy"], "stranger": TOY.decoders["toy"]}
    assert method.tasks["stranger"].decoder == "stranger"
    MaskedModel(method)


def test_a_decoder_of_another_modality_that_has_its_name_is_not_taken():
    decoders = {"stranger": CrossAttentionDecoder(width=8, depth=1, heads=2)}
    taken = replace(TOY, decoders=decoders, tasks={"toy": replace(TOY.tasks["toy"], decoder="stranger")})
    with pytest.raises(OptionError, match="the recipe has a task or a decoder of that name for another"):
        using(taken, ["toy", "stranger"])


def test_a_corruption_that_all_have_is_that_of_a_new_modality_as_well():
    assert using(replace(TOY, corruption={"toy": MaskToken()}), ["toy", "stranger"]).corruption == {
        "toy": MaskToken(),
        "stranger": MaskToken(),
    }
    some = replace(SEVERAL, corruption={"a": MaskToken()})
    assert using(some, ["a", "b", "c", "stranger"]).corruption == {"a": MaskToken()}


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (Ratio(0.5), Ratio(0.5)),
        (Dirichlet(total=4, alphas={"a": 0.5, "b": 2.0}), Dirichlet(total=4, alphas={"a": 0.5})),
        (Each(of={"a": Ratio(0.5), "b": Ratio(0.6), "c": Ratio(0.7)}), Each(of={"a": Ratio(0.5), "new": Ratio(0.5)})),
        (
            Mixture(budgets=(Dirichlet(total=4, alphas={"b": 2.0}), Dirichlet(total=6)), weights=(1.0, 2.0)),
            Mixture(budgets=(Dirichlet(total=4), Dirichlet(total=6)), weights=(1.0, 2.0)),
        ),
        (
            DualMasking(encoder=Dirichlet(total=4, alphas={"b": 1.0}), decoder=RandomMasking()),
            DualMasking(encoder=Dirichlet(total=4), decoder=RandomMasking()),
        ),
    ],
)
def test_a_budget_keeps_what_it_says_of_the_others(budget, expected):
    assert budget.using(["a"], ["new"]) == expected


@pytest.mark.parametrize(
    ("term", "kept", "fresh", "expected"),
    [
        (Reconstruction(), ["a"], ["new"], Reconstruction()),
        (Reconstruction(tasks=("a", "b")), ["a"], ["new"], Reconstruction(tasks=("a", "new"))),
        (Reconstruction(tasks=("b",)), ["a"], [], None),
        (Contrastive(), ["a", "b"], [], Contrastive()),
        (Contrastive(), ["a"], ["new"], Contrastive()),
        (Contrastive(), ["a"], [], None),
        (Contrastive(pairs=(("a", "b"), ("a", "c"))), ["a", "c"], [], Contrastive(pairs=(("a", "c"),))),
        (Contrastive(pairs=(("a", "b"),)), ["a", "c"], [], None),
        (Contrastive(pairs=(("a", "b"),)), ["a", "c"], ["new"], Contrastive(pairs=(("a", "new"),))),
    ],
)
def test_a_term_keeps_what_it_says_of_the_others(term, kept, fresh, expected):
    assert term.using(kept, fresh, [name for name in "abc" if name not in kept]) == expected


def test_a_modality_whose_embedder_is_gone_has_its_own():
    shared = replace(
        SEVERAL,
        modalities={name: Toy(rows=8, columns=4) for name in "abc"},
        shared_embedders={"b": "a", "c": "a"},
    )
    assert using(shared, ["a", "c"]).shared_embedders == {"c": "a"}
    alone = using(shared, ["c"])
    assert alone.shared_embedders == {}
    with torch.device("meta"):
        assert "c" in MaskedModel(alone).trunk.embedders


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "--use names nothing"),
        (["a", "b", "a"], "--use names a twice"),
        (["a", "strange"], "No modality is called 'strange'.*Did you mean 'stranger'"),
        (["a", "unfinished"], "--use unfinished can't stand alone: .*camera"),
    ],
)
def test_names_that_lead_nowhere_are_refused(names, message):
    with pytest.raises(OptionError, match=message):
        using(SEVERAL, names)


def test_the_order_of_all_parts_is_that_of_the_names(monkeypatch):
    """Weights are drawn, and gradients summed over processes, in this order; a set's differs between processes."""
    names = [f"stranger{number}" for number in range(9, 0, -1)]
    for name in names:
        monkeypatch.setitem(parts._registered, ("modality", name), Stranger)
    made = using(TOY, ["toy", *names])
    for part in (made.modalities, made.masking, made.tasks, made.decoders):
        assert list(part) == ["toy", *names]
