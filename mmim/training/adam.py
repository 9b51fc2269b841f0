"""Adam with L2 regularisation, which is not AdamW's decay."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from mmim.errors import expect
from mmim.training.optimiser import Optimiser


@dataclass(frozen=True, kw_only=True)
class Adam(Optimiser):
    """Adam (Kingma and Ba 2015); the weights times `l2` are added to the gradient, so the moments scale them too.

    The peak rate is base_lr x batch / per, or base_lr as it is.
    """

    base_lr: float = 5e-5
    """Learning rate at a batch of `per` samples (CAV-MAE: 5e-5 at a batch of 48)."""
    per: int = 0
    """Samples that base_lr is for; 0 takes base_lr as it is (CAV-MAE: 0)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the two moments (CAV-MAE: 0.95 0.999)."""
    eps: float = 1e-8
    """Added to the root of the second moment (CAV-MAE: 1e-8)."""
    l2: float = 0.0
    """Share of every weight, norms, biases and tokens included, that is added to its gradient (CAV-MAE: 5e-7)."""

    def __post_init__(self) -> None:
        expect(0 <= self.base_lr < math.inf, self.base_lr, "at least 0 and finite", "optimiser.base_lr")
        expect(self.per >= 0, self.per, "at least 0", "optimiser.per")
        expect(all(0 <= beta < 1 for beta in self.betas), self.betas, "two numbers in [0, 1)", "optimiser.betas")
        expect(0 < self.eps < math.inf, self.eps, "above 0 and finite", "optimiser.eps")
        expect(0 <= self.l2 < math.inf, self.l2, "at least 0 and finite", "optimiser.l2")

    def rate(self, batch: int) -> float:
        return self.base_lr * batch / self.per if self.per else self.base_lr

    def build(self, model: nn.Module, batch: int) -> torch.optim.Optimizer:
        weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return torch.optim.Adam(weights, lr=self.rate(batch), betas=self.betas, eps=self.eps, weight_decay=self.l2)
