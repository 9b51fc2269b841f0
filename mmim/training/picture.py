"""A picture of what a model reconstructs, for a person to look at."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int64, Num, UInt8
from torch import Tensor

from mmim.corruption.corruption import Sides
from mmim.data.loader import in_order, load
from mmim.data.sources import Sample
from mmim.modality import Modality
from mmim.model import MaskedModel, Step
from mmim.records import Tokens

Picture = UInt8[np.ndarray, "_ _ 3"]

FLATTERS = "Drawn with the hidden tokens' true mean and deviation, which are not predicted."
EXTREME = 10**9
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
    for name, task in model.tasks.items():
        if task.modality not in step.given:
            continue
        modality, side = model.method.modalities[task.modality], step.sides[task.modality]
        query, counted = step.query(name)
        predicted = task.target.pieces(step.prediction(name), query.tokens, query.ids, modality)
        present = [i for i, there in enumerate(batch.present[task.modality].tolist()) if there]
        if predicted is None or not present:
            continue
        rows = _rows(Canvas(modality, step.tokens[task.modality]), side, counted, predicted)
        pictures = [{title: rows[title][i] for title in rows} for i in present]
        files.append(_draw(pictures, folder / f"reconstruction-{name}.png", FLATTERS if task.target.flatters else ""))
    return files


@dataclass(frozen=True, eq=False)
class Canvas:
    """The tokens of a modality, to be drawn."""

    modality: Modality
    tokens: Tokens

    @property
    def data(self) -> Num[Tensor, "b n *piece"]:
        """Their content in raw units."""
        return self.modality.raw(self.tokens.values)

    def drawn(self, data: Num[Tensor, "b n *piece"], unknown: Bool[Tensor, "b n"] | None = None) -> list[Picture]:
        """Pictures of content in the tokens' places, grey where it is unknown."""
        if unknown is None:
            return self.modality.render(self.modality.untokenize(data, self.tokens))
        covered = unknown.reshape(*unknown.shape, *[1] * (data.ndim - 2))
        low, high = (self.drawn(torch.where(covered, data.new_tensor(x), data)) for x in (-EXTREME, EXTREME))
        return [
            np.where((one != other).any(axis=-1, keepdims=True), np.uint8(128), one)
            for one, other in zip(low, high, strict=True)
        ]


def _rows(
    whole: Canvas, side: Sides, counted: Bool[Tensor, "b m"], predicted: Num[Tensor, "b m *piece"]
) -> dict[str, list[Picture]]:
    """The views, by title."""
    seen, asked = Canvas(whole.modality, side.tokens), Canvas(whole.modality, side.asked)
    hidden = ~_places(side.split.ids_keep, side.split.keep_valid, side.tokens.count)
    if side.tokens.valid is not None:
        hidden = hidden & side.tokens.valid
    rows = {"original": whole.drawn(whole.data), "seen by the encoder": seen.drawn(seen.data, hidden)}
    filled = _filled(asked.data, predicted, side.asked_split.ids_masked, counted)
    if side.asked is not side.tokens:  # sentinels: two sequences
        return rows | {"asked for": asked.drawn(asked.data), "predicted": asked.drawn(filled)}
    not_asked = hidden & ~_places(side.asked_split.ids_masked, counted, side.asked.count)
    return rows | {"predicted where hidden": asked.drawn(filled, not_asked if bool(not_asked.any()) else None)}


def _places(ids: Int64[Tensor, "b k"], valid: Bool[Tensor, "b k"] | None, n: int) -> Bool[Tensor, "b n"]:
    """Which of n places are among the valid ids."""
    at = ids if valid is None else torch.where(valid, ids, n)
    there = torch.zeros(len(ids), n + 1, dtype=torch.bool, device=ids.device)
    return there.scatter(1, at, True)[:, :n]  # type: ignore[call-overload, no-any-return]


def _filled(
    data: Num[Tensor, "b n *piece"],
    pieces: Num[Tensor, "b m *piece"],
    ids: Int64[Tensor, "b m"],
    counted: Bool[Tensor, "b m"],
) -> Num[Tensor, "b n *piece"]:
    """Content with the counted pieces in their places; the others are asked for in vain."""
    at = torch.where(counted, ids, data.shape[1])
    index = at.reshape(*at.shape, *[1] * (pieces.ndim - 2)).expand_as(pieces)
    padded = torch.cat([data, data[:, :1]], dim=1)
    return padded.scatter(1, index, pieces.to(data.dtype))[:, :-1]


def _draw(samples: list[dict[str, Picture]], file: Path, note: str) -> Path:
    """The views of each sample: side by side, or below each other where they are wide."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shapes = [view.shape for sample in samples for view in sample.values()]
    height, width = (max(shape[axis] for shape in shapes) for axis in (0, 1))
    columns = 1 if width > WIDE * height else len(samples[0])
    views = [(title, _padded(view, height, width)) for sample in samples for title, view in sample.items()]
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


def _padded(view: Picture, height: int, width: int) -> Picture:
    """A picture with white to its right and below, so that all are drawn at one scale."""
    margins = ((0, height - view.shape[0]), (0, width - view.shape[1]), (0, 0))
    return np.pad(view, margins, constant_values=255)
