"""Kaldi's log-mel filterbank, for whole batches and on the device."""

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor
from torchaudio.compliance.kaldi import get_mel_banks

from mmim.errors import OptionError

EMPHASIS = 0.97
LOWEST = 20.0  # hertz, the lower edge of the first band
FLOOR = torch.finfo(torch.float32).eps  # 1.19e-7, below which power counts as silence; in float64 too


def window_and_shift(rate: int) -> tuple[int, int]:
    """Samples in a window of 25 ms, and from one window to the next, 10 ms."""
    return rate * 25 // 1000, rate // 100


def samples_of(frames: int, rate: int) -> int:
    """The least samples that hold so many windows."""
    window, shift = window_and_shift(rate)
    return (frames - 1) * shift + window


def filterbank(samples: Float[Tensor, "b n"], bands: int = 128, rate: int = 16000) -> Float[Tensor, "b frames {bands}"]:
    """Natural logarithm of the power in each mel band, of every whole window.

    As `torchaudio.compliance.kaldi.fbank(htk_compat=True, window_type="hanning", dither=0, use_energy=False)`, which
    CAV-MAE and Audio-MAE (official codes) call for one waveform at a time: windows of 25 ms every 10 ms, the mean of
    each removed, pre-emphasis 0.97, Hann window, power spectrum, bands from 20 Hz to half the rate. In the precision
    of the samples, autocast or not; one node of a compiled graph.

    Args:
        samples: full scale at 1.
        bands: of the mel scale.
        rate: of the samples, in hertz.

    Raises:
        OptionError: not one whole window.
    """
    if samples.shape[1] < window_and_shift(rate)[0]:
        raise OptionError(f"{samples.shape[1]} samples at {rate} Hz hold no window of 25 ms: give more.")
    filtered: Tensor = _filterbank(samples, bands, rate)
    return filtered


@torch.library.custom_op("mmim::filterbank", mutates_args=())
def _filterbank(samples: Tensor, bands: int, rate: int) -> Tensor:
    size, shift = window_and_shift(rate)
    window, banks = _constants(bands, rate, samples.device, samples.dtype)
    with torch.autocast(samples.device.type, enabled=False):
        frames = samples.unfold(1, size, shift)
        frames = frames - frames.mean(dim=-1, keepdim=True)
        frames[..., 1:] -= EMPHASIS * frames[..., :-1]  # the first sample has no weight in the window
        power = torch.fft.rfft(frames.mul_(window), n=2 * banks.shape[0]).abs().square()
        bands_power: Tensor = power[..., :-1] @ banks  # no band holds half the rate
    return bands_power.clamp(min=FLOOR).log()


@_filterbank.register_fake
def _(samples: Tensor, bands: int, rate: int) -> Tensor:
    size, shift = window_and_shift(rate)
    return samples.new_empty(samples.shape[0], 1 + (samples.shape[1] - size) // shift, bands)


@lru_cache(maxsize=16)
def _constants(bands: int, rate: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The window, and the weight of each frequency in each band `[frequencies bands]`."""
    size, _ = window_and_shift(rate)
    padded = 1 << (size - 1).bit_length()
    banks, _ = get_mel_banks(bands, padded, float(rate), LOWEST, 0.0, 100.0, -500.0, 1.0)
    window = torch.hann_window(size, periodic=False, dtype=dtype)
    return window.to(device), banks.T.to(device, dtype)
