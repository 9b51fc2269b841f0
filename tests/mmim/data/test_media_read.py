import os
import sys
from pathlib import Path

import numpy as np
import pytest

from mmim.data.media_read import open_video
from mmim.errors import OptionError, ReadError
from tests.videos import blotted, copied, cut_off, decoded, number_of, pictures, real_clip, turned, write

BOTH = pytest.mark.parametrize("backend", ["pyav", "decord"])
CONTAINERS = {
    "h264.mp4": {},
    "h264.mkv": {},
    "h264.mov": {},
    "h264.avi": {},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"b": "4M"}},
    "b_frames.avi": {"codec": "mpeg4", "options": {"b": "4M", "bf": "2"}},
    "vp8.webm": {"codec": "libvpx"},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"lag-in-frames": "16", "auto-alt-ref": "1"}},
    "sound.mp4": {"sound": True},
}


def read(path, numbers, backend="pyav"):
    with open_video(path, backend) as video:
        return video.frames(numbers)


@BOTH
@pytest.mark.parametrize("name", CONTAINERS)
def test_frames_are_those_of_a_decode_from_the_start(name, backend, tmp_path):
    path = write(tmp_path / name, pictures(), **CONTAINERS[name])
    truth = decoded(path)
    assert [number_of(frame) for frame in truth] == list(range(40))
    for numbers in ([0], [39], [0, 39], range(40), [5, 9, 13, 17, 21], [31, 12, 33], [14, 14, 2, 14]):
        np.testing.assert_array_equal(read(path, numbers, backend), truth[list(numbers)])


def test_pyav_reads_frames_that_lean_on_the_group_before(tmp_path):
    path = write(tmp_path / "clip.mp4", pictures(), options={"x264-params": "open-gop=1:keyint=10:bframes=3"})
    truth = decoded(path)
    for number in range(40):
        np.testing.assert_array_equal(read(path, [number])[0], truth[number])


@BOTH
def test_one_open_file_can_be_asked_again(backend, tmp_path):
    path = write(tmp_path / "clip.mkv", pictures())
    with open_video(path, backend) as video:
        for numbers in ([30, 31], [2, 3], [39], [0]):
            assert [number_of(frame) for frame in video.frames(numbers)] == numbers


@BOTH
def test_count_and_rate_are_those_of_the_file(backend, tmp_path):
    with open_video(write(tmp_path / "clip.mp4", pictures(23)), backend) as video:
        assert (video.num_frames, video.fps) == (23, 25.0)


@BOTH
def test_a_variable_frame_rate_counts_frames_not_time(backend, tmp_path):
    times = np.cumsum(np.random.default_rng(0).integers(10, 120, 40)).tolist()
    path = write(tmp_path / "clip.mp4", pictures(), times=times)
    assert [number_of(frame) for frame in read(path, range(0, 40, 3), backend)] == list(range(0, 40, 3))


@BOTH
@pytest.mark.parametrize("pixels", ["yuv444p", "gray"])
def test_odd_sizes_are_read(backend, pixels, tmp_path):
    path = write(tmp_path / "clip.mp4", pictures(6, 77, 101), pixels=pixels)
    np.testing.assert_array_equal(read(path, range(6), backend), decoded(path))
    assert read(path, [0], backend).shape == (1, 77, 101, 3)


