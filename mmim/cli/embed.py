"""`mmim embed`."""

from pathlib import Path

import torch

from mmim import checkpoint as checkpoints
from mmim import command
from mmim.cli.checks import check_checkpoint, check_numbers, check_output
from mmim.data.sources import find_samples
from mmim.embed import embed as embed_samples
from mmim.embed import read, write_parquet


def embed(checkpoint: Path, data: Path, out: Path, batch: int = 32, workers: int = 1) -> None:
    """Write joint embeddings of files to Parquet: columns id, present, joint, and one per modality.

    Args:
        checkpoint: run folder, or one of its checkpoints.
        data: folder of files, or a text file with a path per line.
        out: Parquet file to write.
        batch: samples per forward pass.
        workers: processes that read files.
    """
    check_numbers(batch, workers)
    check_output("out", out)
    check_checkpoint(checkpoint)
    console = command.console()
    folder = checkpoints.find(checkpoint)
    model = checkpoints.load(folder)
    samples = find_samples(data, model.method.modalities)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = embed_samples(
        model, samples, read(samples, model.method.modalities, batch=batch, workers=workers), device=device
    )
    write_parquet(found, out, checkpoints.digest(folder), source=str(folder))
    for bad in found.unreadable:
        console.print(f"left out {bad.id}: {bad.reason}", markup=False, highlight=False)
    width = found.vectors["joint"].shape[1]
    rows = f"{len(found.ids)} rows of {width} numbers"
    console.print(f"{rows} in {out} ({len(found.unreadable)} files left out)", highlight=False)
