"""Damaged media files made from good ones, and what reading each of them is to say.

A case is (suffix, maker, reason): `maker(good, path)` writes `path` from the modality's own good file; the reason is a
regular expression, or `GOOD` for a file that only looks broken and must be read.
"""

import os
import struct
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import PIL.Image

from tests import images, sounds, videos

GOOD = "good"
INVALID = "^can't be read: Invalid data found when processing input$"
Make = Callable[[Path, Path], object]
Case = tuple[str, Make, str]


# Damage to any file's bytes


def cut(share: float) -> Make:
    """The first part of the file."""
    return lambda good, path: path.write_bytes(good.read_bytes()[: int(good.stat().st_size * share)])


def first(count: int) -> Make:
    """The first bytes; without the last ones for a negative count."""
    return lambda good, path: path.write_bytes(good.read_bytes()[:count])


def holds(data: bytes) -> Make:
    """Bytes that have nothing to do with the good file."""
    return lambda good, path: path.write_bytes(data)


def zeroed(start: float, stop: float) -> Make:
    """Zeros over a part of the file."""

    def make(good: Path, path: Path) -> None:
        data = bytearray(good.read_bytes())
        a, b = int(len(data) * start), int(len(data) * stop)
        data[a:b] = bytes(b - a)
        path.write_bytes(data)

    return make


def linked(good: Path, path: Path) -> None:
    """A link to a file that is gone."""
    path.symlink_to(path.with_name("gone"))


def locked(good: Path, path: Path) -> None:
    """A file without the right to read it."""
    path.write_bytes(good.read_bytes())
    path.chmod(0)


def same(good: Path, path: Path) -> None:
    """The good file again."""
    path.write_bytes(good.read_bytes())


TEXT = b"this is a text\n" * 200
NOISE = np.random.default_rng(0).bytes(20_000)


def picture_bytes(form: str = "PNG") -> bytes:
    return images.encoded(images.picture(48, 64), form)


def sound_bytes(folder: Path) -> bytes:
    return sounds.wav(folder / ".sound", sounds.int16(sounds.murmur(2))).read_bytes()


def as_wav(good: Path, path: Path) -> None:
    """A good sound in WAV, whatever the suffix."""
    path.write_bytes(sound_bytes(path.parent))
    (path.parent / ".sound").unlink()


def as_mp4(good: Path, path: Path) -> None:
    """A good video with sound in MP4, whatever the suffix."""
    made = videos.write(path.parent / ".video.mp4", videos.pictures(12), sound=True)
    made.rename(path)


def as_png(good: Path, path: Path) -> None:
    """A good picture in PNG, whatever the suffix."""
    path.write_bytes(picture_bytes())


# Pictures


def jpeg(damage: Make) -> Make:
    """Damage to a JPEG."""

    def make(good: Path, path: Path) -> None:
        whole = path.with_name(".whole")
        whole.write_bytes(picture_bytes("JPEG"))
        damage(whole, path)
        whole.unlink()

    return make


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _png(width: int, height: int, *chunks: bytes) -> bytes:
    size = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + size + b"".join(chunks) + _chunk(b"IEND", b"")


def _zeros(mebibytes: int) -> bytes:
    """So many mebibytes of zeros, deflated: one of them over and over."""
    packer = zlib.compressobj(9, wbits=-15)
    one = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    length = struct.pack(">HH", mebibytes * 2**20 % 65521, 1)  # Adler-32 of zeros
    return b"\x78\xda" + one * mebibytes + packer.flush() + length


def pixel_bomb(good: Path, path: Path) -> None:
    """60000 x 60000 pixels in a small file, all of them there as far as 100 MB."""
    path.write_bytes(_png(60_000, 60_000, _chunk(b"IDAT", _zeros(100))))


def data_bomb(good: Path, path: Path) -> None:
    """A picture of 32 x 32 pixels followed by a gigabyte of zeros in the same stream."""
    path.write_bytes(_png(32, 32, _chunk(b"IDAT", _zeros(1024))))


def text_bomb(good: Path, path: Path) -> None:
    """A note of a gigabyte beside the pixels."""
    note = _chunk(b"zTXt", b"note\0\0" + _zeros(1024))
    path.write_bytes(_png(32, 32, note, _chunk(b"IDAT", zlib.compress(bytes(33 * 32)))))


def large_picture(good: Path, path: Path) -> None:
    """Nearly as many pixels as are read."""
    PIL.Image.new("L", (9_900, 9_900), 128).save(path, "PNG")


