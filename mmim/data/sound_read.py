"""Windows of a sound file, or of a video's sound track, as mono samples at the rate that is asked for, with PyAV.

Memory depends on the window and not on the file: what lies before it is passed over or decoded block by block and
dropped, and nothing behind it is touched. A file of hours, or a small one that unpacks to hours, costs time at most.

- The length is the decoder's: whatever priming and padding the file tells of is gone, and what an AAC encoder filled
  its last block with stays.
- WAV, FLAC and the MP4 family have time stamps that count samples, so a window is sought, a little early because a
  block of AAC needs the one before. The others (MP3, Ogg, Matroska, AVI ...) are decoded from their start: their time
  stamps are rounded to milliseconds, estimated, or wrong after a seek near the end (Vorbis).
- A file that holds less than its own header promises is refused, where the format has such a promise (WAV, FLAC, MP4).
  Of others that break off what is there is read. A FLAC file with a hole is refused where a window meets it.
- Resampling is torchaudio's, with a kernel of bounded size: a window equals the same part of the whole file resampled.

One thread, since the loader's workers are the parallelism.
"""

import math
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.stream import Discard
from jaxtyping import Float32
from torch import Tensor
from torchaudio.functional import resample

from mmim.data.media_read import translated
from mmim.errors import ReadError

Wave = Float32[np.ndarray, " n"]

SEEKS = ("wav", "w64", "aiff", "flac", "mov,mp4,m4a,3gp,3g2,mj2")
"""FFmpeg's names of the formats in which a seek finds the very sample."""
EARLY = 0.2
"""Seconds to seek before a window: what the first block after a seek lacks is over by then."""
RATES = (1000, 768000)
"""Lowest and highest rate of a file, in hertz: others are mistakes, and the memory of a window grows with the rate."""
STEPS = 640
"""Samples out per period of the resampling kernel, at most. 11025 Hz needs 640; odder rates are off by a millionth."""
UNKNOWN = 2**31 - 2**16
"""From here on the size in a WAV header means that it was not known when the header was written (pipes)."""
FULL_SCALE = {"uint8": 2.0**7, "int16": 2.0**15, "int32": 2.0**31, "float32": 1.0, "float64": 1.0}
LONGEST = 60
"""Seconds of a packet at most: FFmpeg lets the last one of a Vorbis file last minus a few samples, modulo 2 ** 32."""
OPENING = {"max_probe_packets": "1"}
"""Or it reads two megabytes of each WAV file in search of DTS disguised as samples, at ten times the cost."""
ERRORS = (av.FFmpegError, OSError)


class SoundFile:
    """An open file: `count` samples at `rate`, and any window of them.

    Args:
        path: of a sound file, or of a video with a sound track; of several tracks, the one that FFmpeg thinks best.
        rate: to resample to, in hertz.
    """

    def __init__(self, path: Path, rate: int) -> None:
        self._path = path
        self._track = _Track(path)
        try:
            self._sought = self._track.format in SEEKS and bool(self._track.stream.duration)
            length = self._length()
        except BaseException:
            self.close()
            raise
        step = Fraction(self._track.rate, rate).limit_denominator(STEPS)
        self._step = step.numerator, step.denominator
        self.count = math.ceil(length / step)

    def _length(self) -> int:
        """Of the file at its own rate, in samples."""
        if self._sought and self._track.seek(self._track.promised - 1):
            return self._track.reach()
        self._open_anew_if_used()
        return self._track.passed_length()

    def window(self, start: int, count: int) -> Float32[Tensor, " n"]:
        """Samples `start ... start + count - 1`, in [-1, 1] but for files that hold louder floats; fewer at the end.

        Raises:
            ReadError: the file is damaged there, or holds nothing.
        """
        taken, given = self._step
        wide = 6 * taken / (0.99 * min(taken, given))  # half the width of torchaudio's kernel, in samples of the file
        more = 0 if taken == given else math.ceil(wide / taken)
        first = max(start // given - more, 0)
        last = math.ceil((start + count) / given) + more
        wave = torch.from_numpy(self._mono(first * taken, last * taken))
        if taken != given:
            wave = resample(wave, taken, given)
        wave = wave[start - first * given :][:count]
        if not len(wave):
            raise ReadError("no samples")
        if not wave.isfinite().all():
            raise ReadError("samples that are not finite")
        return wave

    def _mono(self, start: int, stop: int) -> Wave:
        """Samples of the file, channels averaged; fewer at its end."""
        blocks: list[Wave] = []
        for place, wave in self._blocks(start):
            blocks.append(wave[max(start - place, 0) : max(stop - place, 0)])
            if place + len(wave) >= stop:
                break
        return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)

    def _blocks(self, start: int) -> Iterator[tuple[int, Wave]]:
        """Decoded blocks and their places in the file, from the start of a window on or a little before."""
        if self._sought:
            early = start - round(EARLY * self._track.rate)
            self._open_anew_if_used()
            if self._track.seek(early):
                running = self._track.blocks()
                first = next(running, None)
                if first is not None and first[0] <= max(early, 0):
                    yield first
                    yield from running
                    return
        self._open_anew_if_used()
        yield from self._track.blocks(0)

    def _open_anew_if_used(self) -> None:
        """A seek back to the start can lose the first block, and AAC's noise depends on what was decoded before."""
        if self._track.used:
            self.close()
            self._track = _Track(self._path)

    def close(self) -> None:
        """Give the file back."""
        self._track.container.close()


