"""`mmim import`."""

from pathlib import Path
from typing import Annotated

import tyro

from mmim import command
from mmim.errors import OptionError
from mmim.interop.brief import lines
from mmim.interop.converter import Options, import_weights, save_imported
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
    raw_pixels: bool = False,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
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
        size: height and width of an input (frames and bands of a sound), where the file does not tell or another is
            wanted.
        interpolate: stretch position tables to another --size.
        ratio: share of the tokens that the method hides; default: the file's or the paper's.
        raw_pixels: the decoder predicts raw pixels, where the file does not tell; default: normalised ones.
        mean: subtracted from red, green and blue in [0, 1]; default: the file's or ImageNet's.
        std: divides red, green and blue after that.
    """
    if out.is_file():
        raise OptionError(f"--out {out} is a file: name a folder.")
    if not out.resolve().parent.is_dir():
        raise OptionError(f"--out {out}: there is no folder {out.resolve().parent}. Make it first.")
    options = Options(
        {
            "heads": heads,
            "decoder_heads": decoder_heads,
            "size": size,
            "interpolate": interpolate,
            "ratio": ratio,
            "raw_pixels": raw_pixels,
            "mean": mean,
            "std": std,
        }
    )
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
