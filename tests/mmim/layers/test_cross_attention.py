import pytest
import torch
from torch import nn
from torch.testing import assert_close

from mmim.errors import OptionError
from mmim.layers.block import CrossAttention
from tests.videomae import redraw


def both(width=24, heads=3):
    """Ours and torch's with the same weights."""
    torch.manual_seed(0)
    ours = CrossAttention(width, heads)
    redraw(ours)
    theirs = nn.MultiheadAttention(width, heads, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.q.weight, ours.kv.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.q.bias, ours.kv.bias]))
        theirs.out_proj.load_state_dict(ours.proj.state_dict())
    return ours.double().eval(), theirs.double().eval()


def inputs(*counts, width=24):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(4, count, width, generator=generator, dtype=torch.float64) for count in counts]


@pytest.mark.parametrize("heads", [1, 3, 8])
def test_equals_torchs_attention(heads):
    ours, theirs = both(heads=heads)
    x, context = inputs(5, 7)
    assert_close(ours(x, context), theirs(x, context, context)[0], rtol=1e-10, atol=1e-12)


def test_equals_torchs_attention_with_padding():
    ours, theirs = both()
    x, context = inputs(5, 7)
    valid = torch.arange(7) < torch.tensor([7, 1, 3, 5])[:, None]
    expected, _ = theirs(x, context, context, key_padding_mask=~valid)
    assert_close(ours(x, context, valid), expected, rtol=1e-10, atol=1e-12)


def test_what_is_not_valid_changes_nothing():
    ours, _ = both()
    x, context = inputs(5, 7)
    valid = torch.arange(7) < 4
    other = torch.where(valid[None, :, None], context, 1e3)
    flags = valid.expand(4, 7)
    assert torch.equal(ours(x, context, flags), ours(x, other, flags))
    assert_close(ours(x, context, flags), ours(x, context[:, :4]), rtol=1e-10, atol=1e-12)


def test_queries_do_not_see_each_other():
    ours, _ = both()
    x, context = inputs(5, 7)
    assert_close(ours(x, context)[:, 2:3], ours(x[:, 2:3], context), rtol=1e-10, atol=1e-12)


def test_heads_must_divide_the_width():
    with pytest.raises(OptionError, match="5 heads do not divide a width of 24"):
        CrossAttention(24, 5)