IMAGE: dict[str, Case] = {
    "empty": (".png", holds(b""), "^empty file$"),
    "one byte": (".png", first(1), "^no picture that can be recognised"),
    "cut in its magic number": (".png", first(6), "^no picture that can be recognised"),
    "cut in its header": (".png", first(20), "^can't be read: Truncated File Read$"),
    "cut at a tenth": (".png", cut(0.1), "truncated"),
    "cut at a half": (".png", cut(0.5), "truncated"),
    "cut near its end": (".png", cut(0.95), "truncated"),
    "jpeg cut at a half": (".jpg", jpeg(cut(0.5)), "(?i)truncated"),
    "jpeg without its last byte": (".jpg", jpeg(first(-1)), "truncated"),
    "text": (".png", holds(TEXT), "^no picture that can be recognised"),
    "text in webp": (".webp", holds(TEXT), "^no picture that can be recognised"),
    "random bytes": (".png", holds(NOISE), "^no picture that can be recognised"),
    "random bytes in jpeg": (".jpg", holds(NOISE), "^no picture that can be recognised"),
    "zeroed middle": (".png", zeroed(0.3, 0.6), "^can't be read: .*(data stream|broken)"),
    "a hole in a jpeg": (".jpg", jpeg(zeroed(0.6, 0.7)), GOOD),
    "zeroed wholly": (".png", zeroed(0, 1), "^no picture that can be recognised"),
    "sound": (".png", as_wav, "^no picture that can be recognised"),
    "video": (".png", as_mp4, "^no picture that can be recognised"),
    "jpeg called png": (".png", jpeg(same), GOOD),
    "header only": (".png", holds(images.png_header(64, 48)), "truncated"),
    "no columns": (".png", holds(images.png_header(0, 5)), "^no picture that can be recognised"),
    "pixel bomb": (".png", pixel_bomb, "^more pixels than the 100,000,000 that are decoded$"),
    "data bomb": (".png", data_bomb, GOOD),
    "text bomb": (".png", text_bomb, "^can't be read: Decompressed data too large"),
    "large": (".png", large_picture, GOOD),
    "one pixel": (".png", holds(images.encoded(np.zeros((1, 1, 3), np.uint8), "PNG")), GOOD),
    "dangling link": (".png", linked, "^can't be read: No such file or directory$"),
    "locked": (".png", locked, "^can't be read: Permission denied$"),
}


# Sounds


def pcm(count: int, value: float = 0.0, kind: str = "<i2", channels: int = 1, size: int | None = None) -> Make:
    """A WAV file of equal samples, with any header."""
    return lambda good, path: sounds.wav(path, np.full(count, value, kind), channels=channels, size=size)


