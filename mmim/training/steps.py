"""A learning rate that falls in steps."""

import math
from dataclasses import dataclass

from mmim.errors import expect
from mmim.training.schedule import Schedule

SLACK = 1e-9  # of a share of the run, for shares such as 1 / 3 that no float is


@dataclass(frozen=True, kw_only=True)
class StepDecay(Schedule):
    """The peak from the first step on, multiplied by `fall` at `first` and again after every `every` (CAV-MAE)."""

    first: float = 10 / 25
    """Share of the run before the first fall (CAV-MAE: 10 of 25 epochs)."""
    every: float = 5 / 25
    """Share of the run from one fall to the next (CAV-MAE: 5 of 25 epochs)."""
    fall: float = 0.5
    """Rate after a fall over that before it (CAV-MAE: 0.5)."""

    def __post_init__(self) -> None:
        expect(0 <= self.first <= 1, self.first, "a share of the run, in [0, 1]", "schedule.first")
        expect(0 < self.every <= 1, self.every, "a share of the run, in (0, 1]", "schedule.every")
        expect(0 <= self.fall <= 1, self.fall, "a share of the rate before, in [0, 1]", "schedule.fall")

    def factor(self, step: int, steps: int) -> float:
        since = step / steps - self.first + SLACK
        return self.fall ** (math.floor(since / self.every) + 1) if since >= 0 else 1.0
