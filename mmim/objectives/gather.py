"""Rows of all processes, for losses that compare samples with each other."""

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor
from torch.distributed import _functional_collectives as functional


def gather_rows(own: Shaped[Tensor, "b *row"]) -> tuple[Shaped[Tensor, "B *row"], int]:
    """The rows of all processes in their order, and where the own ones begin; all must ask, with as many rows each.

    Gradients flow into the own rows alone, and no collective runs in the backward pass: each process computes the loss
    of all rows, so that it knows by itself what every row asks of its own. A differentiable gather would need each
    process to take part in the backward pass, and aborts where one lacks a modality.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return own, 0
    flat = own.detach().to(torch.uint8) if own.dtype == torch.bool else own.detach()
    gathered = functional.all_gather_tensor(flat.contiguous(), 0, dist.distributed_c10d._get_default_group())
    gathered = functional.wait_tensor(gathered).to(own.dtype)
    first = dist.get_rank() * len(own)
    return torch.cat([gathered[:first], own, gathered[first + len(own) :]]), first
