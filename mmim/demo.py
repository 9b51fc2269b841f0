"""The demo: a recipe on the sample world, judged against its own untrained encoder and against raw features."""

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool
from rich.console import Console

from mmim.data.sample import Sample, stem_of
from mmim.data.sources import find_samples
from mmim.data.world.build import SPLITS, ensure_world
from mmim.data.world.scene import FACTORS, train_and_heldout
from mmim.embed import embed, read
from mmim.evaluation import retrieval_report
from mmim.evaluation.report import Row, as_dict, compare, table
from mmim.evaluation.tables import read_table
from mmim.modality import Modality
from mmim.model import MaskedModel

TRAIN, HELDOUT, SEED = 512, 256, 0
"""Scenes of the demo's world, the same whatever the seed of the run."""


def world(modalities: dict[str, Modality]) -> Path:
    """The folder of the sample world with a file of every modality, made on first use."""
    return ensure_world(train_and_heldout(TRAIN, HELDOUT, SEED), modalities)


def judge(
    trained: MaskedModel, untrained: MaskedModel, folder: Path, report: Path, console: Console, device: torch.device
) -> None:
    """Print and write kNN and linear-probe accuracy for every label on the held-out scenes.

    With several modalities also how well each finds the others of the same scene; a scene with the same factors in all
    is as right.
    """
    samples, labels, heldout = labelled(folder, trained.method.modalities)
    batches = list(read(samples, trained.method.modalities, batch=64, workers=1))
    ours = embed(trained, samples, batches, device=device, features=True)
    theirs = embed(untrained, samples, batches, device=device)
    features = {"trained": ours.vectors["joint"], "untrained": theirs.vectors["joint"]}
    features |= {f"raw {name}": vectors for name, vectors in ours.features.items()}
    rows = compare(features, labels, heldout)
    console.print(table(rows))
    console.print(verdict(rows))
    report.mkdir(parents=True, exist_ok=True)
    (report / "evaluation.json").write_text(json.dumps(as_dict(rows), indent=1) + "\n")
    pairs = list(combinations(trained.method.modalities, 2))
    if pairs:
        groups = [" ".join(factors) for factors in zip(*labels.values(), strict=True)]
        sets = {"trained": ours.vectors, "untrained": theirs.vectors}
        found, _ = retrieval_report.compare(sets, {}, pairs, heldout, groups)
        console.print(retrieval_report.table(found))
        (report / "retrieval.json").write_text(json.dumps(retrieval_report.as_dict(found), indent=1) + "\n")


def verdict(rows: Sequence[Row]) -> str:
    """Where the intervals of (trained - untrained) and of the trained encoder lie above zero and chance, in a sentence.

    Without the second, every twentieth factor that can't be seen at all would count as learnt now and then.
    """
    known = {(row.label, row.method) for row in rows if row.difference is None and row.accuracy.low > row.chance.value}
    won = [
        f"{row.label} by {row.method}"
        for row in rows
        if row.features == "untrained" and row.difference is not None and row.difference.low > 0
        if (row.label, row.method) in known
    ]
    return f"Training beat the untrained encoder beyond its interval on: {', '.join(won) or 'nothing'}."


def labelled(
    folder: Path, modalities: Mapping[str, Modality]
) -> tuple[list[Sample], dict[str, list[str]], Bool[np.ndarray, " n"]]:
    """The samples of a world, the factors of each, and which of them are held out."""
    parts = {split: find_samples(folder / split, modalities) for split in SPLITS}
    samples = [sample for split in SPLITS for sample in parts[split]]
    return samples, _labels(folder, parts), np.arange(len(samples)) >= len(parts["train"])


def _labels(folder: Path, parts: dict[str, list[Sample]]) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {name: [] for name in FACTORS}
    for split, samples in parts.items():
        index = read_table(folder / split)
        rows = {key: row for row, key in enumerate(index.keys)}
        for sample in samples:
            for name in FACTORS:
                values[name].append(index.columns[name][rows[stem_of(sample.id)]])
    return values
