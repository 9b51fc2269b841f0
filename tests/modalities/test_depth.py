import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors import safe_open
from torch.testing import assert_close

from mmim.data.world import scenes
from mmim.draw import Draw
from mmim.errors import OptionError, ReadError
from mmim.modality import Source
from mmim.parts import lookup
from mmim.records import gather_tokens
from modalities.depth import Depth
from modalities.image import Image
from tests import images
from tests.videos import shared_data

REFERENCE = Path(__file__).parents[1] / "reference"
SMALL = Depth(size=(32, 48), patch=8)
PLAIN = replace(SMALL, crop="centre", flip=False)


def draw(key):
    return Draw(torch.tensor([key]))


def millimetres(height=32, width=48):
    y, x = np.mgrid[:height, :width]
    return (1000 + 37 * y + 11 * x).astype(np.uint16)


def written(path, numbers):
    if path.suffix == ".npy":
        np.save(path, numbers)
    else:
        PIL.Image.fromarray(numbers).save(path)
    return Source(path)


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def reference(name):
    with safe_open(REFERENCE / f"{name}.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, it is no dict


def test_depth_is_found_by_its_name():
    assert lookup("modality", "depth") is Depth


# Reading


@pytest.mark.parametrize("suffix", [".depth.png", ".depth.tif", ".png", ".depth.npy"])
def test_numbers_of_16_bits_are_read_as_shares_of_all_of_them(suffix, tmp_path):
    numbers = millimetres()
    depths = PLAIN.read(written(tmp_path / f"map{suffix}", numbers), None)
    assert (depths.dtype, depths.shape) == (torch.float32, (1, 32, 48))
    assert_close(depths[0], torch.from_numpy(numbers / 65536).float(), rtol=0, atol=0)


@pytest.mark.parametrize("suffix", [".depth.npy", ".depth.tif"])
def test_floating_point_depths_stand_as_they_are(suffix, tmp_path):
    metres = (millimetres() / 1000).astype(np.float32)
    assert_close(PLAIN.read(written(tmp_path / f"map{suffix}", metres), None)[0], torch.from_numpy(metres))


def test_what_is_not_finite_is_a_hole(tmp_path):
    metres = np.where(millimetres() % 3 == 0, np.nan, millimetres() / 1000)
    depths = PLAIN.read(written(tmp_path / "map.npy", metres), None)[0]
    assert_close(depths, torch.from_numpy(np.nan_to_num(metres)).float())
    assert int((depths == 0).sum()) > 100


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [
        (images.picture(8, 8), "^pixels of the kind RGB; a map has one number for each, of 8 or 16 bits or float$"),
        (np.zeros((8, 8), np.uint8), "^numbers of type uint8; depths are of 16 bits without sign, or floating-point$"),
    ],
)
def test_colours_and_bytes_are_no_depths(numbers, reason, tmp_path):
    with pytest.raises(ReadError, match=reason):
        SMALL.read(written(tmp_path / "map.depth.png", numbers), None)


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [
        (np.full((8, 8), np.nan), "^no depth of 64 is finite$"),
        (np.full((8, 8), 1e12), r"^a depth of 1e\+12; at most 1e\+09 is read$"),
    ],
)
def test_depths_that_are_none_give_their_reason(numbers, reason, tmp_path):
    with pytest.raises(ReadError, match=reason):
        SMALL.read(written(tmp_path / "map.depth.npy", numbers), None)


def test_a_depth_camera_s_file_is_read_beside_its_picture(tmp_path):
    with tarfile.open(shared_data() / "pairs/rgbd.tar") as tar:
        tar.extractall(tmp_path, filter="data")
    depth, image = Depth(size=(224, 224)), Image(size=(224, 224))
    found = sorted((tmp_path / "rgbd").glob("*_depth.png"))
    assert len(found) == 5
    for path in found:
        stored = np.asarray(PIL.Image.open(path))
        view = depth.read(Source(path), None)
        assert view.max() <= stored.max() / 65536 + 1e-6
        assert abs(view.mean() - stored[:, 80:560].mean() / 65536) < 2e-3  # the middle square
        values = depth.tokenize(view[None]).values
        assert bool(values.isfinite().all())
        picture = next(path.parent.glob(path.name.replace("_depth.png", "_color.*")))
        assert image.read(Source(picture), draw(1)).shape[1:] == depth.read(Source(path), draw(1)).shape[1:]


# Tokens


def test_depths_are_standardised_as_the_official_code_does_it(float64):
    found = reference("multimae")
    depth = Depth(size=(64, 64), patch=16)
    tokens = depth.tokenize(found["input/depth_raw"].double())
    again = depth.untokenize(tokens.values, tokens)
    assert_close(again, found["input/depth"].double(), rtol=2e-6, atol=2e-6)


