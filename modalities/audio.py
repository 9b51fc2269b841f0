"""Audio: log-mel spectrograms in square patches."""

import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Num, UInt8
from torch import Tensor, nn

from mmim.data.sound_read import open_sound
from mmim.data.world.picture import SECONDS
from mmim.data.world.sound import sound
from mmim.draw import Draw
from mmim.errors import ReadError, expect
from mmim.layers.filterbank import filterbank, samples_of, window_and_shift
from mmim.layers.patches import PatchEmbed, check_divides, cut, from_patches
from mmim.layers.positions import MapPositions, map_positions
from mmim.masking.random import RandomMasking
from mmim.modality import MaskingPolicy, Modality, Source, Target
from mmim.records import Raw, Tokens
from mmim.targets.pixels import Pixels

FULL_SCALE = 2**15  # of int16
FLOOR = 64  # mel bands of the plain features
RATE = 16000  # hertz, of the sample world's sounds
REACH = 2.5  # deviations from the mean to either end of a picture's colours
COLOURS = "000004 1d1147 51127c 832681 b73779 e75263 fc8961 fec488 fcfdbf"  # magma at every eighth


@dataclass(frozen=True, kw_only=True)
class Audio(Modality):
    """Sound as a log-mel spectrogram in square patches; files of sound, and the sound tracks of videos.

    Input   samples [b L], int16 (or floats, full scale at 1), mono, zeros behind the end; length [b], samples before
            the end. L = (frames - 1) * 10 ms + 25 ms, also for other numbers of frames than that of the fields
    Tokens  n = frames / patch * mel / patch, time slowest, then low to high; values [b n 1 patch patch] (time, mel),
            (x - mean) / (deviations * std) of Kaldi's filterbank of the waveform minus its mean; coords (time, mel) in
            tokens. Frames that the sound does not fill are 0 *before* normalisation, which is not silence but loud
    Clip    starts uniformly where a whole one still fits; the middle one for evaluation
    Paper   Huang et al. 2022 (Audio-MAE), section 3, arXiv:2207.06405; the numbers of its code. We differ in that
            stereo is mixed down (it takes the first channel), and in `padding`
    """

    suffixes: ClassVar[tuple[str, ...]] = (
        ".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".aac",
        ".mp4", ".mkv", ".avi", ".webm", ".mov", ".m4v",
    )  # fmt: skip
    view: ClassVar[tuple[str, ...]] = ("frames",)
    training_view: ClassVar[tuple[str, ...]] = ("augment",)
    masking: ClassVar[MaskingPolicy] = RandomMasking()
    target: ClassVar[Target] = Pixels(normalise="token")

    frames: int = 1024
    """Length of the spectrogram, in frames of 10 ms (AudioSet: 1024; ESC-50: 512; Speech Commands: 128)."""
    mel: int = 128
    """Mel bands from 20 Hz to half the rate (Audio-MAE, CAV-MAE: 128)."""
    patch: int = 16
    """Extent of a token, in frames and in bands (Audio-MAE, CAV-MAE: 16)."""
    rate: int = 16000
    """To resample to, in hertz (Audio-MAE, CAV-MAE: 16000)."""
    mean: float = -4.2677393
    """Subtracted from the log-mel values (Audio-MAE on AudioSet; CAV-MAE: -5.081; ESC-50: -6.6268077)."""
    std: float = 4.5689974
    """Of the log-mel values, divides them (Audio-MAE on AudioSet; CAV-MAE: 4.4849; ESC-50: 5.358466)."""
    deviations: float = 2.0
    """How many of these deviations become 1 (Audio-MAE: 2; CAV-MAE: 1)."""
    padding: Literal["valid", "zeros"] = "valid"
    """Behind the end of a short clip: tokens that are not valid, or zeros that count as sound (Audio-MAE: zeros)."""
    positions: MapPositions = "sincos"
    """The position codes (CAV-MAE: sincos_row_first; Audio-MAE's released weights: sincos_transposed)."""
    augment: bool = False
    """In training turn the clip round its end by a random length and scale it by 0.5 + Beta(10, 10) (Audio-MAE: yes).

    What becomes louder than full scale is clipped.
    """

    def __post_init__(self) -> None:
        for name, least, most in (("frames", 1, None), ("mel", 4, 512), ("patch", 1, None), ("rate", 4000, 96000)):
            value, bound = getattr(self, name), f" and at most {most}" if most else ""
            expect(least <= value <= (most or value), value, f"at least {least}{bound}", f"Audio.{name}")
        check_divides("Audio", (self.frames, self.mel), self.piece[1:])
        expect(abs(self.mean) < float("inf"), self.mean, "finite", "Audio.mean")
        for name in ("std", "deviations"):
            value = getattr(self, name)
            expect(0 < value < float("inf"), value, "above 0 and finite", f"Audio.{name}")

    @property
    def piece(self) -> tuple[int, ...]:
        return (1, self.patch, self.patch)

    def grid(self) -> tuple[int, int]:
        return self.frames // self.patch, self.mel // self.patch

    def blank(self) -> dict[str, Tensor]:
        count = samples_of(self.frames, self.rate)
        return {"samples": torch.zeros(count, dtype=torch.int16), "length": torch.tensor(count)}

    def read(self, source: Source, draw: Draw | None) -> Raw:
        return self._read(source, [draw])[0]

    def read_many(self, source: Source, draws: Sequence[Draw]) -> list[Raw]:
        return self._read(source, draws)

    def _read(self, source: Source, draws: Sequence[Draw | None]) -> list[Raw]:
        count = samples_of(self.frames, self.rate)
        with open_sound(source.path, self.rate) as file:
            starts = max(file.count - count + 1, 1)
            at = [int((0.5 if draw is None else draw.floats("clip", 1)[0]) * starts) for draw in draws]
            if file.count <= 2 * count:  # from one decoding for all draws: AAC's noise depends on where it starts
                whole = file.window(0, file.count)
                clips = [whole[start : start + count] for start in at]
            else:
                clips = [file.window(start, count) for start in at]
        return [self._clip(heard, draw) for heard, draw in zip(clips, draws, strict=True)]

    def _clip(self, heard: Float[Tensor, " n"], draw: Draw | None) -> dict[str, Tensor]:
        """A clip as int16, zeros behind its end."""
        if len(heard) < window_and_shift(self.rate)[0]:
            raise ReadError(f"{len(heard)} samples at {self.rate} Hz, shorter than one window of 25 ms")
        if self.augment and draw is not None:
            heard = heard.roll(int(draw.floats("roll", 1)[0] * len(heard)))
            heard = heard * (0.5 + sorted(draw.floats("gain", 19))[9])  # the tenth of 19 is Beta(10, 10)
        clip = self.blank()
        clip["samples"][: len(heard)] = (heard * FULL_SCALE).round().clamp(-FULL_SCALE, FULL_SCALE - 1)
        clip["length"] = torch.tensor(len(heard))
        return clip

    def tokenize(self, raw: dict[str, Tensor]) -> Tokens:  # type: ignore[override]
        heard, there = self._log_mel(raw["samples"], raw["length"], self.mel)
        valid = None
        if self.padding == "zeros":
            heard = heard * there[..., None]
        else:  # behind the end lies digital silence; a token is valid if half of its frames are sound, the first always
            half = there[:, self.patch // 2 :: self.patch]
            valid = torch.cat([there[:, :1], half[:, 1:]], dim=1).repeat_interleave(self.mel // self.patch, dim=1)
        normalised = (heard - self.mean) / (self.deviations * self.std)
        return cut("Audio", normalised[:, None], self.piece[1:], valid)

    def _log_mel(
        self, samples: Num[Tensor, "b L"], length: Int64[Tensor, " b"], bands: int
    ) -> tuple[Float[Tensor, "b frames {bands}"], Bool[Tensor, "b frames"]]:
        """The filterbank, and which frames lie before the end; the first always does."""
        values = samples.to(torch.get_default_dtype())
        values = values if samples.is_floating_point() else values / FULL_SCALE
        sounding = torch.arange(values.shape[1], device=values.device) < length[:, None]
        mean = (values * sounding).sum(dim=1, keepdim=True) / length[:, None].clamp(min=1)
        heard = filterbank((values - mean) * sounding, bands, self.rate)
        window, shift = window_and_shift(self.rate)
        ends = torch.arange(heard.shape[1], device=heard.device) * shift + window
        return heard, ends <= length[:, None].clamp(min=window)

    def untokenize(self, values: Float[Tensor, "b n *piece"], tokens: Tokens) -> Float[Tensor, "b 1 frames mel"]:
        return from_patches(values, tokens.grid)

    def raw(self, values: Float[Tensor, "b n *piece"]) -> Float[Tensor, "b n *piece"]:
        """Log-mel values, natural logarithm of power."""
        return values * (self.deviations * self.std) + self.mean

    def embedder(self, width: int) -> nn.Module:
        return PatchEmbed(self.piece, width, xavier=True)

    def position(self, width: int) -> nn.Module:
        return map_positions(self.positions, width, self.grid(), extends=(True, False))

    def render(self, data: Float[Tensor, "b 1 frames mel"]) -> list[UInt8[np.ndarray, "mel frames 3"]]:
        """Time to the right, high bands at the top; dark to bright from 2.5 deviations below the mean to 2.5 above."""
        share = ((data[:, 0] - self.mean) / (2 * REACH * self.std) + 0.5).clamp(0, 1)
        shown = share.transpose(1, 2).flip(1).float().cpu().numpy()
        stops = np.array([tuple(bytes.fromhex(colour)) for colour in COLOURS.split()])
        steps = np.linspace(0, 1, len(stops))
        coloured = np.stack([np.interp(shown, steps, stop) for stop in stops.T], axis=-1)
        return list(coloured.round().astype(np.uint8))

    def features(self, raw: dict[str, Tensor]) -> Float[Tensor, "b p"]:  # type: ignore[override]
        """Mean and deviation over time of 64 log-mel bands: p = 128."""
        heard, there = self._log_mel(raw["samples"], raw["length"], FLOOR)
        weights = (there / there.sum(dim=1, keepdim=True))[..., None].to(heard.dtype)
        mean = (heard * weights).sum(dim=1)
        variance = ((heard - mean[:, None]).square() * weights).sum(dim=1)
        return torch.cat([mean, variance.sqrt()], dim=1)

    def depict(self, scene: Any, path: Path) -> None:
        """The scene as a stereo WAV file of 16 bits."""
        heard = sound(scene, scene.nuisance("audio"), rate=RATE, seconds=SECONDS)
        with wave.open(str(path), "wb") as file:
            file.setparams((2, 2, RATE, 0, "NONE", ""))
            file.writeframes((heard.T * (FULL_SCALE - 1)).round().astype("<i2").tobytes())
