"""What `recipes/five.py` at demo sizes learns across the modalities of real pairs, kept apart by every fourth sample.

    python scripts/real_pairs.py path/to/grid_av --use video audio [--steps 300] [--seed 0]
    python scripts/real_pairs.py pairs.csv --use image points text

The second is Kenney's index.csv with its columns mesh, image, caption called points, image, text.

Prints retrieval in every direction among the samples kept apart: trained, untrained, and canonical correlation of plain
features fitted on the others. Every file is read once, in its evaluation view, so nothing is augmented.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import torch
import tyro
from crossmodal import read_once, trained
from rich.console import Console

from mmim.data.sources import find_union
from mmim.embed import embed, read
from mmim.evaluation.retrieval_report import compare, parse_pairs, table
from mmim.options import apply
from mmim.plan import prepared
from mmim.using import using
from recipes.five import DEMO, FIVE, SIZES


@dataclass(frozen=True)
class Options:
    """What to run."""

    data: Annotated[str, tyro.conf.Positional]
    """Folder, manifest or tars of pairs."""
    use: tuple[str, ...]
    """Modalities."""
    steps: int = 300
    """Optimiser steps."""
    batch: int = 64
    """Samples a step."""
    seed: int = 0
    """Of weights, order and masks."""
    threads: int = 1
    """Of torch."""


def main(options: Options) -> None:
    """Train on three quarters, retrieve among the others."""
    torch.set_num_threads(options.threads)
    recipe = apply(FIVE, SIZES["tiny"] | {path: value for path, value in DEMO.items() if path != "size"})
    recipe = using(recipe, options.use)
    recipe = replace(recipe, seed=options.seed, batch=options.batch, micro_batch=options.batch, steps=options.steps)
    found = find_union((options.data,), recipe.modalities).samples
    samples = [sample for sample in found if len(sample.sources) == len(options.use)]
    apart = np.arange(len(samples)) % 4 == 3
    fit = [sample for sample, is_apart in zip(samples, apart, strict=True) if not is_apart]
    console = Console(width=110)
    with TemporaryDirectory() as folder:
        recipe = prepared(recipe, fit, Path(folder) / "run", console)
        began = time.perf_counter()
        model, fresh = trained(recipe, fit)
        console.print(f"{len(fit)} samples, trained in {time.perf_counter() - began:.0f} s; {apart.sum()} kept apart")
        batches = list(read(samples, model.method.modalities, batch=50))
        ours = embed(model, samples, batches, features=True)
        theirs = embed(fresh, samples, batches)
    sets = {"trained": ours.vectors, "untrained": theirs.vectors}
    pairs = parse_pairs((), tuple(model.method.modalities))
    rows, reasons = compare(sets, ours.features, pairs, apart, seed=options.seed)
    console.print(table(rows))
    for what, reason in reasons.items():
        console.print(f"no {what}: {reason}")


if __name__ == "__main__":
    asked = tyro.cli(Options)
    read_once()
    main(asked)