def test_depths_of_another_size_are_standardised_as_in_the_official_code(float64):
    found = reference("targets")
    depth = Depth(size=(48, 48), patch=8)
    tokens = depth.tokenize(found["input/depth"].double())
    again = depth.untokenize(tokens.values, tokens)
    assert_close(again, found["out/multimae_depth"].double(), rtol=2e-6, atol=2e-6)


def test_the_lowest_and_the_highest_tenth_do_not_move_the_others():
    raw = torch.rand(1, 1, 32, 48)
    order = raw.flatten().argsort()
    extreme = raw.clone()
    extreme.view(-1)[order[-100:]] += 5
    rest = order[200:-200]
    one, other = (SMALL.untokenize(t.values, t).flatten()[rest] for t in map(SMALL.tokenize, (raw, extreme)))
    assert_close(one, other)


def test_fixed_statistics_are_undone_and_a_sample_s_own_are_not():
    raw = torch.rand(2, 1, 32, 48)
    fixed = replace(SMALL, mean=0.4, std=0.2)
    tokens = fixed.tokenize(raw)
    assert_close(fixed.untokenize(tokens.values, tokens), (raw - 0.4) / 0.2)
    assert_close(fixed.untokenize(fixed.raw(tokens.values), tokens), raw)
    own = SMALL.tokenize(raw)
    assert_close(SMALL.raw(own.values), own.values, rtol=0, atol=0)


def test_a_flat_map_is_finite():
    assert_close(SMALL.tokenize(torch.full((1, 1, 32, 48), 0.3)).values, torch.zeros(1, 24, 1, 8, 8))


def test_embedder_and_positions_give_what_the_official_encoder_gets(float64):
    found = {
        key: value.double() if value.is_floating_point() else value for key, value in reference("multimae").items()
    }
    depth = Depth(size=(64, 64), patch=16)
    embedder, position = depth.embedder(40), depth.position(40)
    embedder.load_state_dict({name: found[f"state/input_adapters.depth.{name}"] for name in embedder.state_dict()})
    tokens = depth.tokenize(found["input/depth_raw"])
    embedded = embedder(tokens.values) + position(tokens)
    ids, seen = found["mask/ids_keep"], found["trace/encoder.in"]
    for sample in range(3):
        its = (ids[sample] >= 16) & (ids[sample] < 32)  # of pictures, depths and classes
        ours = gather_tokens(embedded[sample : sample + 1], ids[sample, its][None] - 16)[0]
        assert_close(ours, seen[sample, :-1][its], rtol=2e-6, atol=2e-6)


# Pictures, the sample world, options


def test_a_picture_of_depths_is_grey_with_the_mean_in_the_middle():
    (shown,) = SMALL.render(torch.tensor([-40.0, 0.0, 40.0]).expand(1, 1, 2, 3))
    assert shown[0].tolist() == [[0, 0, 0], [128, 128, 128], [255, 255, 255]]
    (fixed,) = replace(SMALL, mean=0.4, std=0.2).render(torch.full((1, 1, 1, 1), 0.4))
    assert fixed.tolist() == [[[128, 128, 128]]]


def test_features_are_means_of_blocks():
    raw = torch.rand(2, 1, 48, 48)
    means = SMALL._standardised(raw).unflatten(3, (24, 2)).unflatten(2, (24, 2)).mean(dim=(3, 5))
    assert_close(SMALL.features(raw), means.flatten(1))


def test_a_scene_becomes_a_file_of_16_bits_that_can_be_read_again(tmp_path):
    first, second = scenes(2, seed=0)
    for name, scene in (("a", first), ("b", first), ("c", second)):
        SMALL.depict(scene, tmp_path / f"{name}{SMALL.suffix}")
    assert (tmp_path / "a.depth.png").read_bytes() == (tmp_path / "b.depth.png").read_bytes()
    assert (tmp_path / "a.depth.png").read_bytes() != (tmp_path / "c.depth.png").read_bytes()
    with PIL.Image.open(tmp_path / "a.depth.png") as file:
        assert (file.format, file.mode, file.size) == ("PNG", "I;16", (96, 96))
    assert SMALL.read(Source(tmp_path / "a.depth.png"), None).max() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": 0.3}, r"Depth.mean, Depth.std is \(0.3, None\); it must be two numbers or neither"),
        ({"mean": 0.3, "std": 0.0}, "Depth.std is 0.0; it must be above 0 and finite"),
        ({"mean": float("nan"), "std": 1.0}, "Depth.mean is nan; it must be finite"),
        ({"size": (100, 100)}, r"Depth: patches of \(16, 16\) do not divide \(100, 100\)"),
    ],
)
def test_options_that_can_not_be_are_refused_with_the_reason(options, message):
    with pytest.raises(OptionError, match=message):
        Depth(**options)
