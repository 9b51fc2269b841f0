import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch.testing import assert_close

from mmim.data.sound_read import open_sound
from mmim.errors import ReadError
from tests import videos
from tests.sounds import int16, murmur, tone, wav, write
from tests.videos import cut_off, pictures, real_clip

SUFFIXES = ("wav", "flac", "mp3", "opus", "m4a", "aac", "mp4", "mov", "mkv", "webm", "avi")


def read(path, rate=16000, start=0, count=10**6):
    with open_sound(path, rate) as sound:
        return sound.window(start, count)


def strongest(wave, rate=16000):
    """The strongest frequency, in hertz."""
    wave = np.asarray(wave)
    return np.abs(np.fft.rfft(wave * np.hanning(len(wave)))).argmax() * rate / len(wave)


# Samples


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("kind", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_wav_samples_are_those_of_soundfile(kind, channels, tmp_path):
    path = tmp_path / "sound.wav"
    soundfile.write(path, murmur(0.7, channels=channels).T, 16000, subtype=kind)
    expected = soundfile.read(path, dtype="float64", always_2d=True)[0].mean(axis=1)
    found = read(path)
    assert found.dtype == torch.float32
    assert_close(found, torch.from_numpy(expected.astype(np.float32)), rtol=0, atol=1e-7)
    if channels == 1:
        assert torch.equal(found, torch.from_numpy(soundfile.read(path, dtype="float32")[0]))


@pytest.mark.parametrize("kind", ["PCM_S8", "PCM_16", "PCM_24"])
def test_flac_samples_are_those_of_soundfile(kind, tmp_path):
    path = tmp_path / "sound.flac"
    soundfile.write(path, murmur(0.7)[0], 16000, subtype=kind)
    assert torch.equal(read(path), torch.from_numpy(soundfile.read(path, dtype="float32")[0]))


@pytest.mark.parametrize("suffix", [*SUFFIXES, "ogg"])
def test_every_container_gives_the_sound_that_was_written(suffix, tmp_path):
    wave, path = murmur(1.5, rate=48000, channels=2), tmp_path / f"sound.{suffix}"
    if suffix == "ogg":
        soundfile.write(path, wave.T, 48000, format="OGG", subtype="VORBIS")
    else:
        write(path, wave, 48000)
    found, expected = read(path, 48000), torch.from_numpy(wave.mean(axis=0))
    late = (
        0
        if suffix not in ("aac", "avi")
        else int(np.argmax(np.correlate(found[:9000].numpy(), expected[2000:5000].numpy())) - 2000)
    )  # what no header tells of: AAC without one has 1024 samples of priming
    assert late in (0, 1024, 1105)
    apart = found[late:][: len(expected)] - expected[: len(found) - late]
    assert apart.square().mean() < 0.01 * expected.square().mean()


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 44101, 96000])
def test_a_tone_keeps_its_pitch_and_length_at_any_rate(rate, tmp_path):
    found = read(write(tmp_path / "sound.wav", tone(2, rate, hertz=1000.0), rate))
    assert len(found) == pytest.approx(32000, abs=1)
    assert strongest(found) == pytest.approx(1000, abs=0.6)
    expected = tone(2, 16000, hertz=1000.0)[0]
    assert np.abs(found.numpy() - expected[: len(found)])[200:-200].max() < 0.02


@pytest.mark.parametrize("suffix", [*SUFFIXES, "ogg"])
@pytest.mark.parametrize("rate", [16000, 48000])
def test_a_window_is_the_same_part_of_the_whole(suffix, rate, tmp_path):
    wave, path = murmur(4.3, rate), tmp_path / f"sound.{suffix}"
    if suffix == "ogg":
        soundfile.write(path, wave.T, rate, format="OGG", subtype="VORBIS")
    else:
        write(path, wave, rate)
    with open_sound(path, 16000) as sound:
        whole = sound.window(0, 10**6)
        assert sound.count == pytest.approx(len(whole), abs=1200)
        tolerance = 0.01 if suffix in ("m4a", "mp4") else 1e-6  # AAC's noise bands go on where it was before
        for start, count in ((0, 9000), (1, 1), (4001, 4000), (31999, 16001), (60000, 20000), (2, 100)):
            assert_close(sound.window(start, count), whole[start:][:count], rtol=0, atol=tolerance)


def test_windows_of_a_file_shorter_than_they_are_end_with_it(tmp_path):
    path = write(tmp_path / "sound.wav", murmur(0.5))
    assert len(read(path, count=16000)) == 8000
    assert len(read(path, start=7000, count=16000)) == 1000


