"""The loss of masked modelling: how far predictions are from targets at hidden places."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmim.errors import OptionError, expect
from mmim.modality import Target
from mmim.objectives.term import Asks, Term, TermModule
from mmim.records import LossTerm


@dataclass(frozen=True)
class Reconstruction(Term):
    """The target's loss at hidden tokens, averaged over the whole batch, added over tasks with their weights."""

    tasks: tuple[str, ...] = ()
    """Which tasks; none named means all."""
    average: Literal["tokens", "samples"] = "tokens"
    """Over all hidden tokens alike (MAE), or first over those of each sample, then over the samples that have some
    (MultiMAE)."""
    weight: float = 1.0
    """Factor of all of it; 0: left out, decoders included."""

    def __post_init__(self) -> None:
        expect(0 <= self.weight < math.inf, self.weight, "at least 0 and finite", "Reconstruction.weight")

    def tasks_of(self, tasks: Collection[str]) -> Collection[str]:
        return self.tasks or tasks

    def using(self, kept: Sequence[str], fresh: Sequence[str], lost: Sequence[str]) -> Term | None:
        if not self.tasks:
            return self
        left = (*(task for task in self.tasks if task not in lost), *fresh)
        return replace(self, tasks=left) if left else None

    def build(
        self, targets: Mapping[str, tuple[Target, float]], width: int, modalities: Collection[str]
    ) -> "ReconstructionModule":
        if unknown := [task for task in self.tasks if task not in targets]:
            raise OptionError(f"{self} asks for the task {unknown[0]!r}; there are {', '.join(targets)}.")
        chosen = {task: targets[task] for task in self.tasks or targets}
        return ReconstructionModule({task: (t, self.weight * w) for task, (t, w) in chosen.items()}, self.average)


class ReconstructionModule(TermModule):
    """The module of a `Reconstruction`; it has no parameters."""

    def __init__(self, targets: Mapping[str, tuple[Target, float]], average: str) -> None:
        super().__init__()
        self.targets = dict(targets)
        self.by_sample = average == "samples"

    def counts(self, step: Asks) -> dict[str, Float[Tensor, ""]]:
        return {task: self._count(step.query(task)[1]) for task in self.targets}

    def _count(self, counted: Bool[Tensor, "b m"]) -> Float[Tensor, ""]:
        return (counted.any(dim=1) if self.by_sample else counted).sum().float()

    def forward(self, step: Asks) -> dict[str, LossTerm]:
        return {task: self._task(step, task, target, weight) for task, (target, weight) in self.targets.items()}

    def _task(self, step: Asks, task: str, target: Target, weight: float) -> LossTerm:
        _, counted = step.query(task)
        if not step.predicts(task):
            nothing = torch.zeros((), dtype=torch.get_default_dtype(), device=counted.device)
            return LossTerm(total=nothing, count=self._count(counted))
        per_token = target.loss(step.prediction(task), step.target(task)) * counted  # b m
        if self.by_sample:
            per_token = per_token.sum(dim=1) / counted.sum(dim=1).clamp(min=1)
        return LossTerm(total=weight * per_token.sum(), count=self._count(counted))
