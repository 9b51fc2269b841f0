"""The loss of masked modelling: how far predictions are from targets at hidden places."""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from mmim.errors import OptionError
from mmim.modality import Target
from mmim.objectives.term import Asks, Term, TermModule
from mmim.records import LossTerm


@dataclass(frozen=True)
class Reconstruction(Term):
    """The target's loss, averaged over all hidden tokens of the whole batch, added over tasks with their weights."""

    tasks: tuple[str, ...] = ()
    """Which tasks; none named means all."""

    def build(self, targets: Mapping[str, tuple[Target, float]], width: int) -> "ReconstructionModule":
        if unknown := [task for task in self.tasks if task not in targets]:
            raise OptionError(f"{self} asks for the task {unknown[0]!r}; there are {', '.join(targets)}.")
        return ReconstructionModule({task: targets[task] for task in self.tasks or targets})


class ReconstructionModule(TermModule):
    """The module of a `Reconstruction`; it has no parameters."""

    def __init__(self, targets: Mapping[str, tuple[Target, float]]) -> None:
        super().__init__()
        self.targets = dict(targets)

    def counts(self, step: Asks) -> dict[str, Float[Tensor, ""]]:
        return {task: step.query(task)[1].sum().float() for task in self.targets}

    def forward(self, step: Asks) -> dict[str, LossTerm]:
        return {task: self._task(step, task, target, weight) for task, (target, weight) in self.targets.items()}

    def _task(self, step: Asks, task: str, target: Target, weight: float) -> LossTerm:
        _, counted = step.query(task)
        per_token = target.loss(step.prediction(task), step.target(task))  # b m
        return LossTerm(total=weight * (per_token * counted).sum(), count=counted.sum().float())
