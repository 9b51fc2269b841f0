from functools import partial

import pytest
import torch
from timm.models.vision_transformer import Block as TimmBlock
from torch import nn
from torch.testing import assert_close

from mmim.errors import OptionError
from mmim.layers.block import Attention, Block, attention_mask
from tests.videomae import redraw


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 7, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def drawn(module: nn.Module) -> nn.Module:
    redraw(module)
    return module.double().eval()


def timm_block() -> nn.Module:
    return drawn(TimmBlock(24, 3, qkv_bias=True, norm_layer=partial(nn.LayerNorm, eps=1e-6)))


def test_layer_scale_equals_timms(x):
    theirs = drawn(TimmBlock(24, 3, qkv_bias=True, norm_layer=partial(nn.LayerNorm, eps=1e-6), init_values=0.1))
    block = Block(24, 3, layer_scale=0.1).double()
    state = {
        name.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): p
        for name, p in theirs.state_dict().items()
    }
    block.load_state_dict(state, strict=True)
    assert_close(block(x), theirs(x), rtol=0, atol=1e-12)


def test_layer_scale_starts_where_it_is_told():
    assert (Block(24, 3, layer_scale=0.1).gamma_1 == 0.1).all()
    assert Block(24, 3).gamma_1 is None


def test_a_sample_skips_a_residual_as_often_as_told_and_only_in_training():
    torch.manual_seed(0)
    block, x = Block(24, 3, drop_path=0.5), torch.randn(400, 2, 24)
    block.mlp.fc2.weight.data.zero_()
    skipped = (block(x) == x).all(dim=(1, 2)).float().mean()
    assert 0.4 < skipped < 0.6
    assert not (block.eval()(x) == x).all(dim=(1, 2)).any()


def test_a_float_mask_is_added_to_the_logits(x):
    block = drawn(Block(24, 3))
    allowed = torch.rand(2, 1, 7, 7, generator=torch.Generator().manual_seed(1)) < 0.7
    allowed |= torch.eye(7, dtype=torch.bool)
    added = torch.zeros(2, 1, 7, 7).double().masked_fill(~allowed, -torch.inf)
    assert_close(block(x, added), block(x, allowed), rtol=0, atol=1e-12)


def test_equals_timm_with_its_weights(x):
    theirs = timm_block()
    block = Block(24, 3).double()
    block.load_state_dict(theirs.state_dict(), strict=True)
    assert_close(block(x), theirs(x), rtol=1e-12, atol=1e-12)


def test_timm_takes_its_weights(x):
    block, theirs = drawn(Block(24, 3)), timm_block()
    theirs.load_state_dict(block.state_dict(), strict=True)
    assert_close(theirs(x), block(x), rtol=1e-12, atol=1e-12)


def test_q_and_v_biases_equal_a_fused_bias_with_zeros_for_k(x):
    split, fused = drawn(Attention(24, 3, "qv")), drawn(Attention(24, 3, "qkv"))
    state = split.state_dict()
    q, v = state.pop("q_bias"), state.pop("v_bias")
    fused.load_state_dict({**state, "qkv.bias": torch.cat([q, torch.zeros_like(q), v])}, strict=True)
    assert_close(split(x), fused(x), rtol=0, atol=0)


def test_without_bias_there_is_no_bias():
    assert set(Attention(24, 3, "none").state_dict()) == {"qkv.weight", "proj.weight", "proj.bias"}


def test_padding_does_not_change_valid_tokens(x):
    block = drawn(Block(24, 3, bias="qv"))
    padded = torch.cat([x, 1e3 * torch.ones(2, 3, 24)], dim=1)
    valid = (torch.arange(10) < 7).expand(2, 10)
    assert_close(block(padded, attention_mask(valid))[:, :7], block(x), rtol=1e-12, atol=1e-12)


def test_nobody_attends_to_padding_but_the_padding_itself():
    mask = attention_mask(torch.tensor([[True, False, True], [False, False, False]]))[:, 0].int()
    assert mask.tolist() == [[[1, 0, 1], [1, 1, 1], [1, 0, 1]], [[1, 0, 0], [0, 1, 0], [0, 0, 1]]]


def test_a_sample_of_padding_alone_stays_finite(x):
    block = drawn(Block(24, 3))
    out = block(x.requires_grad_(), attention_mask(torch.zeros(2, 7, dtype=torch.bool)))
    out.sum().backward()
    assert out.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_fresh_weights_are_xavier_uniform_and_biases_zero():
    torch.manual_seed(0)
    block = Block(96, 4, bias="qv")
    for name, weight in block.named_parameters():
        if weight.ndim == 2:
            bound = (6 / sum(weight.shape)) ** 0.5
            assert weight.detach().abs().max() == pytest.approx(bound, rel=0.01), name
        else:
            assert (weight == float(name.endswith("norm1.weight") or name.endswith("norm2.weight"))).all(), name


def test_heads_must_divide_the_width():
    with pytest.raises(OptionError, match="5 heads do not divide a width of 24"):
        Block(24, 5)


def test_a_post_norm_block_norms_each_sum():
    block = Block(8, 2, norm="post")
    x = torch.randn(2, 5, 8)
    first = block.norm1(x + block.attn(x))
    assert_close(block(x), block.norm2(first + block.mlp(first)))
