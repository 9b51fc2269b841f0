import pickle
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors import safe_open
from torch.testing import assert_close

from mmim.data.crops import centre_window
from mmim.data.world import scenes
from mmim.draw import Draw
from mmim.errors import OptionError, ReadError
from mmim.layers.patches import cut
from mmim.modality import Source
from mmim.parts import lookup
from mmim.records import gather_tokens
from mmim.targets.pixels import Pixels
from modalities.image import Image
from modalities.video import Video
from tests.images import encoded, picture, turned

REFERENCE = Path(__file__).parents[1] / "reference"
SMALL = Image(size=(32, 48), patch=8)
PLAIN = replace(SMALL, crop="centre", flip=False)


def draw(key):
    return Draw(torch.tensor([key]))


def batch(image, count=2):
    return torch.randint(0, 256, (count, 3, *image.size), dtype=torch.uint8)


@pytest.fixture
def source(tmp_path):
    (tmp_path / "picture.png").write_bytes(encoded(picture(64, 80), "PNG"))
    return Source(tmp_path / "picture.png")


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def targets():
    with safe_open(REFERENCE / "targets.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, it is no dict


def test_image_is_found_by_its_name():
    assert lookup("modality", "image") is Image


# Reading


@pytest.mark.parametrize("crop", ["random_resized", "centre"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_picture_has_the_declared_shape_and_type(crop, interpolation, source):
    image = replace(SMALL, crop=crop, interpolation=interpolation)
    for pixels in (image.read(source, draw(3)), image.read(source, None)):
        assert (pixels.shape, pixels.dtype) == (image.blank().shape, image.blank().dtype)
        assert pixels.is_contiguous()


def test_a_picture_smaller_than_the_size_is_enlarged(tmp_path):
    (tmp_path / "dot.png").write_bytes(encoded(np.full((1, 1, 3), 77, np.uint8), "PNG"))
    assert (SMALL.read(Source(tmp_path / "dot.png"), draw(1)) == 77).all()


def test_without_a_draw_the_view_is_the_middle_of_the_picture(tmp_path):
    pixels = picture(32, 96)
    (tmp_path / "wide.png").write_bytes(encoded(pixels, "PNG"))
    middle = torch.from_numpy(pixels[:, 24:72]).permute(2, 0, 1)
    for image in (SMALL, PLAIN):
        assert torch.equal(image.read(Source(tmp_path / "wide.png"), None), middle)
    assert centre_window(32, 96, SMALL.size) == (0, 24, 32, 48)


def test_a_picture_is_upright(tmp_path):
    pixels = picture(48, 32)
    (tmp_path / "turned.png").write_bytes(encoded(pixels, "PNG", exif=turned(6)))
    upright = torch.from_numpy(np.rot90(pixels, -1).copy()).permute(2, 0, 1)
    assert torch.equal(SMALL.read(Source(tmp_path / "turned.png"), None), upright)


def test_equal_keys_read_equal_views_and_other_keys_others(source):
    first = [SMALL.read(source, draw(key)) for key in range(12)]
    assert all(torch.equal(view, SMALL.read(source, draw(key))) for key, view in enumerate(first))
    assert len({view.numpy().tobytes() for view in first}) == 12


def test_several_views_of_one_decode_equal_views_read_one_by_one(source):
    keys = [draw(key) for key in (5, 1, 5, 9)]
    for together, alone in zip(SMALL.read_many(source, keys), [SMALL.read(source, key) for key in keys], strict=True):
        assert torch.equal(together, alone)


def test_half_of_the_pictures_are_mirrored_unless_told_not_to(source):
    plain = [PLAIN.read(source, draw(key)) for key in range(40)]
    flipped = [replace(PLAIN, flip=True).read(source, draw(key)) for key in range(40)]
    same = [torch.equal(a, b) for a, b in zip(plain, flipped, strict=True)]
    assert 10 < sum(same) < 30
    assert all(torch.equal(a, b.flip(2)) for a, b, equal in zip(plain, flipped, same, strict=True) if not equal)
    assert torch.equal(replace(PLAIN, flip=True).read(source, None), PLAIN.read(source, None))


def test_another_process_reads_the_same_view(source):
    assert pickle.loads(pickle.dumps(SMALL)) == SMALL
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        there = pool.submit(_read, SMALL, source, 7).result()
    np.testing.assert_array_equal(there, SMALL.read(source, draw(7)).numpy())


def _read(image, source, key):
    return image.read(source, draw(key)).numpy()


def test_an_unreadable_file_gives_its_reason(tmp_path):
    (tmp_path / "picture.png").touch()
    with pytest.raises(ReadError, match=r"^empty file$"):
        SMALL.read(Source(tmp_path / "picture.png"), None)


# Tokens


def test_tokens_lie_row_by_row_and_hold_their_patch():
    raw = batch(SMALL)
    tokens = SMALL.tokenize(raw)
    assert tokens.grid == SMALL.grid() == (4, 6)
    assert tokens.values.shape == (2, 24, *SMALL.piece)
    assert tokens.coords.shape == (1, 24, 2)
    shares = SMALL.raw(tokens.values)
    for at, (row, column) in enumerate(tokens.coords[0].long().tolist()):
        assert at == row * 6 + column
        place = raw[:, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        assert_close(shares[:, at], place / 255, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 3, 32, 48), (1, 3, 64, 8)])
def test_untokenize_is_the_inverse_at_any_size_that_divides(shape):
    raw = torch.randint(0, 256, shape, dtype=torch.uint8)
    tokens = SMALL.tokenize(raw)
    again = SMALL.untokenize(SMALL.raw(tokens.values), tokens)
    assert_close(again, raw / 255, rtol=0, atol=1e-6)
    assert torch.equal((again * 255).round().to(torch.uint8), raw)


def test_a_picture_that_the_patches_do_not_divide_is_refused():
    with pytest.raises(OptionError, match=r"patches of \(8, 8\) do not divide \(36, 32\)"):
        SMALL.tokenize(torch.zeros(1, 3, 36, 32, dtype=torch.uint8))


def test_normalisation_is_exact_in_float64(targets, float64):
    image = Image(size=(48, 48), patch=8)
    tokens = image.tokenize(targets["input/image"])
    assert tokens.values.dtype == torch.float64
    expected = targets["out/image_normalised"].double()
    assert_close(image.untokenize(tokens.values, tokens), expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(("normalise", "key"), [("token", "out/mae_norm"), ("none", "out/mae_raw")])
def test_targets_equal_those_of_the_official_code(normalise, key, targets, float64):
    # float64, since constant patches give rounding noise over 1e-3 in float32: README of tests/reference
    image = Image(size=(48, 48), patch=8)
    tokens = image.tokenize(targets["input/image"])
    ids = torch.arange(tokens.count).expand(2, -1)
    values = replace(Image.target, normalise=normalise).values(tokens, ids, image)
    assert_close(values, targets[key].double(), rtol=2e-6, atol=2e-6)


def test_the_embedder_is_the_convolution_of_the_official_code():
    tokens, embedder = SMALL.tokenize(batch(SMALL)), SMALL.embedder(48)
    assert list(embedder.state_dict()) == ["proj.weight", "proj.bias"]
    assert embedder.proj.weight.shape == (48, 3, 8, 8)
    assert embedder.proj.weight.abs().max() <= (6 / (48 + 3 * 8 * 8)) ** 0.5  # Xavier-uniform on the flattened matrix
    maps = embedder.proj(SMALL.untokenize(tokens.values, tokens)).flatten(2).transpose(1, 2)
    assert_close(embedder(tokens.values), maps, rtol=1e-5, atol=1e-5)


def test_swin_has_a_norm_after_the_embedding():
    embedder = replace(SMALL, embed_norm=True).embedder(48)
    assert set(embedder.state_dict()) == {"proj.weight", "proj.bias", "norm.weight", "norm.bias"}
    assert embedder.norm.eps == 1e-5
    embedded = embedder(SMALL.tokenize(batch(SMALL)).values)
    assert_close(embedded.mean(dim=-1), torch.zeros(2, 24), rtol=0, atol=1e-5)


@pytest.mark.parametrize("positions", ["sincos", "sincos_row_first", "flat", "learned", "none"])
@pytest.mark.parametrize("size", [(32, 48), (64, 32)])
def test_every_place_has_a_code_at_any_size(positions, size):
    tokens = SMALL.tokenize(torch.zeros(1, 3, *size, dtype=torch.uint8))
    codes = replace(SMALL, positions=positions).position(16)(tokens)
    assert codes.shape == (1, tokens.count, 16)
    assert len(codes[0].unique(dim=0)) == (1 if positions == "none" else tokens.count)


# As a clip


FRAMED = replace(SMALL, frames=2, positions="flat")


def test_a_repeated_picture_is_one_tubelet_deep():
    raw = batch(FRAMED)
    tokens, flat = FRAMED.tokenize(raw), SMALL.tokenize(raw)
    assert tokens.grid == FRAMED.grid() == (1, 4, 6)
    assert tokens.values.shape == (2, 24, *FRAMED.piece) == (2, 24, 3, 2, 8, 8)
    assert torch.equal(tokens.coords, torch.cat([torch.zeros(1, 24, 1), flat.coords], dim=2))
    for frame in range(2):
        assert torch.equal(tokens.values[:, :, :, frame], flat.values)


def test_a_repeated_picture_s_codes_are_those_of_a_clip_s_first_frame():
    image, video = Image(size=(32, 32), patch=8, frames=2, positions="flat"), Video(frames=8, size=32, patch=8)
    codes = image.position(24)(image.tokenize(batch(image)))
    clip = video.position(24)(video.tokenize(video.blank()[None]))
    assert torch.equal(codes, clip[:, :16])
    larger = image.position(24)(image.tokenize(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)))
    clip = video.position(24)(video.tokenize(torch.zeros(1, 3, 8, 64, 64, dtype=torch.uint8)))
    assert_close(larger, clip[:, :64])


def test_the_target_of_a_repeated_picture_is_that_of_the_official_code(targets, float64):
    image = Image(size=(48, 48), patch=8, frames=2, positions="flat")
    tokens = image.tokenize(targets["input/image"])
    target = Pixels(normalise="channel", units="raw")
    values = target.values(tokens, torch.arange(tokens.count).expand(2, -1), image)
    assert_close(values, targets["out/omnimae_image"].double(), rtol=2e-6, atol=2e-6)


def test_what_the_official_encoder_gets_of_a_picture_comes_out_of_ours(float64):
    with safe_open(REFERENCE / "omnimae.safetensors", "pt") as file:
        found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, it is no dict
    image = Image(size=(32, 32), patch=8, frames=2, positions="flat")
    embedder = image.embedder(48)
    weights = {name.rsplit(".", 1)[-1]: value for name, value in found.items() if "patch_embed.proj" in name}
    embedder.load_state_dict({f"proj.{name}": value.double() for name, value in weights.items()})
    normalised = found["input/image"].double()  # no bytes
    tokens = cut("Image", normalised[:, :, None].expand(-1, -1, 2, -1, -1), image.piece[1:])
    embedded = embedder(tokens.values) + image.position(48)(tokens)
    for sample, seen in enumerate(found["trace/encoder_image.in"].double()):
        visible = (~found["mask/image"][sample].flatten()).nonzero().T
        assert_close(gather_tokens(embedded[sample : sample + 1], visible)[0], seen, rtol=2e-6, atol=2e-6)


def test_a_repeated_picture_is_rendered_as_one():
    raw = batch(FRAMED)
    tokens = FRAMED.tokenize(raw)
    again = FRAMED.untokenize(FRAMED.raw(tokens.values), tokens)
    assert again.shape == (2, 3, 2, 32, 48)
    for shown, pixels in zip(FRAMED.render(again), raw, strict=True):
        np.testing.assert_array_equal(shown, pixels.permute(1, 2, 0).numpy())


# Pictures, features, the sample world


def test_a_picture_is_rendered_as_it_is():
    raw = batch(SMALL)
    for shown, pixels in zip(SMALL.render(raw / 255), raw, strict=True):
        np.testing.assert_array_equal(shown, pixels.permute(1, 2, 0).numpy())
    over = SMALL.render(torch.full((1, 3, 8, 8), 1.7))[0]
    assert (over == 255).all()


@pytest.mark.parametrize("size", [(48, 48), (224, 160), (16, 16)])
def test_features_are_mean_colours_of_blocks(size):
    raw = torch.full((2, 3, *size), 51, dtype=torch.uint8)
    features = SMALL.features(raw)
    assert features.shape == (2, 1728)
    assert_close(features, torch.full((2, 1728), 0.2))


def test_features_of_48_pixels_are_means_of_four():
    raw = batch(Image(size=(48, 48)))
    means = raw.float().unflatten(3, (24, 2)).unflatten(2, (24, 2)).mean(dim=(3, 5)) / 255
    assert_close(SMALL.features(raw).reshape(2, 3, 24, 24), means)


def test_a_scene_becomes_a_file_that_can_be_read_again(tmp_path):
    first, second = scenes(2, seed=0)
    for name, scene in (("a", first), ("b", first), ("c", second)):
        SMALL.depict(scene, tmp_path / f"{name}{SMALL.suffix}")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with PIL.Image.open(tmp_path / "a.png") as file:
        assert (file.format, file.mode, file.size) == ("PNG", "RGB", (96, 96))
    views = [SMALL.read(Source(tmp_path / f"{name}.png"), None) for name in "abc"]
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (100, 100)}, r"patches of \(16, 16\) do not divide \(100, 100\).*\(96, 96\) for one"),
        ({"size": (224, 0)}, r"Image.size is \(224, 0\); it must be a height and a width of at least 1 each"),
        ({"patch": 0}, "Image.patch is 0; it must be at least 1"),
        ({"scale": (0.5, 1.5)}, r"Image.scale is \(0.5, 1.5\); it must be 0 < lowest <= highest <= 1.0"),
        ({"ratio": (2.0, 0.5)}, "Image.ratio"),
        ({"std": (0.2, 0.0, 0.2)}, "Image.std is .* above 0"),
        ({"std": (0.2, float("inf"), 0.2)}, "Image.std is .* finite"),
        ({"std": (0.2, float("nan"), 0.2)}, "Image.std is .* finite"),
        ({"mean": (float("nan"), 0.0, 0.0)}, "Image.mean is .* finite"),
        ({"frames": 0}, "Image.frames is 0; it must be at least 1"),
        ({"frames": 2}, "Image.positions is 'sincos'; it must be one of flat, learned, none where frames is above 1"),
    ],
)
def test_options_that_can_not_be_are_refused_with_the_reason(options, message):
    with pytest.raises(OptionError, match=message):
        Image(**options)
