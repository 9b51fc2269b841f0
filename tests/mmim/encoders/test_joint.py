import pytest
import torch
from torch import nn
from torch.testing import assert_close

from mmim.encoders.encoder import Visible
from mmim.encoders.joint import JointEncoder, JointEncoderModule
from tests.toy import tokens
from tests.videomae import redraw


def build(**options) -> JointEncoderModule:
    module = JointEncoder(width=24, heads=3, **options).build(("a", "b"))
    redraw(module)
    return module.double().eval()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 7, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def branch(module: JointEncoderModule, name: str, x: torch.Tensor, valid=None) -> torch.Tensor:
    ids = torch.arange(x.shape[1]).expand(x.shape[:2])
    return module.branch(name, Visible(x, torch.zeros_like(x), ids, tokens(), valid)).values


def joint(module: JointEncoderModule, x: torch.Tensor, valid=None) -> torch.Tensor:
    ids = torch.arange(x.shape[1]).expand(x.shape[:2])
    present = {"a": torch.ones(x.shape[0], dtype=torch.bool)}
    return module.joint({"a": Visible(x, x, ids, tokens(), valid)}, (("a", x.shape[1]),), present).values


def padding(b: int = 2) -> torch.Tensor:
    return (torch.arange(10) < 7).expand(b, 10)


def test_padding_does_not_change_valid_tokens(x):
    module = build(depth=3)
    padded = torch.cat([x, 1e3 * torch.ones(2, 3, 24)], dim=1)
    found = joint(module, padded, padding())
    assert_close(found[:, :7], joint(module, x), rtol=1e-12, atol=1e-12)


def test_the_order_of_tokens_does_not_matter(x):
    module, order = build(depth=3), torch.tensor([3, 1, 6, 0, 2, 5, 4])
    assert_close(joint(module, x[:, order]), joint(module, x)[:, order], rtol=1e-12, atol=1e-12)


def test_without_branch_blocks_a_branch_changes_nothing(x):
    assert torch.equal(branch(build(depth=1), "a", x), x)


def test_branches_have_weights_of_their_own(x):
    module = build(depth=1, branch_depth=2)
    assert not torch.allclose(branch(module, "a", x), branch(module, "b", x))
    assert {name.split(".")[1] for name, _ in module.named_parameters() if name.startswith("branches")} == {"a", "b"}


def test_padding_does_not_change_a_branch(x):
    module = build(depth=1, branch_depth=2)
    padded = torch.cat([x, torch.ones(2, 3, 24)], dim=1)
    found = branch(module, "a", padded, padding())
    assert_close(found[:, :7], branch(module, "a", x), rtol=1e-12, atol=1e-12)


def test_the_last_norm_may_be_left_out(x):
    module = build(depth=1, final_norm=False)
    assert not any(name.startswith("norm") for name in module.state_dict())
    assert_close(joint(module, x), module.blocks[0](x), rtol=0, atol=0)


def test_eps_reaches_every_norm():
    module = build(depth=2, branch_depth=1, eps=1e-3)
    assert {norm.eps for norm in module.modules() if isinstance(norm, nn.LayerNorm)} == {1e-3}


def test_a_branch_adds_the_positions(x):
    ids = torch.arange(7).expand(2, 7)
    found = build(depth=1).branch("a", Visible(x, 2 * x, ids, tokens()))
    assert torch.equal(found.values, 3 * x)
