"""Damaged media files made from good ones, and what reading each of them is to say.

A case is (suffix, maker, reason): `maker(good, path)` writes `path` from the modality's own good file; the reason is a
regular expression, or `GOOD` for a file that only looks broken and must be read.
"""

import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import PIL.Image

from tests import clouds, images, sounds, videos

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

# Clouds and meshes


def spoilt_cloud(value: float, every: int = 1) -> bytes:
    """A .ply cloud in which some of the points are another number."""
    places = clouds.ball()
    places[::every] = value
    return clouds.ply(places)


def sparse_npy(good: Path, path: Path) -> None:
    """A header that promises twelve terabytes, and a file of as much nothing as there may be."""
    path.write_bytes(clouds.npy_head((10**12, 3)) + bytes(1000))


def long_line(good: Path, path: Path) -> None:
    """A hundred megabytes of numbers without a line's end."""
    with path.open("wb") as file:
        for _ in range(100):
            file.write(b"0.125 " * (2**20 // 6))


def npz_bomb(good: Path, path: Path) -> None:
    """A header that promises two gigabytes of zeros, all of them there as far as 100 MB."""
    head = clouds.npy_head((2048, 87_381, 3))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("points.npy", "w") as file:
        file.write(head)
        for _ in range(6):
            file.write(bytes(2**24))


def npz_liar(good: Path, path: Path) -> None:
    """A header of few points before half a gigabyte of zeros."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("points.npy", "w") as file:
        file.write(clouds.npy_head((300, 3)))
        for _ in range(2**29 // 2**24):
            file.write(bytes(2**24))


_BALL, _MANY = clouds.ball(), np.stack([clouds.ball()] * 4)
_SOLID = (clouds.TETRAHEDRON, clouds.FACES)
_PLY, _NPZ = clouds.ply(_BALL), clouds.npz(points=_BALL)
_HEADLESS = r"^no \.pcd header that can be understood$"
_SHORT = "^truncated: it holds less than its header says$"
_ODD_PLY = "^can't be read: PLY is unexpected length!$"
_NO_PLY = r"^no \.ply file$"

CLOUD: dict[str, Case] = {
    "empty": (".ply", holds(b""), "^empty file$"),
    "one byte": (".ply", first(1), _NO_PLY),
    "cut in its header": (".ply", first(60), r"^no \.ply header that can be understood$"),
    "header only": (".ply", holds(_PLY[: _PLY.index(b"end_header") + 11]), _ODD_PLY),
    "cut at a half": (".ply", cut(0.5), _ODD_PLY),
    "without its last byte": (".ply", first(-1), _ODD_PLY),
    "text cut at a half": (".ply", holds(clouds.ply(_BALL, form="ascii")[:5000]), "truncated|read"),
    "text": (".ply", holds(TEXT), _NO_PLY),
    "random bytes": (".ply", holds(NOISE), _NO_PLY),
    "zeroed middle": (".ply", zeroed(0.3, 0.6), GOOD),
    "zeroed wholly": (".ply", zeroed(0, 1), _NO_PLY),
    "sound": (".ply", as_wav, _NO_PLY),
    "array called ply": (".ply", holds(clouds.npy(_BALL)), _NO_PLY),
    "one point": (".ply", holds(clouds.ply(_BALL[:1])), "^1 distinct point: 16 groups need as many$"),
    "no point": (".ply", holds(clouds.ply(_BALL[:0])), "^no points$"),
    "fifteen points": (".ply", holds(clouds.ply(_BALL[:15])), "^too few distinct points: 16 groups need as many$"),
    "all the same": (".ply", holds(clouds.ply(np.ones((300, 3)))), "^1 distinct point: "),
    "not a number": (".ply", holds(spoilt_cloud(np.nan)), "^no point of 300 is finite$"),
    "infinite": (".ply", holds(spoilt_cloud(-np.inf)), "^no point of 300 is finite$"),
    "a depth sensor's holes": (".ply", holds(spoilt_cloud(np.nan, every=3)), GOOD),
    "huge": (".npy", holds(clouds.npy(_BALL * 1e300)), GOOD),
    "huge in part": (
        ".npy",
        holds(clouds.npy(np.where(_BALL > 0.9, 1e30, _BALL))),
        "distinct points?: 16 groups",
    ),
    "promises 10^12 points": (".ply", holds(clouds.ply(_BALL, head=(10**12, 0))), "^more than the 50,000,000 points"),
    "promises fewer than none": (".ply", holds(clouds.ply(_BALL, head=(-5, 0))), "^a header that tells of -5 points$"),
    "promises faces": (".ply", holds(clouds.ply(*_SOLID, head=(4, 10**12))), "^more than the 50,000,000 elements"),
    "face of no vertex": (
        ".ply",
        holds(clouds.ply(clouds.TETRAHEDRON, [(0, 1, 99)])),
        "^a face of vertex 99, and there are 4$",
    ),
    "face below zero": (".ply", holds(clouds.ply(clouds.TETRAHEDRON, [(0, 1, -2)])), "^a face of vertex"),
    "mesh without area": (".ply", holds(clouds.ply(clouds.TETRAHEDRON, [(0, 1, 1)])), "^a mesh without area$"),
    "mesh that is no number": (".ply", holds(clouds.ply(clouds.TETRAHEDRON * np.nan, clouds.FACES)), "^a mesh without"),
    "off cut in its header": (".off", holds(b"OFF\n4"), r"^no \.off header that can be understood$"),
    "off cut in its vertices": (".off", holds(clouds.off(*_SOLID)[:60]), "^damaged: a vertex or a face is incomplete"),
    "off cut in its faces": (".off", holds(clouds.off(*_SOLID)[:-9]), _SHORT),
    "off with text": (".off", holds(clouds.off(*_SOLID).replace(b"1.000000", b"one")), "^damaged: a vertex or a face"),
    "off promises 10^12": (".off", holds(clouds.off(*_SOLID, head=(10**12, 4))), "^more than the 50,000,000 points"),
    "off with a face of no vertex": (".off", holds(clouds.off(clouds.TETRAHEDRON, [(0, 1, 9)])), "^damaged: a vertex"),
    "random bytes in off": (".off", holds(NOISE), r"^no \.off header"),
    "obj cut in its vertices": (".obj", holds(clouds.obj(*_SOLID)[:56]), "^a vertex is incomplete$"),
    "obj with a face of no vertex": (".obj", holds(clouds.obj(clouds.TETRAHEDRON, [(0, 1, 98)])), "out of bounds"),
    "obj without faces": (".obj", holds(clouds.obj(_BALL, [])), GOOD),
    "obj that is text": (".obj", holds(TEXT), "^no points$"),
    "random bytes in obj": (".obj", holds(NOISE), r"^no \.obj file: it is no text$"),
    "stl cut at a half": (".stl", holds(clouds.stl(*_SOLID)[:180]), r"^truncated, or no \.stl file"),
    "stl promises 4 billion": (".stl", holds(clouds.stl(*_SOLID, count=2**32 - 1)), r"^truncated, or no \.stl file"),
    "stl in text cut at a half": (".stl", holds(clouds.stl_text(*_SOLID)[:200]), "^no points$"),
    "stl without triangles": (".stl", holds(clouds.stl(clouds.TETRAHEDRON, [])), "^no points$"),
    "random bytes in stl": (".stl", holds(NOISE), r"^truncated, or no \.stl file"),
    "xyz with a word": (".xyz", holds(clouds.xyz(_BALL) + b"\n1 2 three\n"), "^something else among its numbers$"),
    "xyz cut at a half": (".xyz", holds(clouds.xyz(_BALL)[:4004]), "^rows of 3 and of [12] columns$"),
    "xyz of two columns": (".xyz", holds(clouds.xyz(_BALL[:, :2])), "^2 columns; a point has at least 3$"),
    "xyz of comments": (".xyz", holds(b"# nothing\n" * 99), "^no points$"),
    "xyz that is text": (".xyz", holds(TEXT), "^something else among its numbers$"),
    "random bytes in xyz": (".xyz", holds(NOISE), "^rows of|^something else|^a line of more"),
    "a line of 100 MB": (".xyz", long_line, "^a line of more than 4096 characters$"),
    "npy cut at a half": (".npy", holds(clouds.npy(_BALL)[:3000]), _SHORT),
    "npy header only": (".npy", holds(clouds.npy_head((300, 3))), _SHORT),
    "npy promises 10^12": (".npy", sparse_npy, "^more than the 50,000,000 points that are read$"),
    "npy with objects": (".npy", holds(clouds.npy(np.array([[None] * 3] * 9))), "^an array of type object; points are"),
    "npy of words": (
        ".npy",
        holds(clouds.npy(np.array([["a"] * 3] * 9))),
        "^an array of type <U1; points are numbers$",
    ),
    "npy of complex numbers": (".npy", holds(clouds.npy(_BALL * 1j)), "^an array of type complex128; points are"),
    "npy of one axis": (".npy", holds(clouds.npy(_BALL[:, 0])), r"^an array of shape \(300,\); it must be"),
    "npy of four axes": (".npy", holds(clouds.npy(_MANY[None])), r"^an array of shape \(1, 4, 300, 3\); it must be"),
    "npy of two columns": (".npy", holds(clouds.npy(_BALL[:, :2])), r"^an array of shape \(300, 2\); it must be"),
    "npy of no clouds": (".npy", holds(clouds.npy(_MANY[:0])), "^no points$"),
    "npz cut at a half": (".npz", holds(_NPZ[: len(_NPZ) // 2]), "^can't be read: File is not a zip file$"),
    "npz with a hole": (".npz", holds(_NPZ[:2000] + bytes(500) + _NPZ[2500:]), "^damaged|Bad CRC"),
    "npz with objects": (".npz", holds(clouds.npz(points=np.array([[None] * 3] * 9))), "^an array of type object"),
    "npz of two clouds": (".npz", holds(clouds.npz(a=_BALL, b=_BALL)), r"^several arrays that may be points \(a, b\)"),
    "npz of labels": (".npz", holds(clouds.npz(label=np.arange(9))), "^no array of points$"),
    "npz bomb": (".npz", npz_bomb, r"^an array of 2 GiB in an \.npz file, where 1 is unpacked at most"),
    "npz with more than it says": (".npz", npz_liar, "^damaged: it holds more than its header says$"),
    "npz that promises too many clouds": (
        ".npz",
        holds(clouds.zipped(clouds.npy_head((10**12, 0, 3)))),
        "^no points$",
    ),
    "random bytes in npz": (".npz", holds(NOISE), "^can't be read: File is not a zip file$"),
    "pcd cut in its header": (".pcd", holds(clouds.pcd(_BALL)[:50]), _HEADLESS),
    "pcd cut at a half": (".pcd", holds(clouds.pcd(_BALL)[:2000]), _SHORT),
    "pcd promises 10^12": (".pcd", holds(clouds.pcd(_BALL, count=10**12)), "^more than the 50,000,000 points"),
    "random bytes in pcd": (".pcd", holds(NOISE), _HEADLESS),
    "pcd without places": (".pcd", holds(clouds.pcd(_BALL, names=("a", "b", "c"))), "open3d"),
    "dangling link": (".ply", linked, "^can't be read: No such file or directory$"),
    "locked": (".ply", locked, "^can't be read: Permission denied$"),
}


# Lines


def hundred_megabytes(of: bytes, start: bytes = b"") -> Make:
    """The same bytes over and over."""

    def make(good: Path, path: Path) -> None:
        with path.open("wb") as file:
            file.write(start)
            for _ in range(100):
                file.write(of * (2**20 // len(of)))

    return make


def jsonl(line: bytes) -> Make:
    """The same line three times."""
    return holds((line + b"\n") * 3)


_CAFE, _BINARY, _BLANK = "un café".encode("latin-1"), r"^binary: byte \d+ is zero$", "^nothing but blank lines$"

LINES: dict[str, Case] = {
    "empty": (".txt", holds(b""), "^empty file$"),
    "blank": (".txt", holds(b" \r\n\t\n\n"), _BLANK),
    "byte order mark alone": (".txt", holds(b"\xef\xbb\xbf"), _BLANK),
    "hundred megabytes of line ends": (".txt", hundred_megabytes(b"\n"), _BLANK),
    "one byte": (".txt", first(1), GOOD),
    "cut at a half": (".txt", cut(0.5), GOOD),
    "without its last byte": (".txt", first(-1), GOOD),
    "cut in a letter": (".txt", holds("un café".encode()[:-1]), r"^not UTF-8: byte 6 \(0xc3\), unexpected end"),
    "latin-1": (".txt", holds(_CAFE + b" noir\n"), r"^not UTF-8: byte 6 \(0xe9\), invalid continuation byte$"),
    "latin-1 in every line": (".txt", holds((_CAFE + b"\n") * 9), r"^not UTF-8: byte 6 \(0xe9\)"),
    "utf-16": (".txt", holds("a text".encode("utf-16")), "^not UTF-8: it begins as UTF-16 does$"),
    "utf-16 without a mark": (".txt", holds("a text".encode("utf-16-be")), "^binary: byte 0 is zero$"),
    "random bytes": (".txt", holds(NOISE), _BINARY),
    "random bytes in jsonl": (".jsonl", holds(NOISE), _BINARY),
    "zeroed middle": (".txt", zeroed(0.3, 0.6), _BINARY),
    "zeroed wholly": (".txt", zeroed(0, 1), _BINARY),
    "sound": (".txt", as_wav, _BINARY),
    "picture": (".txt", as_png, _BINARY),
    "a line of 100 MB": (".txt", hundred_megabytes(b"word "), "^a line of more than 1,000,000 bytes$"),
    "a word of 100 MB": (".txt", hundred_megabytes(b"x"), "^a line of more than 1,000,000 bytes$"),
    "a line of nearly 1 MB": (".txt", holds(b"word " * 199_999), GOOD),
    "a word of nearly 1 MB": (".txt", holds(b"x" * 999_999), GOOD),
    "a letter with half a million accents": (".txt", holds(b"a" + "\u0301".encode() * 499_999), GOOD),
    "spaces that are no line": (".txt", holds("\u00a0\u2003\u3000".encode()), "^nothing is left of it"),
    "control characters": (".txt", holds(bytes(range(1, 9)) + b"\x1b[31m"), GOOD),
    "line ends of old Macs": (".txt", holds(b"one\rtwo\rthree\r"), GOOD),
    "jsonl cut at a half": (".jsonl", holds(b'{"text": "a red'), "^not JSON: Unterminated string"),
    "jsonl that is text": (".jsonl", holds(TEXT[:45]), "^not JSON: Expecting value"),
    "jsonl in one array": (".jsonl", holds(b'[{"text": "a"}]'), "^a JSON list where an object with the field 'text'"),
    "jsonl over several lines": (".jsonl", holds(b'{\n"text": "a"\n}\n'), "^not JSON|^a JSON"),
    "jsonl without the field": (".jsonl", jsonl(b'{"caption": "a"}'), "^no field 'text'; there are 'caption'$"),
    "jsonl with a number": (".jsonl", jsonl(b'{"text": 3}'), "^the field 'text' is of type int, not a string$"),
    "jsonl with null": (".jsonl", jsonl(b'{"text": null}'), "^the field 'text' is of type NoneType"),
    "jsonl with a blank": (".jsonl", jsonl(b'{"text": " "}'), "^the field 'text' is blank$"),
    "jsonl with half a character": (".jsonl", jsonl(b'{"text": "\\udc00"}'), "half of a surrogate pair"),
    "jsonl with a zero character": (".jsonl", jsonl(b'{"text": "a \\u0000 b"}'), GOOD),
    "jsonl that is deep": (".jsonl", holds(b'{"text": ' + b"[" * 400_000), "^not JSON: "),
    "jsonl with a long number": (".jsonl", holds(b'{"n": ' + b"9" * 400_000 + b"}"), "^not JSON: Exceeds the limit"),
    "jsonl of 100 MB": (".jsonl", hundred_megabytes(b"x", b'{"text": "'), "^a line of more than 1,000,000 bytes$"),
    "dangling link": (".txt", linked, "^can't be read: No such file or directory$"),
    "locked": (".txt", locked, "^can't be read: Permission denied$"),
}

# Maps of numbers


def numbers_png(kind: type = np.uint16, high: int = 40_000) -> bytes:
    """A map of 48 x 64 numbers in PNG."""
    return images.encoded(np.linspace(0, high, 48 * 64).reshape(48, 64).astype(kind), "PNG")


def numbers_npy(kind: type = np.float32, fill: float | None = None) -> bytes:
    """The same as an array; `fill` stands in its first rows."""
    numbers = np.linspace(0, 6, 48 * 64).reshape(48, 64)
    if fill is not None:
        numbers[:8] = fill
    return clouds.npy(numbers.astype(kind))


_NO_MAP, _COLOURS = r"^no picture that can be recognised \(PNG, TIFF, NPY\)$", "^pixels of the kind RGB; a map has one"
MAP: dict[str, Case] = {
    "empty": ("PNG", holds(b""), "^empty file$"),
    "one byte": ("PNG", first(1), _NO_MAP),
    "cut at a half": ("PNG", cut(0.5), "truncated"),
    "cut in its tables": ("PNG", first(60), "."),
    "header only": ("PNG", holds(images.png_header(64, 48)), "pixels of the kind RGB"),
    "text": ("PNG", holds(TEXT), _NO_MAP),
    "random bytes": ("PNG", holds(NOISE), _NO_MAP),
    "zeroed wholly": ("PNG", zeroed(0, 1), _NO_MAP),
    "sound": ("PNG", as_wav, _NO_MAP),
    "picture": ("PNG", as_png, _COLOURS),
    "pixel bomb": ("PNG", pixel_bomb, "^more pixels than the 100,000,000 that are decoded$"),
    "array cut at a half": ("NPY", holds(numbers_npy()[:3000]), "^truncated: it holds less than its header says$"),
    "array header only": ("NPY", holds(clouds.npy_head((48, 64))), "^truncated"),
    "array that promises 10^12": ("NPY", holds(clouds.npy_head((10**6, 10**6))), "pixels; at most"),
    "array of objects": ("NPY", holds(clouds.npy(np.array([[None] * 3] * 9))), "^an array of type object; a map is"),
    "array of three axes": ("NPY", holds(clouds.npy(np.zeros((4, 4, 3)))), r"^an array of shape \(4, 4, 3\)"),
    "dangling link": ("PNG", linked, "^can't be read: No such file or directory$"),
    "locked": ("PNG", locked, "^can't be read: Permission denied$"),
}


def _named(name: str, cases: dict[str, Case]) -> dict[str, Case]:
    """The cases with the suffixes that files of this kind have."""
    return {case: (f".{name}.{suffix.lower()}", make, reason) for case, (suffix, make, reason) in cases.items()}


DEPTH = _named("depth", MAP) | {
    "bytes": (".depth.png", holds(numbers_png(np.uint8, 255)), "^numbers of type uint8; depths are of 16 bits"),
    "holes": (".depth.npy", holds(numbers_npy(fill=np.nan)), GOOD),
    "nothing but holes": (".depth.npy", holds(clouds.npy(np.full((48, 64), np.inf))), "^no depth of 3,072 is finite$"),
    "huge": (".depth.npy", holds(numbers_npy(np.float64, fill=1e300)), r"^a depth of 1e\+300; at most 1e\+09 is read$"),
}
SEMSEG = _named("semseg", MAP) | {
    "fractions": (".semseg.npy", holds(numbers_npy()), "^numbers of type float32; ids of classes are whole$"),
    "void in part": (".semseg.npy", holds(numbers_npy(np.uint8, fill=255)), GOOD),
    "nothing but void": (".semseg.npy", holds(clouds.npy(np.full((48, 64), 255, np.uint8))), GOOD),
    "other classes": (
        ".semseg.png",
        holds(numbers_png(np.uint8, 254)),
        "^the id 7, which is no class: they are 0 to 6",
    ),
    "negative ids": (".semseg.npy", holds(numbers_npy(np.int64, fill=-4)), "^the id -4, which is no class"),
}

CORPUS: dict[str, dict[str, Case]] = {
    "image": IMAGE,
    "depth": DEPTH,
    "semseg": SEMSEG,
    "sound": SOUND,
    "video": VIDEO,
    "cloud": CLOUD,
    "lines": LINES,
}


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
