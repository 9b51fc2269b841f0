"""`mmim import`."""

from pathlib import Path
from typing import Annotated

import tyro

from mmim import command
from mmim.interop.brief import lines
from mmim.interop.converter import Options, check_place, import_weights, own_settings, save_imported
from mmim.interop.files import read_weights


def import_(
    checkpoint: tyro.conf.Positional[Path],
    source: Annotated[str, tyro.conf.arg(name="from")],
    out: Path,
    drop: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    state: str | None = None,
    heads: int | None = None,
    decoder_heads: int | None = None,
    size: tuple[int, int] | None = None,
    interpolate: bool = False,
    ratio: float | None = None,
    settings: Annotated[tuple[str, ...], tyro.conf.arg(name="set")] = (),
) -> None:
    """Make a checkpoint of ours from published weights; every tensor is used, or left out by --drop.

    The result is loaded like any other: `mmim embed --checkpoint OUT`, `mmim.load(OUT)`.

    Args:
        checkpoint: weight file (.safetensors, .pth, .pt, .bin, .ckpt), or a folder of transformers or timm.
        source: the format; `mmim list` names them.
        out: folder to make.
        drop: names to leave out, with * for any letters; may be given several times.
        state: which state dict of a file with several.
        heads: attention heads of the encoder, where the file does not tell.
        decoder_heads: attention heads of the decoder, where the file does not tell.
        size: the two extents of an input, in the order of its axes, where the file does not tell or another is wanted.
        interpolate: stretch position tables to another --size.
        ratio: share of the tokens that the method hides; default: the file's or the paper's.
        settings: NAME=VALUE, options of this format alone; `--set help` lists them.
    """
    check_place(out)
    general = {
        "heads": heads,
        "decoder_heads": decoder_heads,
        "size": size,
        "interpolate": interpolate,
        "ratio": ratio,
    }
    options = Options(general, own_settings(source, settings))
    made = import_weights(source, read_weights(checkpoint, state), options, tuple(drop))
    folder = save_imported(made, out)
    console = command.console()
    parameters = sum(parameter.numel() for parameter in made.model.parameters())
    left = f" left out{': ' if made.dropped else ''}{', '.join(made.dropped)}"
    said = [
        *lines(made.model.method),
        *(f"note       {remark}" for remark in made.remarks),
        f"{made.kept} tensors used, {len(made.dropped)}{left}",
        f"{parameters:,} parameters in {folder}",
    ]
    for line in said:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
