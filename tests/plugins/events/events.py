"""Events: what happened when, at times as they come and of three kinds; from mmim's records alone."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from mmim.data.series_read import read_series
from mmim.data.world import FACTORS
from mmim.errors import ReadError
from mmim.layers.positions import CoordSinusoid
from mmim.masking.random import RandomMasking
from mmim.modality import Modality, Source
from mmim.records import Tokens
from torch import Tensor, nn

from onsets import Onsets


@dataclass(frozen=True, kw_only=True)
class Events(Modality):
    """Rows (seconds, kind) [b events 2], kind -1 behind the end; a token is 4 in a row, from the time of the first."""

    suffixes: ClassVar[tuple[str, ...]] = (".events.csv",)
    piece: ClassVar[tuple[int, ...]] = (4, 1 + 3)  # events of a token; seconds since the first, and a 1 for the kind
    masking, target = RandomMasking(), Onsets(kinds=3)
    events: int = 64

    def blank(self) -> Tensor:
        return torch.zeros(self.events, 2)

    def read(self, source: Source, draw: Any) -> Tensor:
        table = torch.from_numpy(read_series(source.path, 2).astype(np.float32))
        if not (table[:, 0].diff() >= 0).all() or not np.isin(table[:, 1], range(3)).all():
            raise ReadError("times that do not rise, or kinds that are none of 0, 1, 2")
        start = int((0.5 if draw is None else draw.floats("clip", 1)[0]) * max(len(table) - self.events + 1, 1))
        shown = table[start : start + self.events]
        return torch.cat([shown, torch.tensor([[shown[-1, 0], -1]]).expand(self.events - len(shown), 2)])

    def tokenize(self, raw: Any) -> Tokens:
        events = torch.cat([raw[..., :1], raw[..., 1:] == torch.arange(3, device=raw.device)], 2).unflatten(1, (-1, 4))
        first = events[:, :, 0, :1]  # the actual time of each token, irregular: its coordinate
        values = torch.cat([events[..., :1] - first[:, :, None], events[..., 1:]], dim=3)
        return Tokens(values, first, valid=events[:, :, 0, 1:].any(dim=2))

    def untokenize(self, values: Tensor, tokens: Tokens) -> Tensor:
        return torch.cat([values[..., :1] + tokens.coords[:, :, None], values[..., 1:]], dim=3).flatten(1, 2)

    def position(self, width: int) -> nn.Module:
        return CoordSinusoid(width, unit=0.05)  # seconds

    def features(self, raw: Any) -> Tensor:  # the sorted pauses between events, and the share of each kind
        return torch.cat([raw[..., 0].diff().sort().values, self.tokenize(raw).values[..., 1:].mean(dim=(1, 2))], 1)

    def depict(self, scene: Any, path: Any) -> None:  # size is the pulse, shape how often it is stressed, texture how
        rng, every = scene.nuisance("events"), 2 + FACTORS["shape"].index(scene.shape)
        beats = np.arange(int(rng.integers(56, 90)))
        pulse = {"small": 0.1, "medium": 0.2, "large": 0.4}[scene.size] * rng.uniform(0.8, 1.2, len(beats))
        kinds = np.where(beats % every == 0, {"plain": 0, "stripes": 1, "dots": 2}[scene.texture], (beats % 2) * 2)
        np.savetxt(path, np.stack([pulse.cumsum(), kinds], 1), "%.3f", ",", header="seconds,kind", comments="")
