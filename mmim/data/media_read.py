"""Frames of a video file by number, with PyAV, decord or torchcodec behind the same few lines.

`num_frames` counts the frames that a player would show, and a frame's number is its place in the order of showing. With
a variable frame rate numbers are not times: a stride in frames covers more seconds where frames are long. Turns that a
phone wrote beside the frames are carried out; of several video streams the one that FFmpeg thinks best is read.
Decoding takes one thread, since the loader's workers are the parallelism.

Measured with PyAV 18 and decord 0.6 on the same files (`tests/mmim/data/test_media_read.py`):

- Frames are equal to the bit, but for odd sizes with 4:2:0 colour, where chroma differs along hard edges.
- PyAV finds every frame in all containers tried, and of a file that breaks off it reads what is there.
- decord gives *other* frames than asked, without a word, in AVI files once it seeks, and in files whose edit list hides
  frames (cuts without re-encoding); it garbles portrait videos of phones. Here it steps through AVI files from their
  start, and refuses the others. Frames that follow a seek into an open group of pictures come out smeared. `get_batch`
  may spin for ever where a file promises more frames than it holds (github.com/dmlc/decord, issues 373 and 375), so
  frames are fetched one by one.
"""

import importlib
import re
from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from jaxtyping import UInt8

from mmim.errors import OptionError, ReadError

PIXELS = 36_000_000
"""The largest frame that is decoded (8K: 35 million): 108 MB as RGB, times the frames of a clip."""

Backend = Literal["pyav", "decord", "torchcodec"]
Frames = UInt8[np.ndarray, "n H W 3"]


class VideoFile(ABC):
    """An open video file: `num_frames`, and `fps`, their mean rate."""

    num_frames: int
    fps: float
    errors: tuple[type[Exception], ...]
    """What the library raises over a bad file."""

    @abstractmethod
    def decode(self, numbers: Sequence[int]) -> Frames:
        """RGB frames of these numbers, which ascend. May raise `errors`."""

    @abstractmethod
    def close(self) -> None:
        """Give the file back."""

    def frames(self, numbers: Sequence[int] | np.ndarray) -> Frames:
        """RGB frames of these numbers, in any order and with repetitions; each is decoded once.

        Raises:
            ReadError: the file breaks off, or is damaged where these frames are.
        """
        distinct, at = np.unique(np.asarray(numbers, dtype=np.int64), return_inverse=True)
        with translated(self.errors):
            frames = self.decode(distinct.tolist())
        return frames if np.array_equal(at, np.arange(len(distinct))) else frames[at]


@contextmanager
def open_video(path: Path, backend: Backend = "pyav") -> Iterator[VideoFile]:
    """Open a video file for as long as the block runs.

    Raises:
        ReadError: it holds no video that can be read. The message is a short reason without the path.
        OptionError: the backend isn't installed.
    """
    with translated((OSError,)):
        if path.stat().st_size == 0:
            raise ReadError("empty file")
    video = _BACKENDS[backend](path)
    try:
        yield video
    finally:
        video.close()


class _PyAV(VideoFile):
    """Lists the packets first, without decoding; then decodes from the key frame before each wanted frame."""

    errors = (av.FFmpegError,)

    def __init__(self, path: Path) -> None:
        with translated(self.errors):
            self._container: Any = av.open(str(path), metadata_errors="replace")  # we read none; many are no UTF-8
        try:
            self._list_frames()
        except BaseException:
            self.close()
            raise

    def _list_frames(self) -> None:
        self._stream = self._container.streams.best("video")
        if self._stream is None:
            raise ReadError("no video stream")
        if self._stream.codec_context is None:
            raise ReadError("FFmpeg has no decoder for its video stream")
        self._stream.codec_context.thread_count = 1
        width, height = self._stream.codec_context.width, self._stream.codec_context.height
        if width * height > PIXELS:
            raise ReadError(f"frames of {width} x {height} pixels; at most {PIXELS:,} are decoded")
        with translated(self.errors):
            packets = [
                (packet.pts, packet.dts, packet.is_keyframe, packet.is_discard)
                for packet in self._container.demux(self._stream)
                if packet.size
            ]
        if any(time is None for time, *_ in packets):
            raise ReadError("frames without time stamps")
        self._times = sorted({time for time, _, _, hidden in packets if not hidden})
        self._keys = sorted({time for time, _, key, _ in packets if key})
        if not self._times or not self._keys:
            raise ReadError("no frames")
        self._start = min(time if decoding is None else decoding for time, decoding, _, _ in packets)
        self._counts = self.container == "avi" and packets == sorted(packets)
        self.num_frames = len(self._times)
        self.fps = float(self._stream.average_rate or 0)

    @property
    def container(self) -> str:
        """FFmpeg's name of the file's format."""
        return str(self._container.format.name)

    def decode(self, numbers: Sequence[int]) -> Frames:
        convert = av.video.reformatter.VideoReformatter().reformat
        width, height = self._stream.codec_context.width, self._stream.codec_context.height
        frames, turns = np.empty((len(numbers), height, width, 3), np.uint8), 0
        for place, frame in enumerate(self._frames_at([self._times[i] for i in numbers])):
            frames[place] = convert(frame, width, height, format="rgb24").to_ndarray()
            turns = round(frame.rotation / 90)
        return np.ascontiguousarray(np.rot90(frames, turns, axes=(1, 2)))

    def _frames_at(self, times: Sequence[int]) -> Iterator[Any]:
        """The frames shown at these times, which ascend; seeks over what nobody wants."""
        running: Iterator[tuple[int, Any]] = iter(())
        reached, frame = None, None
        for time in times:
            key = self._keys[max(bisect_right(self._keys, time) - 1, 0)]
            if reached is None or key > reached:
                running = self._from(key, time, set(times))
                reached, frame = next(running, (None, None))
            while reached is not None and reached < time:
                reached, frame = next(running, (None, None))
            if reached != time:
                raise ReadError("a frame that the file promises isn't there")
            yield frame

    def _from(self, key: int, time: int, wanted: set[int]) -> Iterator[tuple[int, Any]]:
        """Times and frames from a key frame on, or from the start where seeking went past the wanted time."""
        run = self._by_count if self._counts else self._by_stamp
        self._container.seek(key, stream=self._stream)
        running = run(wanted)
        first = next(running, None)
        if first is None or first[0] > time:
            self._container.seek(self._start, stream=self._stream)
            yield from run(wanted)
        else:
            yield first
            yield from running

    def _by_stamp(self, wanted: set[int]) -> Iterator[tuple[int, Any]]:
        """Frames from here on, but for those that neither we nor other frames need: a third less work with B-frames."""
        for packet in self._container.demux(self._stream):
            needed = packet.pts is None or packet.pts in wanted
            self._stream.codec_context.skip_frame = "DEFAULT" if needed else "NONREF"
            yield from ((frame.pts, frame) for frame in packet.decode())

    def _by_count(self, wanted: set[int]) -> Iterator[tuple[int, Any]]:
        """All frames from here on, numbered as they leave the decoder: AVI files hold no time stamps.

        FFmpeg makes some up, in the order of decoding; only for MPEG-4 with B-frames it finds out the true ones.
        """
        packets = self._container.demux(self._stream)
        first = next(packets)
        if first.is_keyframe:  # a seek can miss where the file's index is lost
            frames = (frame for packet in chain([first], packets) for frame in packet.decode())
            yield from zip(self._times[bisect_left(self._times, first.pts) :], frames, strict=False)

    def close(self) -> None:
        self._container.close()


