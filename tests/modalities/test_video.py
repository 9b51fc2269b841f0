import pickle
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch.testing import assert_close

from mmim.data.world import scenes
from mmim.draw import Draw
from mmim.errors import OptionError, ReadError
from mmim.modality import Source
from modalities.video import Video
from tests.videos import number_of, pictures, real_clip, write

REFERENCE = Path(__file__).parents[1] / "reference"
SMALL = Video(frames=4, stride=2, size=32, patch=8, crop="centre")


def draw(key):
    return Draw(torch.tensor([key]))


def clips(video, batch=2):
    return torch.randint(0, 256, (batch, 3, video.frames, video.size, video.size), dtype=torch.uint8)


def numbers(clip):
    return [number_of(frame.permute(1, 2, 0).numpy()) for frame in clip.unbind(1)]


@pytest.fixture
def source(tmp_path):
    return Source(write(tmp_path / "clip.mp4", pictures(40, 48, 64)))


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def reference(name):
    with safe_open(REFERENCE / f"{name}.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, it is no dict


# Reading


@pytest.mark.parametrize("backend", ["pyav", "decord"])
@pytest.mark.parametrize("crop", ["multi_scale", "random_resized", "centre"])
def test_a_clip_has_the_declared_shape_and_type(crop, backend, source):
    video = replace(SMALL, crop=crop, backend=backend)
    for clip in (video.read(source, draw(3)), video.read(source, None)):
        assert (clip.shape, clip.dtype) == (video.blank().shape, video.blank().dtype)
        assert clip.is_contiguous()


def test_frames_are_stride_apart_from_a_uniform_start(tmp_path):
    source = Source(write(tmp_path / "clip.mp4", pictures(12)))
    starts = []
    for key in range(100):
        shown = numbers(SMALL.read(source, draw(key)))
        assert np.diff(shown).tolist() == [2, 2, 2]
        starts.append(shown[0])
    counts = [starts.count(start) for start in range(12 - 4 * 2 + 1)]  # as in VideoMAE, frames * stride must fit
    assert sum(counts) == 100
    assert min(counts) > 10


def test_without_a_draw_the_clip_is_the_middle_one(source):
    assert numbers(SMALL.read(source, None)) == [16, 18, 20, 22]


@pytest.mark.parametrize(
    ("length", "expected"), [(5, [0, 2, 4, 4]), (6, [0, 2, 4, 4]), (2, [0, 0, 0, 0]), (1, [0] * 4)]
)
def test_in_a_file_shorter_than_the_clip_the_last_frame_reached_is_repeated(length, expected, tmp_path):
    source = Source(write(tmp_path / "clip.mp4", pictures(length)))
    assert numbers(SMALL.read(source, None)) == expected
    assert numbers(SMALL.read(source, draw(1))) == expected


def test_equal_keys_read_equal_clips_and_other_keys_others(source):
    video = Video(frames=4, stride=2, size=32, patch=8, flip=True)
    first = [video.read(source, draw(key)) for key in range(12)]
    assert all(torch.equal(clip, video.read(source, draw(key))) for key, clip in enumerate(first))
    assert len({clip.numpy().tobytes() for clip in first}) == 12


def test_several_clips_of_one_decode_equal_clips_read_one_by_one(source):
    video = Video(frames=4, stride=2, size=32, patch=8, flip=True)
    keys = [draw(key) for key in (5, 1, 5, 9)]
    for together, alone in zip(video.read_many(source, keys), [video.read(source, key) for key in keys], strict=True):
        assert torch.equal(together, alone)


def test_half_of_the_clips_are_mirrored_only_if_asked(source):
    plain = [SMALL.read(source, draw(key)) for key in range(40)]
    flipped = [replace(SMALL, flip=True).read(source, draw(key)) for key in range(40)]
    same = [torch.equal(a, b) for a, b in zip(plain, flipped, strict=True)]
    assert 10 < sum(same) < 30
    assert all(torch.equal(a, b.flip(3)) for a, b, equal in zip(plain, flipped, same, strict=True) if not equal)
    assert torch.equal(replace(SMALL, flip=True).read(source, None), SMALL.read(source, None))


def test_another_process_reads_the_same_clip(source):
    video = Video(frames=4, stride=2, size=32, patch=8, flip=True)
    assert pickle.loads(pickle.dumps(video)) == video
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        there = pool.submit(_read, video, source, 7).result()
    np.testing.assert_array_equal(there, video.read(source, draw(7)).numpy())


def _read(video, source, key):
    return video.read(source, draw(key)).numpy()


def test_an_unreadable_file_gives_its_reason(tmp_path):
    (tmp_path / "clip.mp4").touch()
    with pytest.raises(ReadError, match=r"^empty file$"):
        SMALL.read(Source(tmp_path / "clip.mp4"), None)


@pytest.mark.parametrize("backend", ["pyav", "decord"])
def test_real_clips_are_read(backend, tmp_path):
    path = real_clip(tmp_path, "pairs/grid_av.tar", "grid_av/bbaf4p.mp4")
    clip = Video(size=64, patch=8, backend=backend).read(Source(path), draw(1))
    assert clip.shape == (3, 16, 64, 64)
    assert 20 < clip.float().std() < 100  # a face, neither flat nor noise
    assert (clip.float().diff(dim=1).abs().mean(dim=(0, 2, 3)) > 0).all()  # which moves


# Tokens


def test_tokens_lie_time_first_and_hold_their_tubelet():
    raw = clips(SMALL)
    tokens = SMALL.tokenize(raw)
    assert tokens.grid == (2, 4, 4)
    assert tokens.values.shape == (2, 32, *SMALL.piece)
    assert tokens.coords.shape == (1, 32, 3)
    shares = SMALL.raw(tokens.values)
    for at, (t, row, column) in enumerate(tokens.coords[0].long().tolist()):
        place = raw[:, :, 2 * t : 2 * t + 2, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        assert_close(shares[:, at], place / 255, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 3, 4, 32, 32), (1, 3, 6, 48, 16)])
