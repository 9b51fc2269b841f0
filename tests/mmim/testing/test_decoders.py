"""Every check of a decoder notices its fault and no other, and all built-in decoders pass."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from mmim.decoders.causal import CausalDecoder
from mmim.decoders.cross_attention import CrossAttentionDecoder
from mmim.decoders.decoder import DecoderModule
from mmim.decoders.linear import LinearDecoder
from mmim.decoders.local_attention import LocalAttentionDecoder
from mmim.decoders.self_attention import SelfAttentionDecoder
from mmim.errors import OptionError
from mmim.parts import lookup, names
from mmim.testing import DECODER_CHECKS, run, run_all

BUILT_IN = (
    SelfAttentionDecoder(width=32, depth=1, heads=2),
    SelfAttentionDecoder(
        width=16, depth=2, heads=2, project="none", positions="every_block", modality_vectors=True, shared_head=True
    ),
    LinearDecoder(),
    LinearDecoder(transform=True, tied=True),
    CrossAttentionDecoder(width=32, depth=1, heads=2),
    LocalAttentionDecoder(width=32, depth=2, heads=2, bias_width=16),
    CausalDecoder(width=32, depth=1, heads=2),
)


@pytest.mark.parametrize("check", DECODER_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("decoder", BUILT_IN, ids=lambda decoder: type(decoder).__name__)
def test_a_decoder_honours_the_contract(decoder, check):
    run(check, decoder)


def test_no_decoder_is_forgotten():
    assert {lookup("decoder", name) for name in names("decoder")} == {type(decoder) for decoder in BUILT_IN}


class Around(DecoderModule):
    """A decoder with something done to what it is handed, and to its predictions."""

    def __init__(self, inner, part):
        super().__init__()
        self.inner, self.part = inner, part

    def forward(self, latents, tokens, queries):
        latents = self.part.before(latents)
        found = self.inner(latents, tokens, queries)
        return {task: self.part.after(pred, tokens, queries) for task, pred in found.items()}


@dataclass(frozen=True, kw_only=True)
class Sound(SelfAttentionDecoder):
    width: int = 32
    depth: int = 1
    heads: int = 2

    def build(self, modalities, encoder, tasks):
        return Around(super().build(modalities, encoder, tasks), self)

    def before(self, latents):
        return latents

    def after(self, pred, tokens, queries):
        return pred


class ServesNothing(Sound):
    def build(self, modalities, encoder, tasks):
        raise OptionError("never")


class FirstTaskAlone(Around):
    def forward(self, latents, tokens, queries):
        found = super().forward(latents, tokens, queries)
        first = next(iter(found.values()))
        return {task: first[..., :1] if len(found) > 1 else pred for task, pred in found.items()}


class OneOfTwoTasks(Sound):
    def build(self, modalities, encoder, tasks):
        return FirstTaskAlone(SelfAttentionDecoder.build(self, modalities, encoder, tasks), self)


class InTurn(Sound):
    """The first that is asked for gets something of its own."""

    def after(self, pred, tokens, queries):
        return pred + torch.linspace(0, 1, pred.shape[1])[:, None]


class Peeks(Sound):
    def after(self, pred, tokens, queries):
        (query,) = [query for query in queries.values() if query.ids.shape[1] == pred.shape[1]][:1]
        values = query.tokens.values.flatten(2).to(pred.dtype)
        own = values.gather(1, query.ids[..., None].expand(-1, -1, values.shape[2])).mean(dim=2, keepdim=True)
        return pred + own


class Centres(Sound):
    def after(self, pred, tokens, queries):
        return pred - 0.5 * pred.mean(dim=0, keepdim=True)


class IgnoresValid(Sound):
    """Takes what is absent for present."""

    def before(self, latents):
        return replace(latents, valid=None)


class WithoutPositions(Sound):
    def build(self, modalities, encoder, tasks):
        module = super().build(modalities, encoder, tasks)
        for name in module.inner.positions:
            module.inner.positions[name] = Nowhere(self.width)
        return module


class Nowhere(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.width = width

    def forward(self, tokens):
        return torch.zeros(1, tokens.count, self.width)


class Idle(Sound):
    def build(self, modalities, encoder, tasks):
        module = super().build(modalities, encoder, tasks)
        module.scale = nn.Parameter(torch.ones(()))
        return module


class Timid(Sound):
    """Never says much, so that nothing is learnt."""

    def after(self, pred, tokens, queries):
        return 0.01 * pred.tanh()


class NeedsLatents(Sound):
    """Scales by the mean of the valid latents, of which there may be none."""

    def before(self, latents):
        if latents.valid is None:
            return latents
        weights = latents.valid[..., None].float()
        count = weights.sum(dim=1, keepdim=True)
        return replace(latents, values=latents.values * (count / count))


class Overflows(Sound):
    """A number that float32 can hold and a product in half precision can't."""

    def after(self, pred, tokens, queries):
        return pred if pred.dtype == torch.float32 else pred / 0


class Unpicklable(Sound):
    def __reduce__(self):
        raise TypeError("it holds a lock")


@dataclass(frozen=True, kw_only=True)
class FieldOfASet(Sound):
    chosen: frozenset[int] = frozenset({1})


FAULTS = {
    Sound: set(),
    ServesNothing: {"it_serves_some_tokens"},
    OneOfTwoTasks: {"predictions_have_the_asked_shapes"},
    InTurn: {"predictions_follow_the_places"},
    Peeks: {"hidden_content_stays_hidden"},
    Centres: {"predictions_do_not_depend_on_neighbours"},
    IgnoresValid: {"absent_samples_do_not_reach_others"},
    WithoutPositions: {"different_places_get_different_predictions"},
    Idle: {"every_parameter_gets_a_gradient"},
    Timid: {"one_batch_can_be_learnt"},
    NeedsLatents: {"a_sample_without_visible_tokens_is_finite"},
    Overflows: {"bfloat16_is_finite"},
    Unpicklable: {"it_survives_pickling"},
    FieldOfASet: {"its_fields_survive_a_recipe_file"},
}


@pytest.mark.parametrize("part", FAULTS, ids=lambda part: part.__name__)
def test_a_fault_fails_its_checks_and_no_other(part):
    failed = {o.check: o.came for o in run_all(DECODER_CHECKS, part()) if o.result == "failed"}
    assert set(failed) == FAULTS[part], failed


def test_every_check_has_a_fault_that_it_notices():
    assert set().union(*FAULTS.values()) == {check.__name__ for check in DECODER_CHECKS}
