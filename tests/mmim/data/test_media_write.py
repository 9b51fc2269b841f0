import av
import decord
import numpy as np
import pytest

from mmim.data.media_write import write_video
from mmim.errors import DataError

RATE = 16000


def clip(count=12, height=48, width=64):
    """A bright square that moves over a smooth slope."""
    y, x = np.mgrid[:height, :width]
    pictures = np.stack([np.stack([x * 2, y * 2, 255 - x * 2], axis=-1)] * count).astype(np.uint8)
    for index, picture in enumerate(pictures):
        picture[10:26, 2 * index : 2 * index + 16] = (250, 240, 20)
    return pictures


def tones(seconds=0.75):
    time = np.arange(int(RATE * seconds)) / RATE
    return (0.4 * np.sin(2 * np.pi * np.array([[440], [660]]) * time)).astype(np.float32)


def written(tmp_path, name="clip.mp4", **changes):
    path = tmp_path / name
    write_video(path, clip(), **({"fps": 16, "sound": tones(), "rate": RATE} | changes))
    return path


def test_decord_reads_back_every_frame(tmp_path):
    reader = decord.VideoReader(str(written(tmp_path)), num_threads=1)
    assert reader.get_avg_fps() == 16
    pictures = np.stack([reader[index].asnumpy() for index in range(len(reader))])
    assert pictures.shape == clip().shape
    assert np.abs(pictures.astype(int) - clip()).mean() < 6


def test_pyav_reads_back_every_frame(tmp_path):
    with av.open(str(written(tmp_path))) as file:
        assert file.streams.video[0].average_rate == 16
        pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
    assert pictures.shape == clip().shape
    assert np.abs(pictures.astype(int) - clip()).mean() < 6


def test_pyav_reads_back_the_sound_in_place(tmp_path):
    with av.open(str(written(tmp_path))) as file:
        wave = np.concatenate([frame.to_ndarray() for frame in file.decode(audio=0)], axis=1)
    wave = wave[:, : tones().shape[1]]  # the last block is filled up
    assert np.abs(wave - tones())[:, 2000:-2000].max() < 0.1


def test_decord_reads_back_the_sound_as_mono(tmp_path):
    wave = decord.AudioReader(str(written(tmp_path)), sample_rate=RATE, mono=True)[:].asnumpy()[0]
    loudest = np.sort(np.abs(np.fft.rfft(wave[: tones().shape[1]])).argsort()[-2:]) / 0.75
    assert np.abs(loudest - [440, 660]).max() < 3


def test_equal_input_gives_equal_bytes(tmp_path):
    assert written(tmp_path, "one.mp4").read_bytes() == written(tmp_path, "two.mp4").read_bytes()


def test_a_clip_may_be_silent(tmp_path):
    with av.open(str(written(tmp_path, sound=None, rate=None))) as file:
        assert len(file.streams.audio) == 0
        assert len(list(file.decode(video=0))) == len(clip())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate": None}, "sound and rate belong together"),
        ({"rate": 12345}, "2 channels at 12345 Hz"),
        ({"sound": np.zeros((3, 100), np.float32)}, "3 channels at 16000 Hz"),
    ],
)
def test_sound_that_aac_cannot_hold_is_refused(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        written(tmp_path, **changes)


@pytest.mark.parametrize("pictures", [clip(width=63), clip(count=1)[:0]])
def test_frames_that_h264_cannot_hold_are_refused(tmp_path, pictures):
    with pytest.raises(DataError, match=r"H\.264 can't hold"):
        write_video(tmp_path / "clip.mp4", pictures, fps=16)
    assert not (tmp_path / "clip.mp4").exists()
