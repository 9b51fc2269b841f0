from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors import safe_open
from torch.testing import assert_close

from mmim.corruption.substitute import Substitute
from mmim.data.world import scenes
from mmim.draw import Draw
from mmim.errors import OptionError, ReadError
from mmim.layers.patches import to_patches
from mmim.modality import Source
from mmim.parts import lookup
from mmim.records import gather_tokens
from mmim.targets.ids import NO_ID, Ids
from mmim.targets.pixels import Pixels
from modalities.semseg import VOID, SemSeg
from tests import images

REFERENCE = Path(__file__).parents[1] / "reference"
SMALL = SemSeg(size=(32, 48), patch=8, classes=7, class_width=5)
PLAIN = replace(SMALL, crop="centre", flip=False)


def draw(key):
    return Draw(torch.tensor([key]))


def ids(height=32, width=48, classes=7):
    y, x = np.mgrid[:height, :width]
    return ((y // 8 + x // 8) % classes).astype(np.uint8)


def written(path, numbers, mode=None):
    if path.suffix == ".npy":
        np.save(path, numbers)
    else:
        file = PIL.Image.fromarray(numbers)
        if mode == "P":
            file.putpalette(bytes(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8)))
        file.save(path)
    return Source(path)


@pytest.fixture(scope="module")
def reference():
    with safe_open(REFERENCE / "multimae.safetensors", "pt") as file:
        found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, it is no dict
    return {key: value.double() if value.is_floating_point() else value for key, value in found.items()}


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_semseg_is_found_by_its_name():
    assert lookup("modality", "semseg") is SemSeg


# Reading


@pytest.mark.parametrize(("name", "mode"), [("a.semseg.png", None), ("a.png", "P"), ("a.semseg.npy", None)])
def test_ids_of_grey_of_a_palette_and_of_an_array_are_read_at_a_quarter(name, mode, tmp_path):
    view = PLAIN.read(written(tmp_path / name, ids(), mode), None)
    assert (view.dtype, view.shape) == (torch.uint8, (1, 8, 12))
    assert torch.equal(view[0], torch.from_numpy(ids()[::4, ::4].copy()))  # squares of 8 pixels


def test_a_resize_makes_no_new_ids(tmp_path):
    source = written(tmp_path / "map.semseg.png", ids(77, 91) % 2 * 6)
    for key in range(10):
        assert set(SMALL.read(source, draw(key)).unique().tolist()) <= {0, 6}


@pytest.mark.parametrize(("void", "stored"), [(255, 255), (0, 0), (3, 3), (-1, -1)])
def test_what_is_of_no_class_is_void(void, stored, tmp_path):
    numbers = ids().astype(np.int16)
    numbers[:8, :8] = stored
    view = replace(PLAIN, void=void).read(written(tmp_path / "map.semseg.npy", numbers), None)
    tokens = PLAIN.tokenize(view[None])
    assert (tokens.values[0, 0] == NO_ID).all()
    assert ((tokens.values == NO_ID).sum() == 4 * (numbers == void).sum() // 64).item()


@pytest.mark.parametrize(
    ("void", "wrong", "reason"),
    [
        (255, 7, "^the id 7, which is no class: they are 0 to 6, and 255 for none$"),
        (None, 255, "^the id 255, which is no class: they are 0 to 6$"),
    ],
)
def test_an_id_that_is_no_class_is_refused(void, wrong, reason, tmp_path):
    numbers = ids()
    numbers[5, 5] = wrong
    with pytest.raises(ReadError, match=reason):
        replace(SMALL, void=void).read(written(tmp_path / "map.semseg.png", numbers), None)


def test_colours_and_fractions_are_no_ids(tmp_path):
    with pytest.raises(ReadError, match=r"^pixels of the kind RGB; a map has one number for each"):
        SMALL.read(written(tmp_path / "map.png", images.picture(8, 8)), None)
    with pytest.raises(ReadError, match=r"^numbers of type float64; ids of classes are whole$"):
        SMALL.read(written(tmp_path / "map.npy", ids() / 2), None)


# Tokens


def test_tokens_lie_row_by_row_and_hold_the_ids_of_their_patch():
    raw = torch.randint(0, 7, (2, 1, 8, 12), dtype=torch.uint8)
    tokens = SMALL.tokenize(raw)
    assert tokens.grid == SMALL.grid() == (4, 6)
    for at, (row, column) in enumerate(tokens.coords[0].long().tolist()):
        assert torch.equal(tokens.values[:, at], raw[:, 0, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].long())
    assert torch.equal(SMALL.untokenize(tokens.values, tokens), raw.long())


def test_embedder_and_positions_give_what_the_official_encoder_gets(reference, float64):
    semseg = SemSeg(size=(64, 64), patch=16, classes=7, class_width=8)
    embedder, position = semseg.embedder(40), semseg.position(40)
    assert set(embedder.state_dict()) == {"class_emb.weight", "proj.weight", "proj.bias"}
    embedder.load_state_dict({n: reference[f"state/input_adapters.semseg.{n}"] for n in embedder.state_dict()})
    tokens = semseg.tokenize(reference["input/semseg"][:, None].to(torch.uint8))
    embedded = embedder(tokens.values) + position(tokens)
    kept, seen = reference["mask/ids_keep"], reference["trace/encoder.in"]
    assert int((kept >= 32).sum()) == 22  # of pictures, depths and classes
    for sample in range(3):
        its = kept[sample] >= 32
        ours = gather_tokens(embedded[sample : sample + 1], kept[sample, its][None] - 32)[0]
        assert_close(ours, seen[sample, :-1][its], rtol=2e-6, atol=2e-6)


def test_the_loss_is_that_of_the_official_code(reference, float64):
    semseg = SemSeg(size=(64, 64), patch=16, classes=7, class_width=8)
    tokens = semseg.tokenize(reference["input/semseg"][:, None].to(torch.uint8))
    pred = to_patches(reference["out/pred.semseg"], (4, 4)).flatten(2)  # class, row, column
    target = Ids().values(tokens, torch.arange(16).expand(3, -1), semseg)
    assert pred.shape[2] == Ids().size(semseg)
    hidden = reference["mask/semseg"] == 1
    per_sample = (Ids().loss(pred, target) * hidden).sum(dim=1) / hidden.sum(dim=1)
    assert_close(per_sample, reference["out/loss_per_sample.semseg"], rtol=2e-6, atol=2e-6, equal_nan=True)


def test_void_is_neither_seen_nor_predicted():
    raw = torch.randint(0, 7, (1, 1, 8, 12), dtype=torch.uint8)
    raw[0, 0, 0, 0] = VOID
    raw[0, 0, :2, 2:4] = VOID
    tokens, embedder = SMALL.tokenize(raw), SMALL.embedder(16)
    assert_close(embedder(tokens.values)[0, 1], embedder.proj.bias)
    pred = torch.randn(1, 24, Ids().size(SMALL), requires_grad=True)
    loss = Ids().loss(pred, tokens.values)
    (gradient,) = torch.autograd.grad(loss.sum(), pred)
    gradient = gradient.unflatten(2, (7, 2, 2))
    assert loss[0, 1] == 0
    assert not gradient[0, 1].any()
    assert not gradient[0, 0, :, 0, 0].any()
    assert gradient[0, 0, :, 0, 1].any()


def test_pixels_and_other_ids_in_place_are_refused():
    with pytest.raises(OptionError, match="SemSeg has ids and no pixels: use the target ids"):
        Pixels().size(SMALL)
    with pytest.raises(OptionError, match="The tokens of SemSeg are no ids that others could replace: use mask_token"):
        Substitute().build(16, SMALL)


# Pictures, features, the sample world, options


def test_every_class_has_a_colour_of_its_own():
    semseg = SemSeg()
    data = torch.arange(-1, 134).reshape(1, 1, 5, 27)
    (shown,) = semseg.render(data)
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) == 135
    assert shown[0, 0].tolist() == [0, 0, 0]
    assert shown[-1, -1].tolist() == [255, 255, 255]


def test_features_are_shares_of_classes_in_blocks():
    raw = torch.zeros(1, 1, 8, 12, dtype=torch.uint8)
    raw[0, 0, 0, 0], raw[0, 0, 0, 1], raw[0, 0, 1, 0] = 3, VOID, 3
    features = SMALL.features(raw).reshape(1, 7, 4, 4)
    assert_close(features[0, 3, 0, 0], torch.tensor(2 / 6))
    assert_close(features[0, 0, 0, 0], torch.tensor(3 / 6))  # one of its six pixels is void
    assert_close(features[0, 0, 1:].min(), torch.tensor(1.0))


def test_a_scene_becomes_a_file_of_ids_that_can_be_read_again(tmp_path):
    scene = scenes(1, seed=0)[0]
    for name in "ab":
        SMALL.depict(scene, tmp_path / f"{name}{SMALL.suffix}")
    assert (tmp_path / "a.semseg.png").read_bytes() == (tmp_path / "b.semseg.png").read_bytes()
    assert len(SMALL.read(Source(tmp_path / "a.semseg.png"), None).unique()) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 300}, "SemSeg.classes is 300; it must be from 1 to 255"),
        ({"stride": 5}, "SemSeg.stride is 5; it must be at least 1 and a divisor of the patch, 16"),
        ({"stride": 0}, "SemSeg.stride is 0"),
        ({"class_width": 0}, "SemSeg.class_width is 0"),
        ({"flip": True, "scale": (0.5, 1.5)}, "SemSeg.scale is"),
    ],
)
def test_options_that_can_not_be_are_refused_with_the_reason(options, message):
    with pytest.raises(OptionError, match=message):
        SemSeg(**options)
