import torch

from mmim.corruption.drop import Drop
from tests.toy import Toy


def test_has_no_parameters_and_changes_nothing():
    module, content = Drop().build(4, Toy()), torch.randn(2, 3, 4)
    assert list(module.parameters()) == []
    assert module.embedded(content, torch.zeros(2, 3, dtype=torch.bool)) is content


def test_the_encoder_sees_the_visible_tokens_alone():
    assert not Drop.keeps_all
