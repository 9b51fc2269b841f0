import math
import pickle
import wave
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors import safe_open
from torch.testing import assert_close

from mmim.data.world import scenes
from mmim.draw import Draw
from mmim.errors import OptionError, ReadError
from mmim.layers.filterbank import filterbank
from mmim.modality import Source
from modalities.audio import Audio
from modalities.video import Video
from tests import videos
from tests.sounds import int16, murmur, tone, wav, write
from tests.videos import cut_off, pictures, real_clip

REFERENCE = Path(__file__).parents[1] / "reference"
SMALL = Audio(frames=96, mel=32)
COUNT = 95 * 160 + 400  # samples that SMALL reads
CAVMAE = {"mean": -5.081, "std": 4.4849, "deviations": 1.0}


def draw(key):
    return Draw(torch.tensor([key]))


def raws(audio, lengths, seed=0):
    """A batch of noise that ends after so many samples."""
    count = len(audio.blank()["samples"])
    noise = np.random.default_rng(seed).normal(size=(len(lengths), count)) * 3000
    there = np.arange(count) < np.array(lengths)[:, None]
    return {"samples": torch.from_numpy((noise * there).astype(np.int16)), "length": torch.tensor(lengths)}


def reference(name):
    with safe_open(REFERENCE / f"{name}.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, it is no dict


@pytest.fixture
def source(tmp_path):
    return Source(write(tmp_path / "sound.wav", murmur(3)))


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# Reading


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "m4a", "opus", "mp4", "mkv"])
def test_a_clip_has_the_declared_shapes_and_types(suffix, tmp_path):
    source, blank = Source(write(tmp_path / f"sound.{suffix}", murmur(2, 48000), 48000)), SMALL.blank()
    for clip in (SMALL.read(source, draw(3)), SMALL.read(source, None)):
        assert {name: (part.shape, part.dtype) for name, part in clip.items()} == {
            name: (part.shape, part.dtype) for name, part in blank.items()
        }
        assert clip["length"] == blank["length"] == COUNT


def test_without_a_draw_the_clip_is_the_middle_one(source):
    whole = torch.from_numpy(soundfile.read(source.path, dtype="int16")[0])
    start = (48000 - COUNT + 1) // 2
    assert torch.equal(SMALL.read(source, None)["samples"], whole[start : start + COUNT])


def test_clips_start_uniformly_where_a_whole_one_fits(source):
    whole = soundfile.read(source.path, dtype="int16")[0]
    windows = np.lib.stride_tricks.sliding_window_view(whole, 8)
    starts = []
    for key in range(60):
        clip = SMALL.read(source, draw(key))["samples"].numpy()
        (start,) = np.flatnonzero((windows == clip[:8]).all(axis=1))
        np.testing.assert_array_equal(clip, whole[start : start + COUNT])
        starts.append(start)
    thirds = np.histogram(starts, 3, (0, 48000 - COUNT + 1))[0]
    assert thirds.min() > 8


def test_equal_keys_read_equal_clips_and_other_keys_others(source):
    for audio in (SMALL, replace(SMALL, augment=True)):
        first = [audio.read(source, draw(key))["samples"] for key in range(12)]
        assert all(torch.equal(clip, audio.read(source, draw(key))["samples"]) for key, clip in enumerate(first))
        assert len({clip.numpy().tobytes() for clip in first}) == 12


def test_several_clips_of_one_opening_equal_clips_read_one_by_one(tmp_path):
    source = Source(write(tmp_path / "sound.m4a", murmur(4, 44100), 44100))
    keys = [draw(key) for key in (5, 1, 5, 9)]
    for together, alone in zip(SMALL.read_many(source, keys), [SMALL.read(source, key) for key in keys], strict=True):
        assert torch.equal(together["samples"], alone["samples"])


def test_another_process_reads_the_same_clip(source):
    assert pickle.loads(pickle.dumps(SMALL)) == SMALL
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        there = pool.submit(_read, SMALL, source, 7).result()
    np.testing.assert_array_equal(there, SMALL.read(source, draw(7))["samples"].numpy())


