"""What a command checks before it does any work."""

from pathlib import Path

from rich.console import Console

from mmim.data.sources import Found, Sample
from mmim.errors import OptionError


def check_numbers(batch: int, workers: int) -> None:
    """Refuse a batch or a number of workers that can't be."""
    if batch < 1:
        raise OptionError(f"--batch is {batch}; it must be at least 1.")
    if workers < 0:
        raise OptionError(f"--workers is {workers}; it must be at least 0.")


def check_output(option: str, file: Path) -> None:
    """Refuse a place where no file can be written."""
    if file.is_dir():
        raise OptionError(f"--{option} {file} is a folder: name a file.")
    if not file.resolve().parent.is_dir():
        raise OptionError(f"--{option} {file}: there is no folder {file.resolve().parent}. Make it first.")


def check_checkpoint(path: Path) -> None:
    """Refuse a file: a checkpoint is a folder."""
    if path.is_file():
        raise OptionError(f"--checkpoint {path} is a file: give a run folder, or a folder checkpoints/step-N in it.")


def told(found: Found, console: Console) -> list[Sample]:
    """The samples that were found, once their notes are said."""
    for note in found.notes:
        console.print(f"Note: {note}", markup=False, highlight=False)
    return found.samples
