"""Ranks for tokens that stay or go together."""

import torch
from jaxtyping import Float
from torch import Tensor


def ordinals(numbers: Float[Tensor, "b g"]) -> Float[Tensor, "b g"]:
    """The rank of each number within its row, 0 to g - 1: random numbers tie, and tied groups would be cut through."""
    order = torch.argsort(numbers, dim=1, stable=True)
    return torch.argsort(order, dim=1).to(numbers.dtype)