class _Decord(VideoFile):
    """decord, after a look with PyAV: it writes to stderr over a file that it can't open, and counts hidden frames."""

    def __init__(self, path: Path) -> None:
        decord = _library("decord")
        decord.logging.set_level(decord.logging.QUIET)
        self.errors = (decord.DECORDError, decord.DECORDLimitReachedError, RuntimeError, AssertionError, StopIteration)
        look = _PyAV(path)
        look.close()
        with translated(self.errors):
            self._reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
        self.num_frames, self.fps = len(self._reader), look.fps
        if self.num_frames != look.num_frames:
            raise ReadError(f"decord sees {self.num_frames} frames where {look.num_frames} are shown: use backend pyav")
        self._seekable = look.container != "avi"

    def decode(self, numbers: Sequence[int]) -> Frames:
        frames = np.stack([frame.asnumpy() for frame in (self._sought if self._seekable else self._passed)(numbers)])
        if frames.shape[-1] != 3:
            raise ReadError("decord garbles frames that are to be shown turned: use backend pyav")
        return frames

    def _sought(self, numbers: Sequence[int]) -> Iterator[Any]:
        return (self._reader[i] for i in numbers)

    def _passed(self, numbers: Sequence[int]) -> Iterator[Any]:
        self._reader.seek(0)
        wanted = set(numbers)
        return (frame for i in range(numbers[-1] + 1) for frame in [self._reader.next()] if i in wanted)

    def close(self) -> None:
        del self._reader


class _TorchCodec(VideoFile):
    """torchcodec, which needs FFmpeg's libraries on the system."""

    errors = (RuntimeError, ValueError, IndexError)

    def __init__(self, path: Path) -> None:
        decoders = _library("torchcodec.decoders")
        with translated(self.errors):
            self._decoder = decoders.VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=1)
        self.num_frames = len(self._decoder)
        self.fps = float(self._decoder.metadata.average_fps or 0)

    def decode(self, numbers: Sequence[int]) -> Frames:
        frames: Frames = self._decoder.get_frames_at(list(numbers)).data.numpy()
        return frames

    def close(self) -> None:
        del self._decoder


_BACKENDS: dict[str, type[_PyAV] | type[_Decord] | type[_TorchCodec]] = {
    "pyav": _PyAV,
    "decord": _Decord,
    "torchcodec": _TorchCodec,
}


_INSTALL = {
    "decord": "pip install decord",
    "torchcodec.decoders": "pip install torchcodec; it needs the system's FFmpeg too",
}


def check_backend(backend: Backend) -> None:
    """Raise an OptionError if the backend can't be used here."""
    for name in _INSTALL:
        if name.partition(".")[0] == backend:
            _library(name)


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError, OSError) as error:  # torchcodec raises RuntimeError where FFmpeg is missing
        raise OptionError(
            f"The video backend {name.partition('.')[0]} can't be used here: {_reason(error)}. "
            f"Install it ({_INSTALL[name]}), or take the backend pyav."
        ) from error


@contextmanager
def translated(errors: tuple[type[Exception], ...]) -> Iterator[None]:
    """The one place where other people's exceptions become ours."""
    try:
        yield
    except errors as error:
        raise ReadError(f"can't be read: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """The heart of an error message: one short line without paths and source places."""
    text = getattr(error, "strerror", None) or (str(error).strip() or type(error).__name__).splitlines()[0]
    return " ".join(re.sub(r"\[[^\]]*\]|\S+\.cc:\d+:", "", text).split())[:120].rstrip(".")
