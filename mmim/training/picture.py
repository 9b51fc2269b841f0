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
HIDDEN = 0.5
"""Grey, in raw units, where the encoder saw nothing."""


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
        pictures = [(title, rows[title][i]) for i in present for title in rows]
        files.append(_draw(pictures, folder / f"reconstruction-{name}.png", FLATTERS if task.target.flatters else ""))
    return files


def _rows(
    modality: Modality, tokens: Tokens, split: Split, predicted: Float[Tensor, "b m *piece"]
) -> dict[str, list[UInt8[np.ndarray, "H W 3"]]]:
    original = modality.raw(tokens.values)

    def placed(pieces: Tensor) -> list[UInt8[np.ndarray, "H W 3"]]:
        index = split.ids_masked.reshape(*split.ids_masked.shape, *[1] * (pieces.ndim - 2)).expand_as(pieces)
        data = modality.untokenize(original.scatter(1, index, pieces.to(original.dtype)), tokens.grid)
        return modality.render(data)

    return {
        "original": modality.render(modality.untokenize(original, tokens.grid)),
        "seen by the encoder": placed(torch.full_like(predicted, HIDDEN)),
        "predicted where hidden": placed(predicted),
    }


def _draw(rows: list[tuple[str, UInt8[np.ndarray, "H W 3"]]], file: Path, note: str) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height, width = rows[0][1].shape[:2]
    figure = Figure(figsize=(10, (10 * height / width + 0.22) * len(rows) + 0.4))
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    for axis, (title, picture) in zip(axes, rows, strict=True):
        axis.imshow(picture, interpolation="nearest")
        axis.set_title(title, fontsize=8, loc="left", pad=2)
        axis.set_axis_off()
    figure.text(0.01, 0.002, note, fontsize=7)
    figure.tight_layout(pad=0.3, rect=(0, 0.01, 1, 1))
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    return file