def test_backends_differ_on_odd_sizes_with_halved_colour_by_little(tmp_path):
    path = write(tmp_path / "clip.avi", pictures(6, 77, 101), codec="mpeg4")
    pyav, decord = (read(path, range(6), backend).astype(int) for backend in ("pyav", "decord"))
    assert np.abs(pyav - decord).max() <= 24  # this smooth picture; random colours differ by up to 84
    assert np.abs(pyav - decord).mean() <= 2


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_frames_are_turned_as_the_file_says(degrees, tmp_path):
    upright = write(tmp_path / "upright.mp4", pictures(5))
    path = turned(upright, tmp_path / "turned.mp4", degrees)
    np.testing.assert_array_equal(read(path, [3])[0], np.rot90(decoded(upright)[3], -degrees // 90))


def test_decord_turns_upside_down_and_refuses_quarter_turns(tmp_path):
    upright = write(tmp_path / "upright.mp4", pictures(5))
    over = turned(upright, tmp_path / "over.mp4", 180)
    np.testing.assert_array_equal(read(over, [3], "decord"), read(over, [3]))
    with pytest.raises(ReadError, match="turned: use backend pyav"):
        read(turned(upright, tmp_path / "side.mp4", 90), [3], "decord")


def test_frames_hidden_by_an_edit_list_are_not_counted(tmp_path):
    whole = write(tmp_path / "whole.mp4", pictures(), options={"g": "20"})
    path = copied(whole, tmp_path / "cut.mp4", shift=8, avoid_negative_ts="disabled", use_editlist="1")
    with open_video(path) as video:
        assert video.num_frames == 32
        assert [number_of(frame) for frame in video.frames([0, 5, 31])] == [8, 13, 39]
    with pytest.raises(ReadError, match="frames where 32 are shown: use backend pyav"):
        read(path, [0], "decord")


def test_only_what_is_needed_is_decoded(tmp_path):
    whole = write(tmp_path / "whole.mp4", pictures(), options={"g": "10", "bf": "0", "sc_threshold": "0"})
    path = blotted(blotted(whole, tmp_path / "a.mp4", 0, 9), tmp_path / "b.mp4", 30, 39)
    assert [number_of(frame) for frame in read(path, [10, 17, 29])] == [10, 17, 29]
    with pytest.raises(ReadError, match=r"can't be read: Invalid data|isn't there"):
        read(path, [5])


@BOTH
def test_of_two_video_streams_the_better_one_is_read(backend, tmp_path):
    path = real_clip(tmp_path, "video/misc_clips.tar", "misc_clips/nasa_13013.mp4")
    with open_video(path, backend) as video:
        assert video.num_frames == 390
        assert video.frames([0]).shape == (1, 270, 480, 3)


@pytest.mark.parametrize(
    ("archive", "member"),
    [
        ("pairs/grid_av.tar", "grid_av/bbaf4p.mp4"),
        ("video/asl_gestures.tar", "asl_gestures/learn.mkv"),
        ("video/misc_clips.tar", "misc_clips/car-detection.mp4"),
        ("video/misc_clips.tar", "misc_clips/big_buck_bunny_0_30.webm"),
    ],
)
def test_backends_agree_to_the_bit_on_real_clips(archive, member, tmp_path):
    path = real_clip(tmp_path, archive, member)
    numbers = [31, 35, 39, 57]
    np.testing.assert_array_equal(read(path, numbers), read(path, numbers, "decord"))


def test_titles_that_are_no_utf8_do_not_matter(tmp_path):
    path = write(tmp_path / "clip.mp4", pictures(5))
    path.write_bytes(path.read_bytes().replace(b"Lavf", b"L\xe4vf"))
    assert number_of(read(path, [3])[0]) == 3


BAD = {
    "missing": ("can't be read: No such file", lambda path: path),
    "folder": ("can't be read: Is a directory", lambda path: path.mkdir() or path),
    "empty": ("empty file", lambda path: path.touch() or path),
    "text": ("can't be read: Invalid data", lambda path: path.write_text("a text\n" * 99) and path),
    "noise": (
        "can't be read: Invalid data",
        lambda path: path.write_bytes(np.random.default_rng(0).bytes(9999)) and path,
    ),
    "sound_only": ("no video stream", lambda path: write(path, sound=True)),
    "unknown_codec": ("no decoder", lambda path: _replaced(path, b"avc1", b"zzz1")),
    "index_cut_off": ("can't be read: ", lambda path: cut_off(_whole(path), path, 0.6)),
    "all_zeros": ("no frames|can't be read", lambda path: blotted(_whole(path), path, 0, 39)),
}


def _whole(path: Path, **container):
    return write(path.with_name("whole.mp4"), pictures(), container=container)


def _replaced(path: Path, old: bytes, new: bytes):
    path.write_bytes(_whole(path).read_bytes().replace(old, new))
    return path


@BOTH
@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_gives_a_short_reason_without_its_path_and_no_noise(case, backend, tmp_path, capfd):
    reason, make = BAD[case]
    path = make(tmp_path / f"{case}.mp4")
    with pytest.raises(ReadError, match=reason) as caught:
        read(path, [0], backend)
    assert str(tmp_path) not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 160
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_of_a_file_that_breaks_off_its_first_part_is_read(suffix, tmp_path):
    whole = write(
        tmp_path / f"whole.{suffix}", pictures(), container={"movflags": "faststart"} if suffix == "mp4" else {}
    )
    path = cut_off(whole, tmp_path / f"part.{suffix}", 0.8)
    with open_video(path) as video:
        assert 10 < video.num_frames < 40
        assert [number_of(frame) for frame in video.frames([0, 4, 8])] == [0, 4, 8]


def test_decord_refuses_an_mp4_that_breaks_off(tmp_path):
    whole = _whole(tmp_path / "part.mp4", movflags="faststart")
    with pytest.raises(ReadError, match="can't be read"):
        read(cut_off(whole, tmp_path / "part.mp4", 0.6), [0], "decord")


@BOTH
def test_many_files_leave_memory_and_handles_as_they_were(backend, tmp_path):
    good = write(tmp_path / "good.mp4", pictures())
    bad = cut_off(good, tmp_path / "bad.mp4", 0.5)

    def some():
        for _ in range(60):
            read(good, [3, 7], backend)
            with pytest.raises(ReadError):
                read(bad, [3], backend)

    def used():
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, len(os.listdir("/proc/self/fd"))

    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc")
    some()
    memory, handles = used()
    some()
    assert used()[0] < memory + 4  # MiB
    assert used()[1] <= handles


@pytest.mark.parametrize("backend", ["decord", "torchcodec"])
def test_a_backend_that_is_not_installed_says_how_to_install_it(backend, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, backend, None)
    with pytest.raises(OptionError, match=f"backend {backend} can't be used here.*pip install {backend}.*backend pyav"):
        read(write(tmp_path / "clip.mp4", pictures(3)), [0], backend)