def test_silence_is_a_sound(tmp_path):
    assert not read(wav(tmp_path / "sound.wav", np.zeros(4000, "<i2"))).any()


@pytest.mark.parametrize(("suffix", "late"), [("mp4", 0), ("mkv", 0), ("mov", 0), ("avi", 1024)])
def test_a_video_and_the_same_sound_alone_agree(suffix, late, tmp_path):
    path = videos.write(tmp_path / f"clip.{suffix}", pictures(25), sound=True)
    alone = 8000 / 32768 * np.sin(np.arange(16000) / 6)  # what videos.write adds, in AAC
    apart = read(path)[late:][:14000].numpy() - alone[:14000]
    assert np.square(apart).mean() < 0.01 * np.square(alone).mean()


def test_the_sound_of_a_real_video_is_read(tmp_path):
    found = read(real_clip(tmp_path, "pairs/grid_av.tar", "grid_av/bbaf4p.mp4"))
    assert len(found) == pytest.approx(3 * 16000, abs=1600)
    assert 0.01 < found.std() < 0.5


def test_the_length_of_a_real_vorbis_file_is_right(tmp_path):
    path = real_clip(tmp_path, "audio/esc10.tar", "esc10/dog_bark/3-144028-A.ogg")  # its last packet lasts 2 ** 32 - 19
    with open_sound(path, 16000) as sound:
        assert sound.count == pytest.approx(80016, abs=512)
        assert len(sound.window(0, 80000)) == 80000


def test_a_window_is_the_same_whatever_was_read_before(tmp_path):
    path = real_clip(tmp_path, "pairs/grid_av.tar", "grid_av/bbaf4p.mp4")  # its AAC has bands of made-up noise
    with open_sound(path, 16000) as sound:
        for start in (20000, 5000, 20000, 0):
            assert torch.equal(sound.window(start, 8000), read(path, start=start, count=8000))


def test_a_wav_file_whose_writer_did_not_know_its_length_is_read(tmp_path):
    for size in (0, 2**32 - 1):
        path = wav(tmp_path / "sound.wav", int16(murmur(0.5)), size=size)
        assert len(read(path)) == 8000


def test_the_name_of_a_file_does_not_matter(tmp_path):
    path = write(tmp_path / "sound.mp3")
    os.rename(path, tmp_path / "sound.wav")
    assert strongest(read(tmp_path / "sound.wav")) == pytest.approx(440, abs=1)


# Files that can't be read


def _whole(path, **container):
    return write(path.with_name(f"whole{path.suffix}"), murmur(5), container=container)


def _bytes(path, data):
    path.write_bytes(data)
    return path


def _spoilt(path, value):
    wave = murmur(1)[0].astype("<f4")
    wave[4000] = value
    return wav(path, wave)


def _unknown_codec(path):
    return _bytes(
        path, wav(path, int16(murmur(1))).read_bytes().replace(b"fmt \x10\0\0\0\1\0", b"fmt \x10\0\0\0\x77\x77")
    )


BAD = {
    "missing.wav": ("can't be read: No such file", lambda path: path),
    "folder.wav": ("can't be read: Is a directory", lambda path: path.mkdir() or path),
    "empty.wav": ("^empty file$", lambda path: path.touch() or path),
    "text.wav": ("can't be read: Invalid data", lambda path: path.write_text("a text\n" * 99) and path),
    "text.mp3": ("can't be read: Invalid data", lambda path: path.write_text("a text\n" * 99) and path),
    "noise.flac": ("sound without", lambda path: _bytes(path, np.random.default_rng(0).bytes(9999))),
    "zeros.ogg": ("can't be read: End of file", lambda path: _bytes(path, bytes(9999))),
    "header.wav": ("can't be read: Invalid data", lambda path: cut_off(_whole(path), path, 0.0002)),
    "pictures.mp4": ("^no sound stream$", lambda path: videos.write(path, pictures(5))),
    "no_samples.wav": ("^no samples$", lambda path: wav(path, np.zeros(0, "<i2"))),
    "no_channels.wav": ("^sound without channels or rate$", lambda path: wav(path, int16(murmur(1)), channels=0)),
    "no_rate.wav": ("can't be read: Invalid data", lambda path: wav(path, int16(murmur(1)), rate=0)),
    "rate.wav": ("^a sample rate of 1 Hz, outside 1000 to 768000$", lambda path: wav(path, int16(murmur(1)), rate=1)),
    "codec.wav": ("^FFmpeg has no decoder for its sound$", _unknown_codec),
    "nan.wav": ("^samples that are not finite$", lambda path: _spoilt(path, np.nan)),
    "inf.wav": ("^samples that are not finite$", lambda path: _spoilt(path, -np.inf)),
    "cut.wav": ("^truncated: ", lambda path: cut_off(_whole(path), path, 0.6)),
    "cut.flac": ("^truncated: ", lambda path: cut_off(_whole(path), path, 0.6)),
    "cut.m4a": ("^truncated: ", lambda path: cut_off(_whole(path, movflags="faststart"), path, 0.6)),
    "cut.mov": ("^truncated: ", lambda path: cut_off(_whole(path, movflags="faststart"), path, 0.9)),
    "index_lost.m4a": ("can't be read: Invalid data", lambda path: cut_off(_whole(path), path, 0.9)),
    "damaged.m4a": ("can't be read: Invalid data", lambda path: _blotted(path)),
}


