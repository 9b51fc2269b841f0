"""`mmim embed`."""

from pathlib import Path
from typing import Annotated

import torch
import tyro

from mmim import checkpoint as checkpoints
from mmim import command
from mmim.cli.checks import check_checkpoint, check_numbers, check_output
from mmim.cli.vectors import find
from mmim.embed import embed as embed_samples
from mmim.embed import read, write_parquet
from mmim.errors import OptionError


def embed(
    checkpoint: Path,
    out: Path,
    data: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    use: tuple[str, ...] = (),
    batch: int = 32,
    workers: int = 1,
    settings: Annotated[tuple[str, ...], tyro.conf.arg(name="set")] = (),
) -> None:
    """Write joint embeddings of files to Parquet: columns id, present, joint, and one per modality.

    Args:
        checkpoint: run folder, or one of its checkpoints.
        out: Parquet file to write.
        data: folder of files, list, manifest, tars, or a file of several samples; several as NAME=PATH each.
        use: modalities to read and encode (default: all); `joint` is then the joint pass over these.
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
    plan = find(model, data, use, settings, console)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batches = read(plan.samples, plan.modalities, batch=batch, workers=workers)
    found = embed_samples(model, plan.samples, batches, device=device, use=plan.names)
    about = {"source": str(folder), "read_as": " ".join(settings), "use": " ".join(plan.names)}
    write_parquet(found, out, checkpoints.digest(folder), **about)
    for line in plan.left_out(found.unreadable):
        console.print(line, markup=False, highlight=False)
    width = found.vectors["joint"].shape[1]
    rows = f"{len(found.ids)} rows of {width} numbers"
    console.print(f"{rows} in {out} ({len(plan.samples) - len(found.ids)} files left out)", highlight=False)
