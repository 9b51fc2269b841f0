"""`mmim embed`."""

from pathlib import Path
from typing import Annotated

import torch
import tyro

from mmim import checkpoint as checkpoints
from mmim import command
from mmim.cli.checks import check_checkpoint, check_numbers, check_output, told
from mmim.data.sources import find_union
from mmim.embed import embed as embed_samples
from mmim.embed import read, read_as, write_parquet
from mmim.errors import OptionError


def embed(
    checkpoint: Path,
    out: Path,
    data: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    batch: int = 32,
    workers: int = 1,
    settings: Annotated[tuple[str, ...], tyro.conf.arg(name="set")] = (),
) -> None:
    """Write joint embeddings of files to Parquet: columns id, present, joint, and one per modality.

    Args:
        checkpoint: run folder, or one of its checkpoints.
        out: Parquet file to write.
        data: folder of files, list, manifest, tars, or a file of several samples; several as NAME=PATH each.
        batch: samples per forward pass.
        workers: processes that read files.
        settings: NAME.FIELD=VALUE, read more or finer than in training; a wrong one lists which fields there are.
    """
    if not data:
        raise OptionError("Give --data, the files to embed.")
    check_numbers(batch, workers)
    check_output("out", out)
    check_checkpoint(checkpoint)
    console = command.console()
    folder = checkpoints.find(checkpoint)
    model = checkpoints.load(folder)
    modalities = read_as(model.method.modalities, settings)
    samples = told(find_union(data, modalities), console)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batches = read(samples, modalities, batch=batch, workers=workers)
    found = embed_samples(model, samples, batches, device=device)
    write_parquet(found, out, checkpoints.digest(folder), source=str(folder), read_as=" ".join(settings))
    for bad in found.unreadable:
        console.print(f"left out {bad.id}: {bad.reason}", markup=False, highlight=False)
    width = found.vectors["joint"].shape[1]
    rows = f"{len(found.ids)} rows of {width} numbers"
    console.print(f"{rows} in {out} ({len(found.unreadable)} files left out)", highlight=False)
