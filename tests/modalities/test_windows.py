"""Frames and sound of one file come from one window of time: the shorter one lies inside the longer."""

import av
import numpy as np
import pytest
import torch

from mmim.data.loader import load
from mmim.data.media_write import write_video
from mmim.data.order import Visit
from mmim.data.sources import find_samples
from modalities.audio import Audio
from modalities.video import Video
from tests.videos import real_clip

FPS, RATE, SECONDS = 25, 16000, 8


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    """A film whose brightness says the time, with a tone whose pitch says the same."""
    count = FPS * SECONDS
    shade = np.linspace(20, 235, count).round().astype(np.uint8)
    frames = np.broadcast_to(shade[:, None, None, None], (count, 32, 32, 3))
    phase = 2 * np.pi * np.cumsum(np.linspace(500, 4500, RATE * SECONDS)) / RATE
    folder = tmp_path_factory.mktemp("film")
    write_video(
        folder / "film.mp4",
        np.ascontiguousarray(frames),
        fps=FPS,
        sound=(0.5 * np.sin(phase))[None].repeat(2, 0).astype(np.float32),
        rate=RATE,
    )
    return folder


def times(folder, video, audio, visits):
    """First second and length of the frames and of the sound of each visit, as they tell by themselves."""
    modalities = {"video": video, "audio": audio}
    samples = find_samples(folder, modalities)
    assert len(samples) == 1
    (loaded,) = load(samples, modalities, iter([visits]), seed=0, workers=0)
    views = loaded.batch.views["main"]
    shades = views["video"].float().mean(dim=(1, 3, 4))  # b T
    seen = (shades - 20) / 215 * (SECONDS - 1 / FPS)
    heard = [second_of(samples.numpy()) for samples in views["audio"]["samples"]]
    return seen[:, 0].numpy(), np.array(heard)


def second_of(samples):
    """When in the film a stretch of sound starts, by the pitch of its first twentieth of a second."""
    part = samples[: RATE // 20].astype(float) * np.hanning(RATE // 20)
    pitch = np.abs(np.fft.rfft(part, 2**15)).argmax() * RATE / 2**15
    return (pitch - 500) / 4000 * SECONDS - 1 / 40


VISITS = [Visit(0, epoch, 0) for epoch in range(12)]
VIDEO = {"size": 32, "patch": 8, "crop": "centre"}


@pytest.mark.parametrize(("stride", "hundredths"), [(2, 128), (2, 64), (1, 256)])
def test_the_shorter_window_lies_inside_the_longer(marked, stride, hundredths):
    video, audio = Video(frames=16, stride=stride, **VIDEO), Audio(frames=hundredths)
    seen, heard = times(marked, video, audio, VISITS)
    long_video, long_audio = 16 * stride / FPS, hundredths / 100
    spare = 2.5 / FPS  # a frame of rounding, and what pitch and shade tell
    for v, a in zip(seen, heard, strict=True):
        (first, length), (inner, short) = sorted([(v, long_video), (a, long_audio)], key=lambda w: -w[1])
        assert first - spare <= inner
        assert inner + short <= first + length + spare
    assert np.ptp(seen) > 2  # they are not all from one place


def test_windows_of_one_length_start_together(marked):
    seen, heard = times(marked, Video(frames=16, stride=2, **VIDEO), Audio(frames=128), VISITS)
    assert np.abs(seen - heard).max() < 2.5 / FPS


def test_a_real_film_has_frames_and_sound_of_one_length_from_one_time(tmp_path):
    path = real_clip(tmp_path, "pairs/grid_av.tar", "grid_av/bbaf4p.mp4")
    with av.open(str(path)) as file:
        first = {stream.type: float(stream.start_time * stream.time_base) for stream in file.streams}
        length = {stream.type: float(stream.duration * stream.time_base) for stream in file.streams}
    assert abs(first["video"] - first["audio"]) < 1.5 / FPS
    assert abs(length["video"] - length["audio"]) < 2.5 / FPS  # so equal shares of them are equal times
    modalities = {"video": Video(frames=8, stride=2, size=64, patch=8), "audio": Audio(frames=64)}
    samples = find_samples(path.parent, modalities)
    (loaded,) = load(samples, modalities, iter([[Visit(0, 0, 0), Visit(0, 1, 0)]]), seed=0, workers=0)
    assert loaded.unreadable == ()
    assert all(torch.equal(flags, torch.ones(2, dtype=torch.bool)) for flags in loaded.batch.present.values())
