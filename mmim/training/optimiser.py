"""Optimisers, and which parameters they decay."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import ClassVar

import torch
from torch import nn

from mmim.errors import expect
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
    """Learning rate at a batch of `per` samples (MAE, VideoMAE: 1.5e-4)."""
    per: int = 256
    """Samples that base_lr is for; 0 takes base_lr as it is (MAE, VideoMAE: 256)."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of the two moments (MAE, VideoMAE: 0.9 0.95)."""
    eps: float = 1e-8
    """Added to the root of the second moment (MAE, VideoMAE: 1e-8)."""
    weight_decay: float = 0.05
    """Decoupled decay (MAE, VideoMAE: 0.05)."""
    no_decay: tuple[str, ...] = ("*mask_token",)
    """Name patterns of parameters without decay, besides norms and biases (VideoMAE: the mask token; MAE: none)."""
    decay_all: bool = False
    """Decay norms and biases too (MultiMAE, whose code never reads its list of exemptions)."""

    def __post_init__(self) -> None:
        expect(0 <= self.base_lr < math.inf, self.base_lr, "at least 0 and finite", "optimiser.base_lr")
        expect(self.per >= 0, self.per, "at least 0", "optimiser.per")
        expect(all(0 <= beta < 1 for beta in self.betas), self.betas, "two numbers in [0, 1)", "optimiser.betas")
        expect(0 < self.eps < math.inf, self.eps, "above 0 and finite", "optimiser.eps")
        expect(0 <= self.weight_decay < math.inf, self.weight_decay, "at least 0 and finite", "optimiser.weight_decay")

    def rate(self, batch: int) -> float:
        return self.base_lr * batch / self.per if self.per else self.base_lr

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """Whether weight decay applies."""
        may = self.decay_all or parameter.ndim > 1
        return may and not any(fnmatch(name, pattern) for pattern in self.no_decay)

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
