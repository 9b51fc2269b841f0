import torch

from mmim.masking.groups import ordinals


def test_ranks_are_distinct_even_where_numbers_tie():
    numbers = torch.tensor([[0.5, 0.1, 0.5, 0.1], [0.0, 0.0, 0.0, 0.0]])
    assert ordinals(numbers).tolist() == [[2.0, 0.0, 3.0, 1.0], [0.0, 1.0, 2.0, 3.0]]


def test_ranks_keep_the_order_of_the_numbers():
    numbers = torch.rand(20, 30, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ordinals(numbers).argsort(dim=1), numbers.argsort(dim=1))
