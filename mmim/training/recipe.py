"""A recipe: a method, how it is optimised, and how a run of it goes."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mmim.data.order import Layout
from mmim.data.union import parse_weights
from mmim.errors import OptionError
from mmim.growth import Comparison
from mmim.model import Method
from mmim.training.optimiser import Optimiser
from mmim.training.schedule import Schedule, WarmupCosine

FREE = {
    "steps",
    "epochs",
    "workers",
    "threads",
    "log_every",
    "checkpoint_every",
    "keep",
    "micro_batch",
    "output",
    "resume",
    "config",
    "max_bad",
    "compare.labels",
    "compare.split",
    "compare.samples",
    "compare.most_lost",
}
"""What may change between a run and its resumption: length, workers, logging and batch layout.

Everything else makes another run.
"""


@dataclass(frozen=True, kw_only=True)
class Recipe(Method):
    """A published method at the paper's values. Every field can be set from the command line."""

    name: str
    """Of the recipe; names its default run folder."""
    data: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Folder of files, a text file with `path` or `path label` lines, a manifest (.csv, .tsv, .jsonl, .parquet with a
    column per modality) or tars; several as NAME=PATH each. Without it: the demo on the sample world."""
    weight: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """NAME=NUMBER for each of several --data: their shares of the samples that are drawn. Without it every sample comes
    once an epoch."""
    use: tuple[str, ...] = ()
    """Modalities, such as image,audio: some of the recipe's, and installed ones that it does not know; what names one
    that is left out goes with it. Default: all of the recipe's."""
    output: Path | None = None
    """Run folder; default runs/NAME-DATA."""
    init: Path | None = None
    """Checkpoint or run folder whose weights the run starts from, such as `mmim import` makes; None starts afresh."""
    init_trunk_only: bool = False
    """Take the encoder alone from --init."""
    freeze: tuple[str, ...] = ()
    """Parts of the model, such as trunk or decoders.joint, whose weights from --init stay as they are; what is fresh in
    them learns."""
    freeze_steps: int | None = None
    """Steps after which these weights learn too; None: never."""
    compare: Comparison = field(default_factory=Comparison)
    """What a model that learns further modalities forgot."""
    size: str = ""
    """Preset of widths, depths and heads, and of the batch where a paper's differs; options beside it win."""
    config: Path | None = None
    """A YAML file of options, such as a run's recipe.yaml; the command line wins over it."""
    resume: bool = True
    """Go on from the newest checkpoint in the run folder; --no-resume moves an earlier run aside and starts anew."""
    epochs: float = 800.0
    """Passes over the data."""
    steps: int | None = None
    """Optimiser steps, in place of epochs."""
    batch: int = 2048
    """Samples per optimiser step, over all processes."""
    micro_batch: int | None = None
    """Samples per process and forward pass, the rest is accumulated; default: the largest up to 64 that fits."""
    repeats: int = 1
    """Clips taken from a file each time it is opened (repeated sampling)."""
    optimiser: Optimiser
    """How weights move."""
    schedule: Schedule = field(default_factory=WarmupCosine)
    """How the learning rate moves."""
    clip_grad: float | None = None
    """Largest norm of the gradient; None does not clip."""
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    """Arithmetic of the network; losses and weights stay in fp32. fp16 needs a GPU."""
    compile: bool = False
    """torch.compile the model, as one graph."""
    seed: int = 0
    """Of initial weights, order, crops and masks."""
    workers: int | None = None
    """Processes that read files, per training process; default: cores less one with a GPU, a quarter
    of them without; at most 8."""
    threads: int | None = None
    """Processor threads per training process on a machine without a GPU; default: the cores that no worker
    has."""
    log_every: int = 10
    """Steps between two lines of metrics.jsonl."""
    checkpoint_every: int = 1000
    """Steps between two checkpoints."""
    keep: int = 2
    """Newest checkpoints that stay; 0 keeps all."""
    max_bad: float = 0.5
    """Share of the files that may turn out unreadable before the run gives up."""

    def check(self) -> None:
        super().check()
        parse_weights(self.weight, self.data)
        if not any(term.weight for term in self.objective.values()):
            weights = ", ".join(f"--objective.{name}.weight" for name in self.objective)
            cure = f"set one of {weights} above 0" if weights else "give the recipe's `objective` a term"
            raise OptionError(f"Nothing is left to learn: {cure}.")
        if self.init_trunk_only and self.init is None:
            raise OptionError("--init-trunk-only without --init: name the checkpoint to start from.")
        if self.freeze and self.init is None:
            raise OptionError("--freeze without --init: fresh weights have to learn. Name a checkpoint to start from.")
        if self.freeze_steps is not None and (not self.freeze or self.freeze_steps < 1):
            raise OptionError(f"--freeze-steps {self.freeze_steps} needs --freeze, and must be at least 1.")
        self.compare.check()
        positive = {
            "batch": self.batch,
            "repeats": self.repeats,
            "log_every": self.log_every,
            "checkpoint_every": self.checkpoint_every,
        }
        optional = {"steps": self.steps, "micro_batch": self.micro_batch}
        for name, value in {
            **positive,
            **{k: v for k, v in optional.items() if v is not None},
        }.items():
            if value <= 0:
                raise OptionError(f"--{name.replace('_', '-')} is {value}; it must be above 0.")
        if not 0 < self.epochs < math.inf:
            raise OptionError(f"--epochs is {self.epochs}; it must be above 0 and finite.")
        for name, count in {
            "keep": self.keep,
            "workers": self.workers or 0,
            "threads": self.threads or 0,
            "max_bad": self.max_bad,
        }.items():
            if not count >= 0:  # nor NaN
                raise OptionError(f"--{name.replace('_', '-')} is {count}; it must not be negative.")
        if self.clip_grad is not None and not self.clip_grad > 0:
            raise OptionError(f"--clip-grad is {self.clip_grad}; it must be above 0, or None.")

    def layout(self, processes: int) -> Layout:
        """How the batch is spread over processes and micro-batches.

        Raises:
            OptionError: it can't be spread evenly.
        """
        share, rest = divmod(self.batch, processes)
        if rest or not share:
            raise OptionError(
                f"--batch {self.batch} can't be spread over {processes} processes: use a multiple of {processes}."
            )
        micro = self.micro_batch or max(size for size in range(1, min(share, 64) + 1) if share % size == 0)
        if share % micro:
            divisors = [size for size in range(1, share + 1) if share % size == 0]
            raise OptionError(
                f"--micro-batch {micro} does not divide the {share} samples of a process "
                f"({self.batch} over {processes}): "
                f"use one of {', '.join(map(str, divisors[:12]))}, or another --batch."
            )
        return Layout(self.batch, micro, processes)

    def total_steps(self, samples: int) -> int:
        """Optimiser steps of the run."""
        return (
            self.steps if self.steps is not None else max(1, round(self.epochs * samples * self.repeats / self.batch))
        )
