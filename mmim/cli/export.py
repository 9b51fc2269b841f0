"""`mmim export`."""

from pathlib import Path

import tyro

from mmim import checkpoint as checkpoints
from mmim import command
from mmim.errors import OptionError
from mmim.interop.converter import export_weights


def export(checkpoint: tyro.conf.Positional[Path], to: str, out: Path) -> None:
    """Write a checkpoint as another library reads it.

    Args:
        checkpoint: run folder, or one of its checkpoints.
        to: the format; `mmim list` names them.
        out: folder to make (transformers), or file with the suffix .safetensors (timm).
    """
    if checkpoint.is_file():
        raise OptionError(f"{checkpoint} is a file: give a run folder, or a folder checkpoints/step-N in it.")
    made = export_weights(to, checkpoints.load(checkpoint), out)
    console = command.console()
    for remark in made.remarks:
        console.print(f"note       {remark}", markup=False, highlight=False, soft_wrap=True)
    numbers = sum(tensor.numel() for tensor in made.tensors.values())
    console.print(f"{len(made.tensors)} tensors, {numbers:,} numbers in {out}", highlight=False, soft_wrap=True)
