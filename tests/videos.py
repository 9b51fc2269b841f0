"""Video files for tests, written with PyAV: any codec, container and time stamps, and ways to spoil them."""

import os
import struct
import tarfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

TURNED = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}  # clockwise: the matrix in an mp4's track header


def pictures(count=40, height=48, width=64):
    """Frames that tell their number by their brightness (`number_of`), with a pattern that moves."""
    y, x = np.mgrid[:height, :width]
    waves = [12 * np.sin((x + 3 * i) / 7) + 6 * np.cos((y - i) / 5) for i in range(count)]
    greys = [(30 + 5 * i + wave - wave.mean()).round() for i, wave in enumerate(waves)]
    return np.stack([np.stack([grey] * 3, axis=-1) for grey in greys]).clip(0, 255).astype(np.uint8)


def number_of(frame):
    """The number of one of these pictures, for count <= 40."""
    return round((float(frame.mean()) - 30) / 5)


def write(
    path, frames=None, *, codec="libx264", pixels="yuv420p", times=None, sound=False, options=None, container=None
):
    """Write a video file.

    Args:
        path: its suffix says the container.
        frames: uint8 `[t H W 3]`; None for no video stream at all.
        codec: FFmpeg's name of the encoder.
        pixels: FFmpeg's name of the pixel format.
        times: of each frame in milliseconds; 25 a second without.
        sound: add a second of a tone.
        options: of the encoder.
        container: options of the container.
    """
    with av.open(str(path), "w", container_options=container or {}) as file:
        video = tone = None
        if frames is not None:
            video = file.add_stream(codec, rate=25, options=options or {})
            video.height, video.width, video.pix_fmt = frames.shape[1], frames.shape[2], pixels
            video.codec_context.time_base = Fraction(1, 25 if times is None else 1000)
        if sound:
            tone = file.add_stream("aac", rate=16000, layout="mono")
        for index, picture in enumerate(() if frames is None else frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = (index if times is None else times[index]), video.codec_context.time_base
            file.mux(video.encode(frame))
        if video is not None:
            file.mux(video.encode(None))
        if tone is not None:
            wave = (8000 * np.sin(np.arange(16000) / 6)).astype(np.int16)[None]
            samples = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
            samples.sample_rate, samples.pts, samples.time_base = 16000, 0, Fraction(1, 16000)
            file.mux(tone.encode(samples))
            file.mux(tone.encode(None))
    return path


def copied(source, path, *, shift=0, **container):
    """The packets of a file in a new container, moved `shift` frames earlier; an edit list hides those before 0."""
    with av.open(str(source)) as old, av.open(str(path), "w", container_options=container) as new:
        stream = old.streams.video[0]
        out = new.add_stream_from_template(stream)
        for packet in old.demux(stream):
            if packet.size:
                packet.pts -= shift * packet.duration
                packet.dts -= shift * packet.duration
                packet.stream = out
                new.mux(packet)
    return path


def turned(source, path, degrees):
    """The same mp4 with a note that it is to be shown turned clockwise, as phones write it."""
    data = bytearray(source.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (65536 * entry for entry in TURNED[degrees])
    data[matrix : matrix + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def cut_off(source, path, share):
    """The first part of a file's bytes."""
    data = source.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def blotted(source, path, first, last):
    """The same file with the packets of frames `first ... last` (in decoding order) overwritten."""
    data = bytearray(source.read_bytes())
    with av.open(str(source)) as file:
        packets = [(packet.pos, packet.size) for packet in file.demux(file.streams.video[0]) if packet.size]
    for start, size in packets[first : last + 1]:
        data[start : start + size] = bytes(size)
    path.write_bytes(data)
    return path


def decoded(path):
    """Every frame of a file, decoded from its start without a seek."""
    with av.open(str(path)) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(file.streams.best("video"))])


def shared_data():
    """The folder of real data, or a skip that says why."""
    folder = Path(os.environ.get("MMIM_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir() and not os.environ.get("MMIM_REQUIRE_DATA"):
        pytest.skip(f"no real data: {folder} is absent; set MMIM_SHARED_DATA")
    return folder


def real_clip(tmp_path, archive, member):
    """One file out of an archive of the real data, such as ("pairs/grid_av.tar", "grid_av/bbaf4p.mp4")."""
    with tarfile.open(shared_data() / archive) as tar:
        tar.extract(member, tmp_path, filter="data")
    return tmp_path / member
