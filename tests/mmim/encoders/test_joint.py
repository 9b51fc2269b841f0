import pytest
import torch
from torch import nn
from torch.testing import assert_close

from mmim.encoders.joint import JointEncoder, JointEncoderModule
from tests.videomae import redraw


def build(**options) -> JointEncoderModule:
    module = JointEncoder(width=24, heads=3, **options).build(("a", "b"))
    redraw(module)
    return module.double().eval()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 7, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_padding_does_not_change_valid_tokens(x):
    module = build(depth=3)
    padded = torch.cat([x, 1e3 * torch.ones(2, 3, 24)], dim=1)
    found = module.joint(padded, (torch.arange(10) < 7).expand(2, 10))
    assert_close(found[:, :7], module.joint(x, None), rtol=1e-12, atol=1e-12)


def test_the_order_of_tokens_does_not_matter(x):
    module, order = build(depth=3), torch.tensor([3, 1, 6, 0, 2, 5, 4])
    assert_close(module.joint(x[:, order], None), module.joint(x, None)[:, order], rtol=1e-12, atol=1e-12)


def test_without_branch_blocks_a_branch_changes_nothing(x):
    assert build(depth=1).branch("a", x, None) is x


def test_branches_have_weights_of_their_own(x):
    module = build(depth=1, branch_depth=2)
    assert not torch.allclose(module.branch("a", x, None), module.branch("b", x, None))
    assert {name.split(".")[1] for name, _ in module.named_parameters() if name.startswith("branches")} == {"a", "b"}


def test_padding_does_not_change_a_branch(x):
    module = build(depth=1, branch_depth=2)
    padded = torch.cat([x, torch.ones(2, 3, 24)], dim=1)
    found = module.branch("a", padded, (torch.arange(10) < 7).expand(2, 10))
    assert_close(found[:, :7], module.branch("a", x, None), rtol=1e-12, atol=1e-12)


def test_the_last_norm_may_be_left_out(x):
    module = build(depth=1, final_norm=False)
    assert not any(name.startswith("norm") for name in module.state_dict())
    assert_close(module.joint(x, None), module.blocks[0](x), rtol=0, atol=0)


def test_eps_reaches_every_norm():
    module = build(depth=2, branch_depth=1, eps=1e-3)
    assert {norm.eps for norm in module.modules() if isinstance(norm, nn.LayerNorm)} == {1e-3}