def _read(audio, source, key):
    return audio.read(source, draw(key))["samples"].numpy()


def test_sound_and_pictures_of_a_video_are_cut_alike(tmp_path):
    path = real_clip(tmp_path, "pairs/grid_av.tar", "grid_av/bbaf4p.mp4")
    audio, video = Audio(frames=96, mel=32), Video(frames=24, stride=1, size=32, patch=8)
    for key in range(8):
        share = draw(key).floats("clip", 1)[0]
        frames = video._numbers(75, draw(key))
        assert frames[0] / 25 == pytest.approx(share * (3 - 0.96), abs=0.05)
        whole = audio.read(Source(path), draw(key))
        assert whole["length"] == COUNT


def test_a_short_clip_is_followed_by_zeros(tmp_path):
    source = Source(wav(tmp_path / "sound.wav", int16(murmur(0.5))))
    clip = SMALL.read(source, draw(0))
    assert clip["length"] == 8000
    assert clip["samples"][:8000].any()
    assert not clip["samples"][8000:].any()


def test_sounds_from_a_second_to_half_a_minute_fill_the_published_spectrogram(tmp_path):
    audio = Audio()
    for seconds in (1, 10, 30):
        clip = audio.read(Source(write(tmp_path / "sound.flac", tone(seconds))), draw(0))
        assert clip["samples"].shape == (164080,)
        assert clip["length"] == min(seconds * 16000, 164080)


def test_stereo_becomes_the_mean_of_its_channels(tmp_path):
    stereo = np.stack([int16(murmur(1.2)), int16(murmur(1.2, seed=1))])
    wav(tmp_path / "sound.wav", np.ascontiguousarray(stereo.T), channels=2)
    clip = SMALL.read(Source(tmp_path / "sound.wav"), None)["samples"].numpy()
    start = (19200 - COUNT + 1) // 2
    mean = stereo[:, start : start + COUNT].astype(float).mean(axis=0)
    assert np.abs(clip - mean).max() <= 0.5


def test_what_is_louder_than_full_scale_is_clipped(tmp_path):
    path = wav(tmp_path / "sound.wav", np.linspace(-3, 3, COUNT).astype("<f4"))
    clip = SMALL.read(Source(path), None)["samples"]
    assert (clip[0], clip[-1]) == (-32768, 32767)
    assert (clip.int().diff() >= 0).all()


def test_augmentation_turns_the_clip_and_scales_it(tmp_path):
    plain, moved = SMALL, replace(SMALL, augment=True)
    source = Source(wav(tmp_path / "sound.wav", int16(murmur(0.8) / 2)))  # shorter than the clip: the window stays
    gains = []
    for key in range(40):
        before, after = (audio.read(source, draw(key)) for audio in (plain, moved))
        a, b = (clip["samples"][: clip["length"]].double() for clip in (before, after))
        across = torch.fft.irfft(torch.fft.rfft(b) * torch.fft.rfft(a).conj(), len(a))
        gains.append(across.max() / a.square().sum())
        assert_close(a.roll(int(across.argmax())) * gains[-1], b, rtol=0, atol=1.5)
    gains = torch.stack(gains)
    assert gains.mean() == pytest.approx(1.0, abs=0.05)  # 0.5 + Beta(10, 10): mean 1, deviation 0.109
    assert gains.std() == pytest.approx(0.109, abs=0.04)
    assert torch.equal(plain.read(source, None)["samples"], moved.read(source, None)["samples"])


