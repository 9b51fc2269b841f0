"""What goes on in time: numbers of several channels at even steps, in windows, alike for all such modalities."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64, Num, UInt8
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool1d

from mmim.data.series_read import read_series, without_gaps
from mmim.draw import Draw
from mmim.errors import expect
from mmim.layers.patches import PatchEmbed, check_divides, cut, from_patches, per_channel
from mmim.layers.positions import map_positions
from mmim.masking.random import RandomMasking
from mmim.modality import MaskingPolicy, Modality, Source, Target
from mmim.records import Raw, Tokens
from mmim.targets.pixels import Pixels

FLAT = 1e-5
"""A channel whose deviation is less than this share of its mean does not change, but for rounding."""
PARTS = 16  # of the window, and of its spectrum, in the plain features
LANE, WIDE = 32, 256
"""Pixels: height of a channel in a picture, and width of a picture at least."""
REACH = 3.0
"""Deviations from the mean that a picture shows best."""
PAPER, AREA, LINE = (255, 255, 255), (198, 219, 239), (8, 48, 107)


@dataclass(frozen=True, kw_only=True)
class SeriesModality(Modality):
    """A modality whose sample is a window of a series: numbers of several channels at even steps of time.

    A modality of this kind says how its files are called (`suffixes`), how many channels they have and how long a
    window and a token are; everything else is a default that it may replace: what a file holds (`numbers`), the
    normalisation (`mean`, `std`), the target, the embedding, pictures and features.

    Input   numbers [b c L], float32, zeros behind the end; length [b], steps before the end. L = length, also other
            multiples of `patch`
    Tokens  n = L / patch, in order; values [b n c patch], standardised channel by channel: with `mean` and `std`, or by
            each sample's own (so that `raw` gives these units back, not the file's), where a channel that does not
            change is 0; zeros behind the end; coords (time) in tokens. A token is valid if half of it lies before the
            end; the first always
    Window  starts uniformly where a whole one still fits, with the draw by which sounds start; the middle one for
            evaluation
    Gaps    empty cells and numbers that are not finite lie on the line between their neighbours; a window in which a
            channel has nothing else can't be read
    """

    suffixes: ClassVar[tuple[str, ...]] = (".npy", ".npz", ".csv", ".tsv", ".txt")
    view: ClassVar[tuple[str, ...]] = ("length",)
    masking: ClassVar[MaskingPolicy] = RandomMasking()
    target: ClassVar[Target] = Pixels()

    channels: int = 1
    """Numbers of a time step."""
    length: int = 256
    """Steps of a window."""
    patch: int = 16
    """Steps of a token."""
    mean: tuple[float, ...] | None = None
    """Subtracted from the numbers of each channel; None: each sample's own."""
    std: tuple[float, ...] | None = None
    """Divides the numbers of each channel after that; None: each sample's own."""
    positions: Literal["flat", "learned", "none"] = "flat"
    """The position codes: a sinusoid, which goes on in longer windows, a table, or none."""

    def __post_init__(self) -> None:
        name = type(self).__name__
        for field in ("channels", "length", "patch"):
            expect(getattr(self, field) >= 1, getattr(self, field), "at least 1", f"{name}.{field}")
        check_divides(name, (self.length,), (self.patch,))
        together = (self.mean is None) == (self.std is None)
        expect(together, (self.mean, self.std), "numbers for both or neither", f"{name}.mean, {name}.std")
        for field, numbers in (("mean", self.mean), ("std", self.std)):
            fits = numbers is None or (len(numbers) == self.channels and all(map(isfinite, numbers)))
            expect(fits, numbers, f"a number for each of {self.channels} channels", f"{name}.{field}")
        expect(self.std is None or min(self.std) > 0, self.std, "above 0", f"{name}.std")

    @property
    def piece(self) -> tuple[int, ...]:
        return (self.channels, self.patch)

    def grid(self) -> tuple[int, ...]:
        return (self.length // self.patch,)

    def blank(self) -> dict[str, Tensor]:
        return {"numbers": torch.zeros(self.channels, self.length), "length": torch.tensor(self.length)}

    def numbers(self, path: Path) -> Num[np.ndarray, "steps c"]:
        """All of a file; what is not finite is a gap.

        Raises:
            ReadError: it can't be used; the message is the reason, without the path.
        """
        return read_series(path, self.channels)

    def read(self, source: Source, draw: Draw | None) -> Raw:
        return self._window(self.numbers(source.path), draw)

    def read_many(self, source: Source, draws: Sequence[Draw]) -> list[Raw]:
        numbers = self.numbers(source.path)  # parsed once
        return [self._window(numbers, draw) for draw in draws]

    def _window(self, numbers: Num[np.ndarray, "steps c"], draw: Draw | None) -> dict[str, Tensor]:
        """A part of the series, zeros behind its end."""
        starts = max(len(numbers) - self.length + 1, 1)
        at = int((0.5 if draw is None else draw.floats("clip", 1)[0]) * starts)
        found = without_gaps(numbers[at : at + self.length])
        window = self.blank()
        window["numbers"][:, : len(found)] = torch.from_numpy(found.T)
        window["length"] = torch.tensor(len(found))
        return window

    def tokenize(self, raw: dict[str, Tensor]) -> Tokens:  # type: ignore[override]
        values, there = self.standardised(raw)
        half = there[:, self.patch // 2 :: self.patch]
        valid = torch.cat([there[:, :1], half[:, 1:]], dim=1)
        return cut(type(self).__name__, values, (self.patch,), valid)

    def standardised(self, raw: dict[str, Tensor]) -> tuple[Float[Tensor, "b c L"], Bool[Tensor, "b L"]]:
        """The numbers in deviations from their mean, zeros behind the end; and which steps lie before the end."""
        numbers = raw["numbers"].to(torch.get_default_dtype())
        there = _before_the_end(raw["length"], numbers.shape[2])
        if self.mean is not None and self.std is not None:
            mean, deviation = per_channel(self.mean, numbers, 1), per_channel(self.std, numbers, 1)
        else:
            weights = (there / there.sum(dim=1, keepdim=True))[:, None].to(numbers.dtype)
            mean = (numbers * weights).sum(dim=2, keepdim=True)
            deviation = ((numbers - mean).square() * weights).sum(dim=2, keepdim=True).sqrt()
            deviation = deviation.masked_fill(deviation <= FLAT * mean.abs(), torch.inf)
        return ((numbers - mean) / deviation).masked_fill(~there[:, None], 0), there

    def untokenize(self, values: Float[Tensor, "b n *piece"], tokens: Tokens) -> Float[Tensor, "b c L"]:
        return from_patches(values, tokens.grid)

    def raw(self, values: Float[Tensor, "b n *piece"]) -> Float[Tensor, "b n *piece"]:
        if self.mean is None or self.std is None:
            return values
        return values * per_channel(self.std, values, 1) + per_channel(self.mean, values, 1)

    def embedder(self, width: int) -> nn.Module:
        return PatchEmbed(self.piece, width, xavier=True)

    def position(self, width: int) -> nn.Module:
        return map_positions(self.positions, width, self.grid(), extends=(True,))

    def render(self, data: Float[Tensor, "b c L"]) -> list[UInt8[np.ndarray, "h w 3"]]:
        """A plot of each channel below the other, the area under its line tinted.

        The middle of a plot is the mean; bent by a tanh, so that what is far from the mean keeps its differences.
        """
        if self.mean is not None and self.std is not None:
            data = (data - per_channel(self.mean, data, 1)) / per_channel(self.std, data, 1)
        return list(map(_plots, (data / REACH).tanh().float().cpu().numpy()))

    def features(self, raw: dict[str, Tensor]) -> Float[Tensor, "b p"]:  # type: ignore[override]
        """Of each channel the means of 16 parts of the window, and the logarithms of the power in 16 bands: p = 32 c.

        Of the standardised numbers; bands are of even width, up to half the rate.
        """
        values, _ = self.standardised(raw)
        power = torch.fft.rfft(values.float(), dim=2).abs().square()[..., 1:] / values.shape[2]
        bands = (adaptive_avg_pool1d(power, PARTS) + 1e-3).log().to(values.dtype)
        return torch.cat([adaptive_avg_pool1d(values, PARTS), bands], dim=2).flatten(1)


def _before_the_end(length: Int64[Tensor, " b"], steps: int) -> Bool[Tensor, "b L"]:
    """Which steps of a window lie before the end; the first always does."""
    return torch.arange(steps, device=length.device) < length[:, None].clamp(min=1)


def _plots(shares: Float32[np.ndarray, "c L"]) -> UInt8[np.ndarray, "h w 3"]:
    """A lane for each channel, -1 at its foot and 1 at its top; every step is as many pixels wide as any other."""
    wide = shares.repeat(-(-WIDE // shares.shape[1]), axis=1)
    top = ((1 - wide) / 2 * (LANE - 2)).round().astype(np.int64)  # 0 is the first row, the last is left white
    rows = np.arange(LANE)[None, :, None]
    before = np.concatenate([top[:, :1], top[:, :-1]], axis=1)  # a line has no holes where it is steep
    high, low = np.minimum(top, before)[:, None], np.maximum(top, before)[:, None]
    ink = np.where((rows >= high) & (rows <= low), 2, np.where((rows > low) & (rows < LANE - 1), 1, 0))
    return np.array([PAPER, AREA, LINE], np.uint8)[ink.reshape(-1, ink.shape[2])]
