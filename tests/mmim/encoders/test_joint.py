from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from mmim.encoders.encoder import Visible
from mmim.encoders.joint import JointEncoder, JointEncoderModule
from mmim.errors import OptionError
from mmim.records import gather_tokens
from tests.toy import Toy, tokens
from tests.videomae import redraw


def build(**options) -> JointEncoderModule:
    module = JointEncoder(width=24, heads=3, **options).build({"a": Toy(), "b": Toy()})
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


def test_global_tokens_see_the_places_and_stand_apart(x):
    module = build(depth=2, global_tokens=1)
    ids = torch.arange(7).expand(2, 7)
    part, present = Visible(x, x, ids, tokens()), {"a": torch.ones(2, dtype=torch.bool)}
    latents = module.joint({"a": part}, (("a", 7),), present)
    assert latents.globals.shape == (2, 1, 24)
    assert latents.values.shape == (2, 7, 24)
    everything = torch.cat([x, module.global_tokens.expand(2, -1, -1)], dim=1)
    for block in module.blocks:
        everything = block(everything)
    assert_close(torch.cat([latents.values, latents.globals], dim=1), module.norm(everything), rtol=0, atol=0)


def test_global_tokens_do_not_attend_to_padding(x):
    module = build(depth=2, global_tokens=2)
    ids, present = torch.arange(10).expand(2, 10), {"a": torch.ones(2, dtype=torch.bool)}
    padded = torch.cat([x, 1e3 * torch.ones(2, 3, 24)], dim=1)
    whole = module.joint({"a": Visible(x, x, ids[:, :7], tokens())}, (("a", 7),), present)
    found = module.joint({"a": Visible(padded, padded, ids, tokens(), padding())}, (("a", 10),), present)
    assert_close(found.globals, whole.globals, rtol=1e-12, atol=1e-12)


@dataclass(frozen=True, kw_only=True)
class Map(Toy):
    """Tokens on a grid of 4 x 2."""


def with_bias(**options) -> JointEncoderModule:
    module = JointEncoder(width=24, heads=3, depth=2, relative_bias=True, **options).build({"a": Map()})
    redraw(module)
    return module.double().eval()


@pytest.mark.parametrize("num_globals", [0, 1])
def test_dropped_tokens_leave_the_bias_among_the_others(num_globals):
    module = with_bias(global_tokens=num_globals)
    x = torch.randn(2, 8, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    grid, present = tokens(2, (4, 2)), {"a": torch.ones(2, dtype=torch.bool)}
    kept = torch.tensor([[6, 1, 3], [0, 7, 2]])
    seen = torch.zeros(2, 8, dtype=torch.bool).scatter(1, kept, True)
    whole = Visible(x, x, torch.arange(8).expand(2, 8), grid, seen)
    some = Visible(gather_tokens(x, kept), gather_tokens(x, kept), kept, grid)
    expected = module.joint({"a": whole}, (("a", 8),), present)
    found = module.joint({"a": some}, (("a", 8),), present)
    assert_close(found.values, gather_tokens(expected.values, kept), rtol=1e-12, atol=1e-12)


def test_the_bias_matters():
    module = with_bias()
    x, ids = torch.randn(1, 8, 24, dtype=torch.float64), torch.arange(8)[None]
    part, present = Visible(x, x, ids, tokens(1, (4, 2))), {"a": torch.ones(1, dtype=torch.bool)}
    before = module.joint({"a": part}, (("a", 8),), present).values
    nn.init.zeros_(module.relative.table)
    assert not torch.allclose(before, module.joint({"a": part}, (("a", 8),), present).values)


def test_a_relative_bias_is_for_one_modality():
    with pytest.raises(OptionError, match=r"one modality on a 2-D grid, and there are .*a.*b"):
        JointEncoder(width=24, heads=3, relative_bias=True).build({"a": Map(), "b": Map()})


def test_scaled_weights_shrink_with_the_depth():
    torch.manual_seed(0)
    module = JointEncoder(width=96, heads=3, depth=4, init="scaled").build({"a": Toy()})
    spread = [block.mlp.fc2.weight.std() * (2 * (i + 1)) ** 0.5 for i, block in enumerate(module.blocks)]
    assert torch.stack(spread).std() < 0.02 * torch.stack(spread).mean()
    assert max(float(block.mlp.fc1.weight.detach().abs().max()) for block in module.blocks) <= 0.02


def test_drop_path_grows_with_the_depth():
    module = JointEncoder(width=24, heads=3, depth=3, drop_path=0.2).build({"a": Toy()})
    assert [getattr(block.drop_path, "drop_prob", 0.0) for block in module.blocks] == [0.0, 0.1, 0.2]


def test_a_post_norm_encoder_ends_with_a_norm_already():
    with pytest.raises(OptionError, match=r"use encoder\.final_norm False"):
        JointEncoder(norm="post")


def test_a_norm_of_the_embedding_is_for_positions_that_are_added_once():
    with pytest.raises(OptionError, match=r"encoder\.embed_norm is for positions that are added once"):
        JointEncoder(embed_norm=True, positions="every_block")
