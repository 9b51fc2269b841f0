import pytest
import torch
from torch import nn
from torch.testing import assert_close

from mmim.errors import OptionError
from mmim.training.adam import Adam
from mmim.training.optimiser import AdamW


def moved(optimiser, steps=3):
    """Weights after some steps on a constant gradient."""
    torch.manual_seed(0)
    layer = nn.Linear(4, 3)
    built = optimiser.build(layer, 8)
    for _ in range(steps):
        for place, parameter in enumerate(layer.parameters()):
            parameter.grad = torch.full_like(parameter, 0.1 * (place + 1))
        built.step()
    return torch.cat([parameter.detach().flatten() for parameter in layer.parameters()])


def test_l2_goes_into_the_gradient():
    torch.manual_seed(0)
    layer = nn.Linear(4, 3)
    built = Adam(base_lr=0.01, betas=(0.0, 0.0), eps=1e-12, l2=2.0).build(layer, 8)
    before = layer.weight.detach().clone()
    layer.weight.grad, layer.bias.grad = torch.full_like(layer.weight, 0.5), torch.zeros_like(layer.bias)
    built.step()
    assert_close(layer.weight.detach(), before - 0.01 * (0.5 + 2.0 * before).sign())  # of Adam without memory


def test_without_l2_it_is_adamw_without_decay():
    assert torch.equal(
        moved(Adam(base_lr=0.01)), moved(AdamW(base_lr=0.01, per=0, betas=(0.9, 0.999), weight_decay=0.0))
    )


def test_l2_is_not_adamws_decay():
    decayed = AdamW(base_lr=0.01, per=0, betas=(0.9, 0.999), weight_decay=0.1)
    assert (moved(Adam(base_lr=0.01, l2=0.1)) - moved(decayed)).abs().max() > 1e-4


def test_every_weight_is_in_it_and_frozen_ones_are_not():
    layer = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3))
    layer[0].bias.requires_grad_(False)
    (group,) = Adam(l2=5e-7).build(layer, 8).param_groups
    assert {id(parameter) for parameter in group["params"]} == {id(p) for p in layer.parameters() if p.requires_grad}
    assert group["weight_decay"] == 5e-7


@pytest.mark.parametrize(("per", "batch", "rate"), [(0, 48, 5e-5), (24, 48, 1e-4)])
def test_the_rate_grows_with_the_batch_only_where_asked(per, batch, rate):
    assert Adam(base_lr=5e-5, per=per).rate(batch) == pytest.approx(rate)


def test_a_negative_l2_is_refused():
    with pytest.raises(OptionError, match=r"optimiser\.l2"):
        Adam(l2=-1.0)
