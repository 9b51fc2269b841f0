import torch

from mmim.corruption.mask_token import MaskToken
from tests.toy import Toy


def test_hidden_content_is_replaced_by_one_vector():
    module, content = MaskToken().build(4, Toy()), torch.randn(2, 5, 4)
    hidden = torch.tensor([[True, False, False, True, False], [False] * 5])
    out = module.embedded(content, hidden)
    assert torch.equal(out[hidden], module.mask_token[0].expand(2, 4))
    assert torch.equal(out[~hidden], content[~hidden])


def test_hidden_content_gets_no_gradient():
    module, content = MaskToken().build(4, Toy()), torch.randn(1, 3, 4, requires_grad=True)
    module.embedded(content, torch.tensor([[True, False, True]])).sum().backward()
    assert content.grad.tolist() == [[[0.0] * 4, [1.0] * 4, [0.0] * 4]]
    assert (module.mask_token.grad == 2).all()


def test_the_encoder_sees_all_places():
    assert MaskToken.keeps_all
