import pytest
import torch
from torch import nn

from mmim.model import MaskedModel
from mmim.options import apply
from mmim.training.optimiser import AdamW
from tests.toy import TOY


@pytest.fixture
def model() -> MaskedModel:
    return MaskedModel(apply(TOY, {"encoder.bias": "qv"}))


def groups(model: nn.Module, optimiser: AdamW) -> dict[float, set[str]]:
    """Names of the parameters by their weight decay."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    built = optimiser.build(model, 8)
    return {group["weight_decay"]: {names[parameter] for parameter in group["params"]} for group in built.param_groups}


def test_norms_biases_and_mask_token_are_not_decayed(model):
    free = groups(model, AdamW(weight_decay=0.05))[0.0]
    assert free == {
        name
        for name, _ in model.named_parameters()
        if "norm" in name or name.endswith("bias") or name.endswith("mask_token")
    }
    assert {"trunk.encoder.blocks.0.attn.q_bias", "trunk.encoder.norm.weight", "decoders.toy.mask_token"} <= free


def test_every_parameter_is_in_one_group(model):
    found = groups(model, AdamW(weight_decay=0.05))
    assert set(found) == {0.0, 0.05}
    assert sorted(found[0.0] | found[0.05]) == sorted(name for name, _ in model.named_parameters())
    assert not found[0.0] & found[0.05]


def test_a_recipe_may_decay_the_mask_token(model):
    assert "decoders.toy.mask_token" in groups(model, AdamW(weight_decay=0.05, no_decay=()))[0.05]


def test_a_recipe_may_decay_everything(model):
    found = groups(model, AdamW(weight_decay=0.05, no_decay=(), decay_all=True))
    assert found == {0.05: {name for name, _ in model.named_parameters()}}
    named = groups(model, AdamW(weight_decay=0.05, no_decay=("*.norm.bias",), decay_all=True))
    assert named[0.0] == {"trunk.encoder.norm.bias", "decoders.toy.norm.bias"}


def test_frozen_parameters_are_left_out(model):
    model.decoders["toy"].mask_token.requires_grad_(False)
    assert "decoders.toy.mask_token" not in set().union(*groups(model, AdamW()).values())


@pytest.mark.parametrize(
    ("per", "batch", "rate"), [(256, 256, 1.5e-4), (256, 2048, 1.2e-3), (256, 32, 1.875e-5), (0, 32, 1.5e-4)]
)
def test_the_rate_grows_with_the_batch(per, batch, rate):
    assert AdamW(base_lr=1.5e-4, per=per).rate(batch) == pytest.approx(rate)


def test_settings_reach_torch(model):
    built = AdamW(base_lr=1e-3, per=16, betas=(0.8, 0.7), eps=1e-5).build(model, 8)
    assert isinstance(built, torch.optim.AdamW)
    assert {(group["lr"], group["betas"], group["eps"]) for group in built.param_groups} == {(5e-4, (0.8, 0.7), 1e-5)}