def _blotted(path):
    """A hole of noise in the middle of the coded sound."""
    data = bytearray(_whole(path).read_bytes())
    data[len(data) // 4 : len(data) // 2] = np.random.default_rng(0).bytes(len(data) // 2 - len(data) // 4)
    return _bytes(path, data)


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_gives_a_short_reason_without_its_path_and_no_noise(case, tmp_path, capfd):
    reason, make = BAD[case]
    path = make(tmp_path / case)
    with pytest.raises(ReadError, match=reason) as caught:
        read(path)
    assert str(tmp_path) not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 160
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", ["mp3", "ogg", "mkv", "webm"])
def test_where_no_header_tells_the_length_the_first_part_is_read(suffix, tmp_path):
    path = tmp_path / f"whole.{suffix}"
    if suffix == "ogg":
        soundfile.write(path, murmur(5)[0], 16000, format="OGG", subtype="VORBIS")
    else:
        write(path, murmur(5, 48000), 48000)
    part = read(cut_off(path, tmp_path / f"part.{suffix}", 0.6))
    assert 1 < len(part) / 16000 < 4
    assert_close(part[:16000], read(path)[:16000], rtol=0, atol=1e-6)


def test_every_window_of_a_damaged_file_tells_of_its_own_damage_only(tmp_path):
    path = _blotted(tmp_path / "damaged.m4a")
    assert len(read(path, count=8000)) == 8000
    with pytest.raises(ReadError, match="can't be read"):
        read(path, start=24000, count=8000)


# Memory

WINDOW_OF_HOURS = """
import resource, sys
from pathlib import Path
import torch
from mmim.data.sound_read import open_sound
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
with open_sound(Path(sys.argv[1]), 16000) as sound:
    sound.window(0, 16000)
before = peak()
with open_sound(Path(sys.argv[2]), 16000) as sound:
    wave = sound.window(sound.count // 2, 160000)
print(sound.count, len(wave), peak() - before)
"""


def _hours(path):
    """Half an hour of a sound, in a small file: a bomb."""
    if path.suffix == ".flac":
        return write(path, np.zeros((1, 8000 * 1800), np.float32), 8000)
    second = write(path.with_name("second.mp3"), tone(1.008, 8000), 8000, container={"write_xing": "0"}).read_bytes()
    return _bytes(path, second[second.index(b"\xff\xe3") :] * 1800)


@pytest.mark.parametrize("suffix", ["flac", "mp3"])
def test_memory_does_not_grow_with_the_file(suffix, tmp_path):
    short, long = write(tmp_path / f"short.{suffix}"), _hours(tmp_path / f"long.{suffix}")
    assert long.stat().st_size < 12 * 2**20
    run = subprocess.run(
        [sys.executable, "-c", WINDOW_OF_HOURS, str(short), str(long)],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    count, length, grown = map(int, run.stdout.split())
    assert count >= 16000 * 1800
    assert length == 160000
    assert grown < 24  # MiB; the whole file has 55 at its own rate


def test_many_files_leave_memory_and_handles_as_they_were(tmp_path):
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc")
    good, bad = write(tmp_path / "good.mp3"), cut_off(_whole(tmp_path / "bad.flac"), tmp_path / "bad.flac", 0.5)

    def some():
        for _ in range(60):
            read(good, start=800, count=800)
            with pytest.raises(ReadError):
                read(bad)

    def used():
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, len(os.listdir("/proc/self/fd"))

    some()
    memory, handles = used()
    some()
    assert used()[0] < memory + 4  # MiB
    assert used()[1] <= handles
