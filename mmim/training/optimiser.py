"""Optimisers, and which parameters they decay."""

from abc import abstractmethod
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import ClassVar

import torch
from torch import nn

from mmim.parts import Part


class Optimiser(Part):
    """The configuration of an optimiser."""

    axis: ClassVar[str] = "optimiser"

    @abstractmethod
    def rate(self, batch: int) -> float:
        """The peak learning rate at a batch of so many samples per optimiser step."""

    @abstractmethod
    def build(self, model: nn.Module, batch: int) -> torch.optim.Optimizer:
        """The optimiser of a model's parameters."""


@dataclass(frozen=True, kw_only=True)
class AdamW(Optimiser):
    """AdamW (Loshchilov and Hutter 2019) with the linear scaling rule (Goyal et al. 2017).

    The peak rate is base_lr x batch / per.
    """

    base_lr: float = 1.5e-4
    """Learning rate at a batch of `per` samples."""
    per: int = 256
    """Samples that base_lr is for; 0 takes base_lr as it is."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of the two moments."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    weight_decay: float = 0.05
    """Decoupled decay."""
    no_decay: tuple[str, ...] = ("*mask_token",)
    """Parameters without decay, by name pattern, besides those with one axis (norms, biases)."""

    def rate(self, batch: int) -> float:
        return self.base_lr * batch / self.per if self.per else self.base_lr

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """Whether weight decay applies."""
        return parameter.ndim > 1 and not any(fnmatch(name, pattern) for pattern in self.no_decay)

    def build(self, model: nn.Module, batch: int) -> torch.optim.Optimizer:
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        groups = [
            {
                "params": [p for name, p in named if self.decays(name, p) is decays],
                "weight_decay": self.weight_decay * decays,
            }
            for decays in (True, False)
        ]
        return torch.optim.AdamW(
            [g for g in groups if g["params"]], lr=self.rate(batch), betas=self.betas, eps=self.eps
        )
