"""Write media files: frames and sound as mp4."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from jaxtyping import Float32, UInt8

from mmim.errors import DataError

LAYOUTS = {1: "mono", 2: "stereo"}
AAC_RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
"""Hertz; the table of the format."""


def write_video(
    path: Path,
    frames: UInt8[np.ndarray, "t h w 3"],
    *,
    fps: int | Fraction,
    sound: Float32[np.ndarray, "c n"] | None = None,
    rate: int | None = None,
) -> None:
    """Write an mp4 that any player opens: H.264 at constant quality and, with `sound`, an AAC track.

    Equal input gives equal bytes: one thread, no dates. Lossy: 4:2:0 colour, crf 18.

    Args:
        path: of the file; written over.
        frames: RGB, height and width even.
        fps: frames per second.
        sound: one or two channels within [-1, 1].
        rate: of the sound, in hertz; one of the rates that AAC knows.

    Raises:
        DataError: a size, rate or number of channels that the format can't hold.
    """
    _check(frames, sound, rate)
    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact"}) as file:
        picture = _add_picture(file, frames.shape[1], frames.shape[2], fps)
        if sound is not None and rate is not None:
            _write_sound(file, sound, rate)
        _write_frames(file, picture, frames)


def _check(frames: UInt8[np.ndarray, "t h w 3"], sound: Float32[np.ndarray, "c n"] | None, rate: int | None) -> None:
    count, height, width = frames.shape[:3]
    if count == 0 or height % 2 or width % 2:
        raise DataError(
            f"H.264 can't hold {count} frames of {height} x {width}. Give at least one, of even height and width."
        )
    if (sound is None) != (rate is None):
        raise DataError(f"sound and rate belong together, and rate is {rate}. Give both, or neither.")
    if sound is not None and (len(sound) not in LAYOUTS or rate not in AAC_RATES):
        raise DataError(f"AAC can't hold {len(sound)} channels at {rate} Hz. Give 1 or 2, at one of {AAC_RATES} Hz.")


def _add_picture(file: OutputContainer, height: int, width: int, fps: int | Fraction) -> VideoStream:
    stream = file.add_stream("libx264", rate=fps)
    stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
    stream.options = {"preset": "veryfast", "crf": "18", "threads": "1"}
    stream.codec_context.thread_count = 1
    stream.codec_context.time_base = Fraction(1) / fps
    return stream


def _write_frames(file: OutputContainer, stream: VideoStream, frames: UInt8[np.ndarray, "t h w 3"]) -> None:
    for index, pixels in enumerate(frames):
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame.pts, frame.time_base = index, stream.codec_context.time_base
        file.mux(stream.encode(frame))
    file.mux(stream.encode(None))


def _write_sound(file: OutputContainer, sound: Float32[np.ndarray, "c n"], rate: int) -> None:
    stream = file.add_stream("aac", rate=rate)
    stream.layout = LAYOUTS[len(sound)]
    stream.format = "fltp"
    stream.options = {"flags": "+bitexact", "aac_coder": "fast"}
    whole = AudioFrame.from_ndarray(np.ascontiguousarray(sound), format="fltp", layout=LAYOUTS[len(sound)])
    whole.sample_rate, whole.pts, whole.time_base = rate, 0, Fraction(1, rate)
    file.mux(stream.encode(whole))
    file.mux(stream.encode(None))