BAD = {
    "empty.wav": ("^empty file$", lambda path: path.touch() or path),
    "text.wav": ("can't be read: Invalid data", lambda path: path.write_text("a text\n" * 99) and path),
    "silent.mp4": ("^no sound stream$", lambda path: videos.write(path, pictures(5))),
    "nothing.wav": ("^no samples$", lambda path: wav(path, np.zeros(0, "<i2"))),
    "nan.wav": ("not finite", lambda path: wav(path, np.full(9000, np.nan, "<f4"))),
    "cut.flac": ("^truncated", lambda path: cut_off(write(path.with_name("whole.flac"), murmur(2)), path, 0.5)),
    "click.wav": (
        "^399 samples at 16000 Hz, shorter than one window of 25 ms$",
        lambda path: wav(path, int16(murmur(1))[:399]),
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_an_unreadable_file_gives_its_reason(case, tmp_path):
    reason, make = BAD[case]
    path = make(tmp_path / case)
    for key in (None, draw(0)):
        with pytest.raises(ReadError, match=reason):
            SMALL.read(Source(path), key)


def test_the_shortest_clip_has_its_first_tokens(tmp_path):
    clip = SMALL.read(Source(wav(tmp_path / "sound.wav", int16(murmur(1))[:400])), None)
    tokens = SMALL.tokenize({name: part[None] for name, part in clip.items()})
    assert tokens.valid.tolist() == [[True] * 2 + [False] * 10]


# Tokens


def test_tokens_lie_time_first_and_hold_their_part_of_the_filterbank():
    raw = raws(SMALL, [COUNT, COUNT])
    tokens = SMALL.tokenize(raw)
    samples = raw["samples"] / 32768
    expected = filterbank(samples - samples.mean(dim=1, keepdim=True), 32)
    assert tokens.grid == SMALL.grid() == (6, 2)
    assert tokens.values.shape == (2, 12, *SMALL.piece)
    assert tokens.coords.shape == (1, 12, 2)
    heard = SMALL.raw(tokens.values)
    for at, (time, band) in enumerate(tokens.coords[0].long().tolist()):
        part = expected[:, 16 * time : 16 * time + 16, 16 * band : 16 * band + 16]
        assert_close(heard[:, at, 0], part, rtol=0, atol=1e-3)


def test_untokenize_is_the_inverse():
    tokens = SMALL.tokenize(raws(SMALL, [COUNT, 9000]))
    data = SMALL.untokenize(tokens.values, tokens)
    assert data.shape == (2, 1, 96, 32)
    again = SMALL.untokenize(SMALL.raw(tokens.values), tokens)
    assert_close((again - SMALL.mean) / (2 * SMALL.std), data, rtol=0, atol=1e-5)
    assert_close(data[:, 0, 16:32, 16:], tokens.values[:, 3, 0], rtol=0, atol=0)


def test_tokens_behind_the_end_are_not_valid():
    lengths = [COUNT, 24 * 160 + 400, 24 * 160 + 399, 400]  # all, half of the second step and a frame less, one frame
    valid = SMALL.tokenize(raws(SMALL, lengths)).valid.reshape(4, 6, 2)
    assert valid.all(dim=2).sum(dim=1).tolist() == valid.any(dim=2).sum(dim=1).tolist() == [6, 2, 1, 1]
    assert replace(SMALL, padding="zeros").tokenize(raws(SMALL, lengths)).valid is None


@pytest.mark.parametrize(("padding", "behind"), [("zeros", 0.0), ("valid", math.log(torch.finfo(torch.float32).eps))])
def test_behind_the_end_are_zeros_or_silence_before_normalisation(padding, behind):
    audio = replace(SMALL, padding=padding)
    tokens = audio.tokenize(raws(audio, [9 * 160 + 400]))
    heard = audio.untokenize(audio.raw(tokens.values), tokens)[0, 0]
    assert_close(heard[13:], torch.full((83, 32), behind), rtol=0, atol=1e-4)  # windows 10 to 12 hold some of the sound
    assert heard[:10].abs().min() > 1e-3


def test_what_lies_behind_the_end_changes_nothing():
    raw = raws(SMALL, [7000])
    other = {**raw, "samples": torch.where(torch.arange(COUNT) < 7000, raw["samples"], torch.tensor(99).short())}
    assert torch.equal(SMALL.tokenize(raw).values, SMALL.tokenize(other).values)


@pytest.mark.parametrize("frames", [16, 48, 160])
def test_another_duration_is_tokenised_and_has_positions(frames):
    audio = replace(SMALL, frames=frames)
    tokens = SMALL.tokenize(raws(audio, [len(audio.blank()["samples"])]))
    assert tokens.grid == (frames // 16, 2)
    code, native = SMALL.position(16)(tokens), SMALL.position(16)(SMALL.tokenize(raws(SMALL, [COUNT])))
    shared = min(code.shape[1], native.shape[1])
    assert_close(code[:, :shared], native[:, :shared])  # time goes on, it is not stretched


def test_a_duration_that_the_patches_do_not_divide_is_refused():
    with pytest.raises(OptionError, match=r"patches of \(16, 16\) do not divide \(97, 32\)"):
        SMALL.tokenize({"samples": torch.zeros(1, COUNT + 160, dtype=torch.int16), "length": torch.tensor([COUNT])})


def test_an_absent_sample_has_valid_finite_tokens():
    tokens = SMALL.tokenize({name: part[None] for name, part in SMALL.blank().items()})
    assert tokens.valid.all()
    assert tokens.values.isfinite().all()


@pytest.mark.parametrize("name", ["mono", "stereo"])
@pytest.mark.parametrize(("system", "fields"), [("audiomae", {}), ("cavmae", CAVMAE)])
def test_a_padded_spectrogram_is_that_of_the_official_loaders(name, system, fields):
    file = reference("kaldi_fbank")
    audio = Audio(frames=112, padding="zeros", **fields)
    sounding = (file[f"input/{name}"] - file[f"input/{name}"].mean())[:1]  # their mean is over both channels
    samples = torch.nn.functional.pad(sounding, (0, 111 * 160 + 400 - 16000))
    tokens = audio.tokenize({"samples": samples, "length": torch.tensor([16000])})
    _near(audio.untokenize(tokens.values, tokens)[0, 0], file[f"out/{name}.{system}"])


@pytest.mark.parametrize(("system", "fields"), [("audiomae", {}), ("cavmae", CAVMAE)])
def test_a_cut_spectrogram_is_that_of_the_official_loaders(system, fields):
    file = reference("kaldi_fbank")
    audio = Audio(frames=64, **fields)
    samples = file["input/long"][:, : 63 * 160 + 400]  # its mean is another, but each window loses its own
    tokens = audio.tokenize({"samples": samples, "length": torch.tensor([samples.shape[1]])})
    _near(audio.untokenize(tokens.values, tokens)[0, 0], file[f"out/long.{system}"])


def _near(found, expected):
    error = (found - expected).abs()
    assert (error < 1e-3).double().mean() >= 0.999
    assert error.max() < 2e-2


def test_targets_equal_those_of_the_official_code(float64):
    file = reference("targets")
    audio = Audio(frames=32)
    raw = {"samples": torch.zeros(2, 31 * 160 + 400, dtype=torch.int16), "length": torch.tensor([5360, 5360])}
    tokens = audio.tokenize(raw)
    patches = file["input/spectrogram"].double().reshape(2, 2, 16, 8, 16).transpose(2, 3).reshape(2, 16, 1, 16, 16)
    ids = torch.arange(16).expand(2, -1)
    target = Audio.target.values(replace(tokens, values=patches), ids, audio)
    assert_close(target, file["out/audiomae_norm"].double(), rtol=2e-6, atol=2e-6)
    mel_first = target.reshape(2, 2, 8, 16, 16).permute(0, 2, 1, 4, 3).reshape(2, 16, 256)
    assert_close(mel_first, file["out/cavmae_norm"].double(), rtol=2e-6, atol=2e-6)


def test_the_embedder_is_the_convolution_of_the_official_code():
    tokens, embedder = SMALL.tokenize(raws(SMALL, [COUNT, COUNT])), SMALL.embedder(24)
    assert embedder.proj.weight.shape == (24, 1, 16, 16)
    maps = embedder.proj(SMALL.untokenize(tokens.values, tokens)).flatten(2).transpose(1, 2)
    assert_close(embedder(tokens.values), maps, rtol=1e-5, atol=1e-5)


def test_positions_equal_the_official_table(float64):
    table = reference("audiomae_plain_decoder")["state/pos_embed"].double()
    audio = Audio(frames=128, mel=64, positions="sincos_transposed")
    tokens = audio.tokenize({name: part[None] for name, part in audio.blank().items()})
    assert_close(audio.position(48)(tokens), table[:, 1:], rtol=2e-6, atol=2e-6)  # the first row is the class token's


# Pictures, features, the sample world


def test_a_picture_shows_time_to_the_right_and_low_bands_at_the_bottom():
    data = torch.full((2, 1, 96, 32), SMALL.mean - 99)
    data[0, 0, :10, :4] = SMALL.mean + 99
    picture, dark = SMALL.render(data)
    assert (picture.shape, picture.dtype) == ((32, 96, 3), np.uint8)
    assert (picture[-4:, :10] == (252, 253, 191)).all()
    assert (picture[:-4] == (0, 0, 4)).all()
    assert (picture[:, 10:] == (0, 0, 4)).all()
    assert (dark == (0, 0, 4)).all()


def test_louder_is_brighter():
    data = torch.linspace(-15, 6, 96)[None, None, :, None].expand(1, 1, 96, 32)
    brightness = SMALL.render(data)[0][0].astype(float) @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(brightness) > 0).all()


def test_features_are_mean_and_deviation_of_64_bands_over_the_sound():
    raw = raws(SMALL, [COUNT, 8000])
    features = SMALL.features(raw)
    assert features.shape == (2, 128)
    alone = raw["samples"][1, :8000] / 32768
    heard = filterbank((alone - alone.mean())[None], 64)[0]
    assert_close(features[1], torch.cat([heard.mean(dim=0), heard.std(dim=0, correction=0)]), rtol=1e-4, atol=1e-3)
    assert features.isfinite().all()


def test_features_of_silence_are_finite():
    blank = {name: part[None] for name, part in SMALL.blank().items()}
    assert SMALL.features(blank).isfinite().all()


def test_a_scene_becomes_a_file_that_can_be_read_again(tmp_path):
    first, second = scenes(2, seed=0)
    for name, scene in (("a", first), ("b", first), ("c", second)):
        SMALL.depict(scene, tmp_path / f"{name}{SMALL.suffix}")
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert file.getparams()[:4] == (2, 2, 16000, 32000)
    clips = [SMALL.read(Source(tmp_path / f"{name}.wav"), None)["samples"] for name in "abc"]
    assert torch.equal(clips[0], clips[1])
    assert not torch.equal(clips[0], clips[2])
    assert 100 < clips[0].float().std() < 20000


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 1000}, r"patches of \(16, 16\) do not divide \(1000, 128\)"),
        ({"mel": 100}, r"do not divide \(1024, 100\)"),
        ({"frames": 0}, "Audio.frames is 0; it must be at least 1"),
        ({"patch": -16}, "Audio.patch is -16"),
        ({"mel": 2, "patch": 2}, "Audio.mel is 2; it must be at least 4 and at most 512"),
        ({"rate": 100}, "Audio.rate is 100; it must be at least 4000 and at most 96000"),
        ({"std": 0.0}, "Audio.std is 0.0; it must be above 0 and finite"),
        ({"deviations": -1.0}, "Audio.deviations is -1.0"),
        ({"mean": float("nan")}, "Audio.mean is nan; it must be finite"),
    ],
)
def test_options_that_can_not_be_are_refused_with_the_reason(options, message):
    with pytest.raises(OptionError, match=message):
        Audio(**options)


@pytest.mark.parametrize("seconds", [0.4, 1.5, 30.0], ids=["shorter", "near", "far apart"])
@pytest.mark.parametrize("suffix", ["mp3", "m4a", "flac"])
def test_many_windows_of_a_file_are_those_read_one_by_one(suffix, seconds, tmp_path):
    source = Source(write(tmp_path / f"a.{suffix}", murmur(seconds, 44100), 44100))
    audio, draws = replace(SMALL, augment=True), [draw(key) for key in range(6)]
    together = audio.read_many(source, draws)
    for raw, one in zip(together, (audio.read(source, each) for each in draws), strict=True):
        assert raw["length"] == one["length"]
        assert torch.equal(raw["samples"], one["samples"])
