import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import soundfile
import torch
from safetensors import safe_open
from torch.testing import assert_close
from torchaudio.compliance.kaldi import fbank

from mmim.errors import OptionError
from mmim.layers import filterbank as module
from mmim.layers.filterbank import filterbank, samples_of
from tests.videos import shared_data

REFERENCE = Path(__file__).parents[2] / "reference" / "kaldi_fbank.safetensors"


def reference():
    with safe_open(REFERENCE, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, it is no dict


def by_torchaudio(wave, bands=128, rate=16000):
    """What CAV-MAE and Audio-MAE call, a waveform at a time."""
    options = {"htk_compat": True, "use_energy": False, "window_type": "hanning", "dither": 0.0}
    return torch.stack([fbank(row[None], sample_frequency=float(rate), num_mel_bins=bands, **options) for row in wave])


def real_sounds(archive, count):
    """The first files of an archive as mono float32, with their rates."""
    with tarfile.open(shared_data() / "audio" / archive) as tar:
        members = [member for member in tar if member.name.endswith((".ogg", ".wav"))][:count]
        for member in members:
            wave, rate = soundfile.read(io.BytesIO(tar.extractfile(member).read()), dtype="float32", always_2d=True)
            yield torch.from_numpy(wave.mean(axis=1)), rate


@pytest.mark.parametrize("archive", ["esc10.tar", "spoken_digits.tar"])
def test_real_sounds_have_the_filterbank_of_torchaudio(archive):
    for wave, rate in real_sounds(archive, 12):
        found = filterbank(wave[None], 128, rate)
        assert_close(found, by_torchaudio(wave[None], 128, rate), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["mono", "stereo", "long"])
@pytest.mark.parametrize(("dtype", "key"), [(torch.float32, "out"), (torch.float64, "out64")])
def test_the_filterbank_is_that_of_the_official_loaders(name, dtype, key):
    file = reference()
    wave = file[f"input/{name}"].to(dtype)
    found = filterbank((wave - wave.mean())[:1])[0]
    error = (found - file[f"{key}/{name}.fbank"]).abs()
    assert found.dtype == dtype
    assert (error < 1e-3).double().mean() >= 0.999
    assert error.max() < (2e-2 if key == "out" else 1e-4)  # float64: torchaudio's mel table is float32, and rounds


@pytest.mark.parametrize(("bands", "rate"), [(128, 16000), (64, 16000), (40, 8000), (80, 22050)])
def test_a_batch_is_as_its_waveforms_one_by_one_at_any_rate(bands, rate):
    wave = torch.randn(3, rate) * torch.tensor([0.5, 0.01, 0.0])[:, None]
    assert_close(filterbank(wave, bands, rate), by_torchaudio(wave, bands, rate), rtol=0, atol=1e-4)


def test_silence_is_the_floor():
    assert_close(filterbank(torch.zeros(1, 4000)), torch.full((1, 23, 128), 1.1920929e-07).log())


@pytest.mark.parametrize(("samples", "frames"), [(400, 1), (559, 1), (560, 2), (164080, 1024)])
def test_only_whole_windows_count(samples, frames):
    assert filterbank(torch.zeros(1, samples), 8).shape == (1, frames, 8)
    assert (samples_of(frames, 16000) == samples) == (samples != 559)


def test_less_than_a_window_is_refused():
    with pytest.raises(OptionError, match="399 samples at 16000 Hz hold no window of 25 ms"):
        filterbank(torch.zeros(1, 399))


def test_autocast_leaves_the_precision_alone():
    wave = torch.randn(2, 4000)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(filterbank(wave), filterbank(wave))
        mixed = filterbank(wave)
    assert torch.equal(mixed, filterbank(wave))


def test_the_mel_table_is_made_once(monkeypatch):
    module._constants.cache_clear()
    made = []
    monkeypatch.setattr(module, "get_mel_banks", lambda *args: made.append(1) or _banks(*args))
    for _ in range(3):
        filterbank(torch.randn(1, 4000), 32)
    assert len(made) == 1
    module._constants.cache_clear()


_banks = module.get_mel_banks

COMPILED = """
import torch
from mmim.layers.filterbank import filterbank
wave = torch.randn(3, 4000)
graph = torch.compile(lambda wave: filterbank(wave) * 2, fullgraph=True, backend="aot_eager")
assert torch.equal(graph(wave), filterbank(wave) * 2)
assert torch.equal(graph(wave[:2, :3000]), filterbank(wave[:2, :3000]) * 2)
"""


def test_it_is_part_of_one_compiled_graph():
    run = subprocess.run(
        [sys.executable, "-c", COMPILED], capture_output=True, text=True, cwd=Path(__file__).parents[3]
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same():
    wave = torch.randn(2, 16000) * 0.1
    assert_close(filterbank(wave.cuda()).cpu(), filterbank(wave), rtol=0, atol=2e-3)
