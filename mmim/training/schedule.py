"""Learning rates over a run: functions of the optimiser step.

So a resumed run needs no state, and processes can't disagree.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from mmim.errors import OptionError, expect
from mmim.parts import Part


class Schedule(Part):
    """How the learning rate moves."""

    axis: ClassVar[str] = "schedule"

    @abstractmethod
    def factor(self, step: int, steps: int) -> float:
        """The learning rate of step 0 .. steps - 1 over the peak rate."""


@dataclass(frozen=True, kw_only=True)
class WarmupCosine(Schedule):
    """Linear from zero to the peak, then half a cosine down to `min_lr`.

    The first step runs at rate zero and the peak is reached on the last warm-up step, as in VideoMAE, MultiMAE and
    BEiT (official code; their option for another starting rate is dead).
    """

    warmup: float = 0.05
    """Share of the run spent warming up (VideoMAE: 40 of 800 epochs)."""
    min_lr: float = 0.0
    """Rate at the end, over the peak rate (VideoMAE: 1e-5 / 1.5e-4; MAE: 0)."""

    def __post_init__(self) -> None:
        if not 0 <= self.warmup <= 1:
            raise OptionError(f"schedule.warmup is {self.warmup}: it is a share of the run, in [0, 1].")
        expect(0 <= self.min_lr <= 1, self.min_lr, "a share of the peak rate, in [0, 1]", "schedule.min_lr")

    def factor(self, step: int, steps: int) -> float:
        warm = round(self.warmup * steps)
        if step < warm:
            return step / max(warm - 1, 1)
        progress = (step - warm) / max(steps - warm, 1)
        return self.min_lr + (1 - self.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))
