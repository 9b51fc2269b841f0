"""Weights that stay as they are, for all of a run or its beginning."""

from collections.abc import Collection

from torch import nn


class Freeze:
    """Holds weights of a model: they get no gradient, so neither step nor decay nor momentum moves them.

    What they are part of runs forward and backward as ever, since what is fresh lies on both sides of it; so nothing
    depends on the step for DDP and compiled graphs but the statistics of batch norms, which are held as well.

    names: of parameters and buffers; steps: for how many steps of the run; None: for all of them.
    """

    def __init__(self, model: nn.Module, names: Collection[str], steps: int | None) -> None:
        self.names, self.steps = sorted(names), steps
        self.parameters = [parameter for name, parameter in model.named_parameters() if name in set(names)]
        self.statistics = [
            module
            for path, module in model.named_modules()
            if any(f"{path}.{name}" in set(names) for name, _ in module.named_buffers(recurse=False))
        ]

    def holds(self, step: int) -> bool:
        """Whether the weights stay as they are in a step, counted from 0."""
        return bool(self.names) and (self.steps is None or step < self.steps)

    def prepare(self, step: int) -> None:
        """Put the model, in training mode, into the mode of a step."""
        for module in self.statistics:
            module.train(not self.holds(step))

    def forget(self, step: int) -> None:
        """Take away the gradients of weights that a step holds."""
        for parameter in self.parameters if self.holds(step) else ():
            parameter.grad = None