def nan_in_the_middle(good: Path, path: Path) -> None:
    """One sample that is not a number, where the evaluation view lies."""
    values = sounds.murmur(2)[0].astype("<f4")
    values[len(values) // 2] = np.nan
    sounds.wav(path, values)


def flac(damage: Make) -> Make:
    """Damage to a FLAC file."""

    def make(good: Path, path: Path) -> None:
        whole = sounds.write(path.with_name(".whole.flac"), sounds.murmur(2))
        damage(whole, path)
        whole.unlink()

    return make


def long_silence(good: Path, path: Path) -> None:
    """Two hours of silence in a small file."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("flac", rate=16000, layout="mono")
        minute = np.zeros((1, 60 * 16000), np.int16)
        for number in range(120):
            frame = av.AudioFrame.from_ndarray(minute, format="s16", layout="mono")
            frame.sample_rate, frame.pts = 16000, number * minute.shape[1]
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


SOUND: dict[str, Case] = {
    "empty": (".wav", holds(b""), "^empty file$"),
    "one byte": (".wav", first(1), INVALID),
    "cut in its header": (".wav", first(20), INVALID),
    "header only": (".wav", first(44), "^no samples$"),
    "cut at a tenth": (".wav", cut(0.1), "^truncated"),
    "cut at a half": (".wav", cut(0.5), "^truncated"),
    "cut near its end": (".wav", cut(0.95), "^truncated"),
    "without its last byte": (".wav", first(-1), "^truncated"),
    "flac cut at a half": (".flac", flac(cut(0.5)), "^truncated"),
    "flac with a hole": (".flac", flac(zeroed(0.4, 0.6)), "^damaged: a part of it is missing$"),
    "text": (".wav", holds(TEXT), INVALID),
    "text in mp3": (".mp3", holds(TEXT), INVALID),
    "random bytes": (".wav", holds(NOISE), INVALID),
    "random bytes in mp3": (".mp3", holds(NOISE), INVALID),
    "random bytes in flac": (".flac", holds(NOISE), "^sound without channels or rate$"),
    "random bytes in ogg": (".ogg", holds(NOISE), "^can't be read: End of file$"),
    "zeroed middle": (".wav", zeroed(0.3, 0.6), GOOD),
    "zeroed wholly": (".wav", zeroed(0, 1), INVALID),
    "picture": (".wav", as_png, "^no sound stream$"),
    "picture in mp3": (".mp3", as_png, "^no sound stream$"),
    "video called wav": (".wav", as_mp4, GOOD),
    "silence": (".wav", pcm(32000), GOOD),
    "no samples": (".wav", pcm(0), "^no samples$"),
    "no channels": (".wav", pcm(16000, channels=0), "^sound without channels or rate$"),
    "one sample": (".wav", pcm(1), "^1 samples? at 16000 Hz, shorter than one window of 25 ms$"),
    "not a number": (".wav", pcm(32000, np.nan, "<f4"), "^samples that are not finite$"),
    "not a number in the middle": (".wav", nan_in_the_middle, "^samples that are not finite$"),
    "infinite": (".wav", pcm(32000, np.inf, "<f4"), "^samples that are not finite$"),
    "loud": (".wav", pcm(32000, 1e30, "<f4"), GOOD),
    "promises 2 GB": (".wav", pcm(32000, size=2**31 - 2**20), "^truncated"),
    "promises 4 GB, as a pipe does": (".wav", pcm(32000, size=2**32 - 2), GOOD),
    "two hours of silence": (".flac", long_silence, GOOD),
    "video without sound": (".mp4", lambda good, path: videos.write(path, videos.pictures(8)), "^no sound stream$"),
    "dangling link": (".wav", linked, "^can't be read: No such file or directory$"),
    "locked": (".wav", locked, "^can't be read: Permission denied$"),
}


# Videos


def fast(damage: Make) -> Make:
    """Damage to an MP4 that has its index first."""

    def make(good: Path, path: Path) -> None:
        whole = videos.write(path.with_name(".whole.mp4"), videos.pictures(40), container={"movflags": "faststart"})
        damage(whole, path)
        whole.unlink()

    return make


def container(suffix: str, damage: Make) -> Make:
    """Damage to a video in another container."""

    def make(good: Path, path: Path) -> None:
        whole = videos.write(path.with_name(f".whole{suffix}"), videos.pictures(40))
        damage(whole, path)
        whole.unlink()

    return make


def frame_bomb(good: Path, path: Path) -> None:
    """Sixteen frames of 12000 x 12000 equal pixels, in a small file."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("png", rate=25)
        stream.height = stream.width = 12_000
        stream.pix_fmt = "gray"
        frame = av.VideoFrame.from_ndarray(np.zeros((12_000, 12_000), np.uint8), format="gray")
        frame.pts = 0
        packets = [bytes(packet) for packet in [*stream.encode(frame), *stream.encode(None)]]
        for number in range(16):
            packet = av.Packet(packets[0])
            packet.stream, packet.pts, packet.dts, packet.is_keyframe = stream, number, number, True
            packet.time_base = Fraction(1, 25)
            file.mux(packet)


def no_frames(good: Path, path: Path) -> None:
    """A video stream in which nothing was written."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        file.start_encoding()


VIDEO: dict[str, Case] = {
    "empty": (".mp4", holds(b""), "^empty file$"),
    "one byte": (".mp4", first(1), INVALID),
    "cut in its header": (".mp4", first(20), INVALID),
    "cut at a tenth": (".mp4", cut(0.1), INVALID),
    "cut at a half": (".mp4", cut(0.5), INVALID),
    "cut near its end": (".mp4", cut(0.95), INVALID),
    "index first, cut at a tenth": (".mp4", fast(cut(0.1)), "^FFmpeg has no decoder for its video stream$"),
    "index first, cut at a half": (".mp4", fast(cut(0.5)), GOOD),
    "avi cut at its end": (".avi", container(".avi", cut(0.8)), GOOD),
    "mkv cut at a half": (".mkv", container(".mkv", cut(0.5)), GOOD),
    "text": (".mp4", holds(TEXT), INVALID),
    "text in avi": (".avi", holds(TEXT), INVALID),
    "random bytes": (".mp4", holds(NOISE), INVALID),
    "random bytes in webm": (".webm", holds(NOISE), INVALID),
    "zeroed middle": (".mp4", zeroed(0.3, 0.6), INVALID),
    "zeroed wholly": (".mp4", zeroed(0, 1), INVALID),
    "sound": (".mp4", as_wav, "^no video stream$"),
    "sound track only": (".mp4", lambda good, path: videos.write(path, sound=True), "^no video stream$"),
    "picture": (".mp4", as_png, GOOD),
    "picture in avi": (".avi", as_png, GOOD),
    "one frame": (".mp4", lambda good, path: videos.write(path, videos.pictures(1)), GOOD),
    "no frames": (".avi", no_frames, "^no frames$"),
    "frame bomb": (".mov", frame_bomb, "^frames of 12000 x 12000 pixels; at most 36,000,000 are decoded$"),
    "dangling link": (".mp4", linked, "^can't be read: No such file or directory$"),
    "locked": (".mp4", locked, "^can't be read: Permission denied$"),
}

CORPUS: dict[str, dict[str, Case]] = {"image": IMAGE, "sound": SOUND, "video": VIDEO}


def may_everything() -> bool:
    """Whether no file is locked for this user."""
    return os.geteuid() == 0


def cases(kind: str) -> dict[str, Case]:
    """The cases that can be made here."""
    return {name: case for name, case in CORPUS[kind].items() if name != "locked" or not may_everything()}


def spoil(kind: str, good: Path, folder: Path) -> dict[str, Path]:
    """Write every case into a folder; the file of each by its name."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {}
    for name, (suffix, make, _) in cases(kind).items():
        made[name] = folder / f"{name.replace(',', '').replace(' ', '_')}{suffix}"
        make(good, made[name])
    return made