@contextmanager
def open_sound(path: Path, rate: int) -> Iterator[SoundFile]:
    """Open a sound for as long as the block runs.

    Raises:
        ReadError: it holds no sound that can be read. The message is a short reason without the path.
    """
    with translated((OSError,)):
        if path.stat().st_size == 0:
            raise ReadError("empty file")
    sound = SoundFile(path, rate)
    try:
        yield sound
    finally:
        sound.close()


class _Track:
    """The sound track of an opened file. Places count its samples, and are those of the decoder."""

    used = False
    """Whether something has been decoded or passed over, or a seek has failed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with translated(ERRORS):
            self.container: Any = av.open(str(path), options=OPENING, metadata_errors="replace")
        try:
            self._choose()
        except BaseException:
            self.container.close()
            raise

    def _choose(self) -> None:
        self.stream = self.container.streams.best("audio")
        if self.stream is None:
            raise ReadError("sound without channels or rate" if self.container.streams.audio else "no sound stream")
        if self.stream.codec_context is None:
            raise ReadError("FFmpeg has no decoder for its sound")
        self.stream.codec_context.thread_count = 1
        for other in self.container.streams:
            if other is not self.stream:
                other.discard = Discard.all  # pictures are not even read where the format has an index
        self.rate: int = self.stream.rate
        if not RATES[0] <= self.rate <= RATES[1]:
            raise ReadError(f"a sample rate of {self.rate} Hz, outside {RATES[0]} to {RATES[1]}")
        self._origin = self.stream.start_time or 0

    @property
    def format(self) -> str:
        """FFmpeg's name of the file's format."""
        return str(self.container.format.name)

    @property
    def promised(self) -> int:
        """The length in samples that the file's header tells, if any."""
        return self._samples(self._origin + (self.stream.duration or 0))

    def reach(self) -> int:
        """The length in samples of a file with a promised length, from near its end on."""
        with translated(ERRORS):
            last = deque(self._packets(), maxlen=1)
        cut_off = not last or (last[0].is_corrupt and self.format != "wav")
        length = 0 if cut_off else self._samples(last[0].pts + last[0].duration)
        if cut_off or self._breaks_off(length):
            raise ReadError("truncated: it holds less than its header says")
        return length

    def _breaks_off(self, length: int) -> bool:
        if self.format == "wav":  # of which FFmpeg makes up a new length, and marks the last packet also after a pipe
            return _shorter_than_its_header(self._path)
        return self.format == "flac" and length < self.promised

    def passed_length(self) -> int:
        """The length in samples, by the time stamps of all packets."""
        end, self.used = self._origin, True
        with translated(ERRORS):
            for packet in self._packets():
                lasting = packet.duration if packet.duration * self.stream.time_base < LONGEST else 0
                end = max(end, packet.pts + lasting)
        if end == self._origin:
            raise ReadError("no samples")
        if self._breaks_off(self._samples(end)):
            raise ReadError("truncated: it holds less than its header says")
        return self._samples(end)

    def _packets(self) -> Iterator[Any]:
        return (packet for packet in self.container.demux(self.stream) if packet.size and packet.pts is not None)

    def seek(self, place: int) -> bool:
        """Go to the packet before a place; False where FFmpeg finds none, as near the end of some FLAC files."""
        try:
            self.container.seek(self._origin + round(place / self.rate / self.stream.time_base), stream=self.stream)
        except ERRORS:
            self.used = True
            return False
        return True

    def blocks(self, place: int | None = None) -> Iterator[tuple[int, Wave]]:
        """Decoded blocks from here on, with their places: counted from this one, or from the first one's time stamp."""
        self.used = True
        with translated(ERRORS):
            for packet in self.container.demux(self.stream):
                for frame in packet.decode():
                    if frame.sample_rate != self.rate:
                        raise ReadError(f"its sample rate changes from {self.rate} to {frame.sample_rate} Hz")
                    wave = _averaged(frame)
                    place = self._samples(frame.pts or 0) if place is None else place
                    if self.format == "flac" and (frame.pts is None or self._samples(frame.pts) != place):
                        raise ReadError("damaged: a part of it is missing")  # FFmpeg goes on behind it
                    yield place, wave
                    place += len(wave)

    def _samples(self, time: int) -> int:
        """A time stamp as a place."""
        place: Fraction = (time - self._origin) * self.stream.time_base * self.rate
        return round(place)


def _averaged(frame: Any) -> Wave:
    """The mean of a decoded block's channels, full scale at 1."""
    values = frame.to_ndarray()
    scale = FULL_SCALE.get(values.dtype.name)
    if scale is None:
        raise ReadError(f"samples of type {values.dtype.name}")
    channels = values if frame.format.is_planar else values.reshape(frame.samples, -1).T
    shift = scale if values.dtype == np.uint8 else 0.0  # silence of 8-bit files is 128
    mean: Wave = ((channels.astype(np.float64, order="C").mean(axis=0) - shift) / scale).astype(np.float32)
    return mean


def _shorter_than_its_header(path: Path) -> bool:
    """Whether a WAV file ends before the size that its first bytes tell."""
    with path.open("rb") as file:
        head = file.read(12)
    size = int.from_bytes(head[4:8], "little")
    return head[:4] == b"RIFF" and head[8:] == b"WAVE" and path.stat().st_size + 1024 < size < UNKNOWN
