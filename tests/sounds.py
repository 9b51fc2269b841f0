"""Sound files for tests, written with PyAV: any codec and container, and WAV headers that tell what is not so."""

import struct
from fractions import Fraction

import av
import numpy as np

CODECS = {
    "wav": "pcm_s16le",
    "flac": "flac",
    "mp3": "libmp3lame",
    "opus": "libopus",
    "m4a": "aac",
    "aac": "aac",
    "mp4": "aac",
    "mov": "pcm_s16le",
    "mkv": "aac",
    "webm": "libopus",
    "avi": "libmp3lame",
}
PCM = {np.dtype("<i2"): (1, 16), np.dtype("u1"): (1, 8), np.dtype("<f4"): (3, 32)}


def tone(seconds=1.0, rate=16000, hertz=440.0, channels=1):
    """A sine with a second one near the upper end, `[channels n]`."""
    time = np.arange(round(seconds * rate)) / rate
    wave = 0.4 * np.sin(2 * np.pi * hertz * time) + 0.05 * np.sin(2 * np.pi * 3011 * time)
    return np.stack([wave * (1 - 0.3 * i) for i in range(channels)]).astype(np.float32)


def murmur(seconds=1.0, rate=16000, channels=1, seed=0):
    """Noise from 80 to 3500 Hz: every moment sounds different, and coders keep its shape, `[channels n]`."""
    count = round(seconds * rate)
    spectrum = np.fft.rfft(np.random.default_rng(seed).normal(size=(channels, count)))
    hertz = np.fft.rfftfreq(count, 1 / rate)
    spectrum *= ((hertz > 80) & (hertz < 3500)) / np.maximum(hertz, 80)
    wave = np.fft.irfft(spectrum, count)
    return (0.5 * wave / np.abs(wave).max()).astype(np.float32)


def write(path, wave=None, rate=16000, *, codec=None, container=None):
    """Write a sound file.

    Args:
        path: its suffix says the container.
        wave: float `[channels n]`; a second of a tone without.
        rate: in hertz.
        codec: FFmpeg's name of the encoder, the usual one of the container without.
        container: options of the container.
    """
    wave = tone(rate=rate) if wave is None else wave
    layout = {1: "mono", 2: "stereo"}[len(wave)]
    with av.open(str(path), "w", container_options=container or {}) as file:
        stream = file.add_stream(codec or CODECS[path.suffix[1:]], rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave, np.float32), format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        context = stream.codec_context
        cut = av.AudioResampler(
            format=context.format.name, layout=layout, rate=rate, frame_size=context.frame_size or 1024
        )
        for part in cut.resample(frame) + cut.resample(None):
            file.mux(stream.encode(part))
        file.mux(stream.encode(None))
    return path


def wav(path, values, rate=16000, *, channels=1, size=None):
    """A WAV file byte by byte, with any header. `values` are int16, uint8 or float32; `size` is that of the header."""
    data = np.ascontiguousarray(values).tobytes()
    code, bits = PCM[values.dtype]
    size = len(data) if size is None else size
    block = channels * bits // 8
    form = struct.pack("<HHIIHH", code, channels, rate, min(rate * block, 2**32 - 1), block, bits)
    riff = min(size + 36, 2**32 - 1) if size else 0
    path.write_bytes(
        b"RIFF" + struct.pack("<I", riff) + b"WAVEfmt \x10\0\0\0" + form + b"data" + struct.pack("<I", size) + data
    )
    return path


def int16(wave):
    """Mono samples as 16-bit integers."""
    return np.round(np.asarray(wave).reshape(-1) * 32767).astype("<i2")
