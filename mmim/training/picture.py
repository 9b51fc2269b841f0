"""A picture of what a model reconstructs, for a person to look at."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from mmim.data.loader import in_order, load
from mmim.data.sources import Sample
from mmim.modality import Modality
from mmim.model import MaskedModel, Step
from mmim.records import Split, Tokens

FLATTERS = "Drawn with the hidden tokens' true mean and deviation, which are not predicted."
EXTREME = 1e4
"""Beyond what any data hold, in raw units: where a picture differs between it and its opposite, nothing was seen."""
WIDE = 2.5
"""Pictures whose width is more than so many heights stand below each other."""


@torch.no_grad()
def reconstructions(
    model: MaskedModel, samples: Sequence[Sample], folder: Path, *, device: torch.device | str = "cpu"
) -> list[Path]:
    """For each task that can be drawn: original, what the encoder sees, and the prediction in the hidden places.

    Targets normalised per token are drawn with the hidden token's own mean and deviation, which a prediction does not
    contain; the picture says so.
    """
    views = load(samples, model.method.modalities, in_order(len(samples), len(samples)), seed=None, workers=0)
    step, files = Step(model.to(device).eval(), batch := next(views).batch.to(device)), []
    for name, task in model.method.tasks.items():
        modality, tokens = model.method.modalities[task.modality], step.tokens[task.modality]
        split = step.splits[task.modality]
        predicted = task.target.pieces(step.prediction(name), tokens, split.ids_masked, modality)
        present = [i for i, there in enumerate(batch.present[task.modality].tolist()) if there]
        if predicted is None or not present:
            continue
        rows = _rows(modality, tokens, split, predicted)
        pictures = [{title: rows[title][i] for title in rows} for i in present]
        files.append(_draw(pictures, folder / f"reconstruction-{name}.png", FLATTERS if task.target.flatters else ""))
    return files


def _rows(
    modality: Modality, tokens: Tokens, split: Split, predicted: Float[Tensor, "b m *piece"]
) -> dict[str, list[UInt8[np.ndarray, "H W 3"]]]:
    original = modality.raw(tokens.values)

    def placed(pieces: Tensor) -> list[UInt8[np.ndarray, "H W 3"]]:
        index = split.ids_masked.reshape(*split.ids_masked.shape, *[1] * (pieces.ndim - 2)).expand_as(pieces)
        pieces = pieces.to(original.dtype)
        if split.masked_valid is not None:  # the other places are asked for in vain
            asked = split.masked_valid.reshape(index.shape[:2] + (1,) * (pieces.ndim - 2))
            pieces = torch.where(asked, pieces, original.gather(1, index))
        return modality.render(modality.untokenize(original.scatter(1, index, pieces), tokens.grid))

    return {
        "original": modality.render(modality.untokenize(original, tokens.grid)),
        "seen by the encoder": [
            np.where((low != high).any(axis=-1, keepdims=True), np.uint8(128), low)
            for low, high in zip(*(placed(torch.full_like(predicted, x)) for x in (-EXTREME, EXTREME)), strict=True)
        ],
        "predicted where hidden": placed(predicted),
    }


def _draw(samples: list[dict[str, UInt8[np.ndarray, "H W 3"]]], file: Path, note: str) -> Path:
    """The views of each sample: side by side, or below each other where they are wide."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height, width = next(iter(samples[0].values())).shape[:2]
    columns = 1 if width > WIDE * height else len(samples[0])
    views = [view for sample in samples for view in sample.items()]
    each = 10 / columns if columns == 1 else min(10 / columns, 2.6)  # inches
    rows = len(views) // columns
    figure = Figure(figsize=(each * columns, (each * height / width + 0.22) * rows + 0.4))
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for axis, (title, picture) in zip(axes, views, strict=True):
        axis.imshow(picture, interpolation="nearest")
        axis.set_title(title, fontsize=8, loc="left", pad=2)
        axis.set_axis_off()
    figure.text(0.01, 0.002, note, fontsize=7)
    figure.tight_layout(pad=0.3, rect=(0, 0.01, 1, 1))
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    return file