def test_untokenize_is_the_inverse_at_any_size_that_divides(shape):
    raw = torch.randint(0, 256, shape, dtype=torch.uint8)
    tokens = SMALL.tokenize(raw)
    assert_close(SMALL.untokenize(SMALL.raw(tokens.values), tokens), raw / 255, rtol=0, atol=1e-6)
    assert torch.equal((SMALL.untokenize(SMALL.raw(tokens.values), tokens) * 255).round().to(torch.uint8), raw)


def test_a_clip_that_the_patches_do_not_divide_is_refused():
    with pytest.raises(OptionError, match=r"patches of \(2, 8, 8\) do not divide \(4, 36, 32\)"):
        SMALL.tokenize(torch.zeros(1, 3, 4, 36, 32, dtype=torch.uint8))


def test_normalisation_is_exact_in_float64(float64):
    raw, expected = reference("targets")["input/clip"], reference("targets")["out/clip_normalised"]
    video = Video(frames=4, size=48, patch=8)
    tokens = video.tokenize(raw)
    assert tokens.values.dtype == torch.float64
    assert_close(video.untokenize(tokens.values, tokens), expected.double(), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(("normalise", "key"), [("channel", "out/videomae_norm"), ("none", "out/videomae_raw")])
def test_targets_equal_those_of_the_official_code(normalise, key, float64):
    # float64, since constant patches give rounding noise over 1e-6 in float32: README of tests/reference
    file = reference("targets")
    video = Video(frames=4, size=48, patch=8)
    tokens = video.tokenize(file["input/clip"])
    ids = torch.arange(tokens.count).expand(2, -1)
    target = replace(Video.target, normalise=normalise).values(tokens, ids, video)
    assert_close(target, file[key].double(), rtol=2e-6, atol=2e-6)


def test_positions_equal_the_official_table(float64):
    video = Video(frames=16, size=32, patch=8)
    tokens = video.tokenize(clips(video, 1))
    expected = reference("videomae")["fixed/encoder.pos_embed"].double()
    assert_close(video.position(48)(tokens), expected, rtol=2e-6, atol=2e-6)


def test_the_embedder_is_the_convolution_of_the_official_code():
    video = Video(frames=4, size=32, patch=8)
    tokens, embedder = video.tokenize(clips(video)), video.embedder(48)
    assert embedder.proj.weight.shape == (48, 3, 2, 8, 8)
    maps = embedder.proj(video.untokenize(tokens.values, tokens)).flatten(2).transpose(1, 2)
    assert_close(embedder(tokens.values), maps, rtol=1e-5, atol=1e-5)


# Pictures, features, the sample world


def test_a_picture_is_a_strip_of_at_most_eight_frames():
    data = torch.zeros(2, 3, 16, 8, 12)
    data[:, 0] = torch.linspace(0, 1, 16)[:, None, None]
    strip = SMALL.render(data)[0]
    assert (strip.shape, strip.dtype) == ((8, 8 * 12, 3), np.uint8)
    shown = strip[0, ::12, 0]
    assert (shown[0], shown[-1]) == (0, 255)
    assert (np.diff(shown.astype(int)) > 0).all()
    assert SMALL.render(data[:, :, :3] * 2 - 1)[1].shape == (8, 3 * 12, 3)


def test_features_are_mean_colours_of_blocks():
    raw = torch.full((2, 3, 16, 32, 32), 51, dtype=torch.uint8)
    raw[1, 0, 4:8, 4:8] = 255
    features = SMALL.features(raw)
    assert features.shape == (2, 3 * 4 * 8 * 8)
    assert_close(features[0], torch.full((768,), 0.2))
    blocks = torch.full((3, 4, 8, 8), 0.2)
    blocks[0, 1, 1] = 1
    assert_close(features[1].reshape(3, 4, 8, 8), blocks)


def test_a_scene_becomes_a_file_that_can_be_read_again(tmp_path):
    first, second = scenes(2, seed=0)
    for name, scene in (("a", first), ("b", first), ("c", second)):
        SMALL.depict(scene, tmp_path / f"{name}{SMALL.suffix}")
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    clips = [SMALL.read(Source(tmp_path / f"{name}.mp4"), None) for name in "abc"]
    assert torch.equal(clips[0], clips[1])
    assert not torch.equal(clips[0], clips[2])


def test_a_scene_has_a_sound_track_as_long_as_its_pictures(tmp_path):
    SMALL.depict(scenes(1, seed=0)[0], tmp_path / "scene.mp4")
    with av.open(str(tmp_path / "scene.mp4")) as file:
        (stream,) = file.streams.audio
        blocks = [frame.to_ndarray() for frame in file.decode(stream)]
        assert (stream.rate, stream.layout.name) == (16000, "stereo")
    sound = np.concatenate(blocks, axis=1)
    assert sound.shape[1] / 16000 == pytest.approx(2, abs=0.1)  # AAC fills up its last block
    assert 0.01 < np.abs(sound).mean() < 0.9


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 100}, r"patches of \(2, 16, 16\) do not divide \(16, 100, 100\)"),
        ({"frames": 15}, r"do not divide \(15, 224, 224\)"),
        ({"stride": 0}, "Video.stride is 0; it must be at least 1"),
        ({"patch": -16}, "Video.patch is -16"),
        ({"scale": (0.5, 1.5)}, r"Video.scale is \(0.5, 1.5\)"),
        ({"ratio": (2.0, 0.5)}, "Video.ratio"),
        ({"std": (0.2, 0.0, 0.2)}, "Video.std"),
    ],
)
def test_options_that_can_not_be_are_refused_with_the_reason(options, message):
    with pytest.raises(OptionError, match=message):
        Video(**options)
