import torch

from mmim.draw import Draw
from mmim.masking.random import RandomMasking
from tests.toy import tokens

KEYS = Draw(torch.arange(400))


def test_every_token_has_a_rank_of_its_own():
    ranks = RandomMasking().rank(tokens(400), KEYS)
    assert ranks.shape == (400, 24)
    assert (ranks.sort(dim=1).values.diff(dim=1) > 0).float().mean() > 0.999


def test_every_token_is_first_equally_often():
    first = RandomMasking().rank(tokens(400), KEYS).argmin(dim=1).bincount(minlength=24)
    assert ((first - 400 / 24) ** 2 / (400 / 24)).sum() < 49.7  # chi-square, 23 degrees of freedom, p = 0.001


def test_the_rank_depends_on_the_draw_alone():
    policy = RandomMasking()
    assert torch.equal(policy.rank(tokens(3), Draw(KEYS.keys[:3])), policy.rank(tokens(5), Draw(KEYS.keys[:5]))[:3])
