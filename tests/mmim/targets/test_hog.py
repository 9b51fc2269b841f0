import math

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from torch.testing import assert_close

from mmim.errors import OptionError
from mmim.model import MaskedModel, Step
from mmim.options import apply
from mmim.parts import lookup
from mmim.records import Tokens, gather_tokens, map_raw
from mmim.targets.hog import HOG, sobel, strokes
from modalities.audio import Audio
from modalities.image import Image
from modalities.video import Video
from recipes.maskfeat import MASKFEAT, SIZES
from tests.parity import REFERENCE, NormalisedImage, NormalisedVideo, batch_of
from tests.toy import Toy

IMAGE = NormalisedImage(size=(48, 48), patch=16)
VIDEO = NormalisedVideo(frames=4, size=48, patch=16)


@pytest.fixture(scope="module")
def reference():
    return load_file(REFERENCE / "maskfeat_hog.safetensors")


def everywhere(tokens):
    return torch.arange(tokens.count).expand(tokens.values.shape[0], -1)


def whole(data, modality, target=None):
    """The target of every token."""
    tokens = modality.tokenize(data)
    return (target or HOG()).values(tokens, everywhere(tokens), modality)


def ramp(axis):
    """A picture of 32 x 32 whose brightness rises to the right (axis 1) or downwards (axis 0)."""
    rise = torch.arange(32).double()
    return (rise[None] if axis else rise[:, None]).expand(1, 3, 32, 32)


def test_hog_is_found_by_its_name():
    assert lookup("target", "hog") is HOG


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_the_official_labels(reference, dtype):
    labels = whole(reference["input/image"].to(dtype), IMAGE)
    assert_close(labels, reference["out/labels_all"].to(dtype), rtol=0, atol=1e-5)
    chosen = labels[reference["mask/image_mask"]]
    assert_close(chosen, reference["out/labels_image"].to(dtype), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_clips_labels_are_those_of_the_first_frames(reference, dtype):
    labels = whole(reference["input/clip"].to(dtype), VIDEO)[reference["mask/clip_mask"]]
    assert_close(labels, reference["out/labels_clip"].to(dtype), rtol=0, atol=1e-5)


def test_equals_the_official_map(reference):
    labels = whole(reference["input/image"], NormalisedImage(size=(48, 48), patch=48))[:, 0]
    assert_close(labels, reference["out/hog"].flatten(1), rtol=0, atol=1e-5)  # one token: (colour, bin, row, column)


def test_the_kernels_are_the_official_ones(reference):
    at = torch.zeros(1, 3, 5, 5)
    at[:, :, 2, 2] = 1
    kernels = [part[:, :, 1:4, 1:4].flip(2, 3)[0, :, None] for part in sobel(at)]  # a correlation with one point
    assert torch.equal(kernels[0], reference["state/weight_x"])
    assert torch.equal(kernels[1], reference["state/weight_y"])


def test_equals_the_published_target_of_a_picture():
    reference = load_file(REFERENCE / "targets.safetensors")
    labels, there = whole(reference["input/image"], Image(size=(48, 48), patch=16)), ~reference["mask/hog_flat"]
    assert there.any()
    assert_close(labels[there], reference["out/maskfeat_hog"][there], rtol=0, atol=1e-5)


FAULTS = {
    "a rise to the right positive": lambda across, down: (-across, down),
    "arguments exchanged": lambda across, down: (down, across),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_parity_notices_another_direction(reference, monkeypatch, fault):
    monkeypatch.setattr("mmim.targets.hog.sobel", lambda maps: FAULTS[fault](*sobel(maps)))
    assert (whole(reference["input/image"], IMAGE) - reference["out/labels_all"]).abs().max() > 0.1


def test_parity_notices_another_padding(reference, monkeypatch):
    pad = F.pad
    monkeypatch.setattr("mmim.targets.hog.F.pad", lambda x, by, mode: pad(x, by, mode="replicate"))
    assert (whole(reference["input/image"], IMAGE) - reference["out/labels_all"]).abs().max() > 0.01


@pytest.mark.parametrize(("axis", "bin_"), [(1, 4), (0, 0)], ids=["right", "down"])
def test_a_rise_falls_into_the_bin_of_the_fact_sheet(axis, bin_):
    labels = whole(ramp(axis), NormalisedImage(size=(32, 32), patch=16)).unflatten(2, (3, 9, 2, 2))
    full = torch.zeros(9).double()
    full[bin_] = 1
    assert_close(labels, full[None, None, None, :, None, None].expand_as(labels), rtol=0, atol=1e-12)


def test_a_fall_counts_as_the_rise_does():
    modality = NormalisedImage(size=(32, 32), patch=16)
    for axis in (0, 1):
        assert torch.equal(whole(ramp(axis).flip(2 + axis), modality), whole(ramp(axis), modality))


def test_every_cell_of_every_channel_has_length_one(reference):
    cells = whole(reference["input/image"], IMAGE).unflatten(2, (3, 9, 2, 2))
    assert_close(cells.norm(dim=3), torch.ones(2, 9, 3, 2, 2))


def test_a_flat_cell_is_zero_and_has_no_noise():
    flat = torch.full((1, 3, 48, 48), 0.1)
    assert whole(flat, IMAGE).abs().max() == 0


def test_takes_the_values_at_the_hidden_places(reference):
    tokens = IMAGE.tokenize(reference["input/image"])
    ids = torch.tensor([[5, 0, 8], [3, 2, 1]])
    assert torch.equal(HOG().values(tokens, ids, IMAGE), gather_tokens(whole(reference["input/image"], IMAGE), ids))


def test_a_tokens_edge_knows_what_is_beyond(reference):
    image = reference["input/image"].clone()
    before = whole(image, IMAGE)
    image[:, :, :, 16:] += 1  # a step between the first column of tokens and the second
    changed = ((whole(image, IMAGE) - before).abs() > 1e-3).unflatten(1, (3, 3)).any(dim=3)
    assert changed.all(dim=1).tolist() == changed.any(dim=1).tolist() == [[True, True, False]] * 2


def test_the_second_frame_of_a_tubelet_is_not_looked_at(reference):
    clip = reference["input/clip"].clone()
    before = whole(clip, VIDEO)
    clip[:, :, 1::2] = 0
    assert torch.equal(whole(clip, VIDEO), before)
    clip[:, :, 2] = 0
    changed = (whole(clip, VIDEO) != before).any(dim=2)
    assert not changed[:, :9].any()
    assert changed[:, 9:].all()


@pytest.mark.parametrize(
    ("modality", "size"),
    [
        (Image(size=(48, 48), patch=16), 108),
        (Image(size=(64, 64), patch=32), 432),
        (Video(frames=4, size=48, patch=16), 108),
        (Audio(frames=64, mel=32), 36),
    ],
)
def test_predicts_as_many_numbers_as_cells_and_bins(modality, size):
    assert HOG().size(modality) == size
    blank = map_raw(lambda tensor: tensor[None], modality.blank())
    assert whole(blank, modality).shape == (1, math.prod(modality.grid()), size)


def test_other_cells_and_bins(reference):
    labels = whole(reference["input/image"], IMAGE, HOG(bins=4, cell=16)).unflatten(2, (3, 4))
    assert HOG(bins=4, cell=16).size(IMAGE) == 12
    assert_close(labels.norm(dim=3), torch.ones(2, 9, 3))


def test_the_loss_is_the_mean_square_of_each_token():
    pred, target = torch.tensor([[[1.0, 2.0], [0.0, 0.0]]]), torch.tensor([[[0.0, 4.0], [0.0, 0.0]]])
    assert HOG().loss(pred, target).tolist() == [[2.5, 0.0]]
    assert HOG().loss(pred.bfloat16(), target).dtype == torch.float32


def test_a_perfect_prediction_is_drawn_along_the_edges():
    steps = ramp(1).float()
    modality = NormalisedImage(size=(32, 32), patch=16)
    tokens = modality.tokenize(steps)
    ids = everywhere(tokens)
    drawn = HOG().pieces(HOG().values(tokens, ids, modality), tokens, ids, modality)
    assert drawn.shape == tokens.values.shape
    bright = (drawn - drawn.amin()) / (drawn.amax() - drawn.amin())
    assert bright[..., :, 3:5].mean() > 5 * bright[..., :, :2].mean()  # upright strokes in the middle of each cell
    assert bright[..., 3:5, :].mean() < 2 * bright[..., :2, :].mean()


def test_a_prediction_is_drawn_in_all_frames_and_within_the_datas_range(reference):
    tokens = VIDEO.tokenize(reference["input/clip"])
    ids = torch.tensor([[5, 0, 17], [3, 2, 1]])
    drawn = HOG().pieces(torch.randn(2, 3, 108), tokens, ids, VIDEO)
    assert drawn.shape == (2, 3, 3, 2, 16, 16)
    assert torch.equal(drawn[:, :, :, 0], drawn[:, :, :, 1])
    raw = VIDEO.raw(tokens.values)
    assert raw.amin() <= drawn.amin() < drawn.amax() <= raw.amax()


@pytest.mark.parametrize("bin_", range(9))
def test_a_stroke_lies_across_the_gradient_of_its_bin(bin_):
    angle = (bin_ + 0.5) * math.pi / 9
    step = torch.arange(8).double() - 3.5
    tilted = (step * math.sin(angle) + step[:, None] * math.cos(angle))[None, None]
    inner = [part[:, :, 1:-1, 1:-1] for part in sobel(tilted)]
    found = (9 * torch.atan2(*inner) / math.pi).floor().remainder(9)
    assert (found == bin_).all()
    on = strokes(9, 8)[bin_] > 0.5
    assert on.sum() >= 4
    assert tilted[0, 0][on].abs().max() < 0.5 + 1e-9


def test_the_target_is_in_full_precision_beside_a_network_in_half():
    recipe = apply(MASKFEAT, SIZES["tiny"] | {"modalities.image.size": (48, 48)})
    pictures = torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8)
    step = Step(MaskedModel(recipe), batch_of("image", pictures))
    expected = step.target("image")
    with torch.autocast("cpu", torch.bfloat16):
        again = Step(step.model, step.batch, step.splits).target("image")
    assert again.dtype == torch.float32
    assert torch.equal(again, expected)


@pytest.mark.parametrize(
    ("modality", "message"),
    [
        (
            Image(size=(42, 42), patch=14),
            r"HOG's cells of 8 x 8 do not divide the pieces of Image, \(14, 14\): use a cell of 14, or a divisor of it",
        ),
        (Video(frames=4, size=48, patch=12), r"pieces of Video, \(12, 12\): use a cell of 12"),
        (Toy(), r"HOG needs pieces of \(channels, rows, columns\), maybe several deep, and those of Toy are \(4,\)"),
    ],
)
def test_pieces_without_cells_are_refused(modality, message):
    with pytest.raises(OptionError, match=message):
        HOG().size(modality)


def test_tokens_without_a_grid_are_refused(reference):
    tokens = IMAGE.tokenize(reference["input/image"])
    with pytest.raises(OptionError, match=r"HOG needs maps, and the tokens of NormalisedImage are on no grid"):
        HOG().values(Tokens(tokens.values, tokens.coords), everywhere(tokens), IMAGE)


@pytest.mark.parametrize("name", ["bins", "cell"])
def test_options_that_can_not_be_are_refused(name):
    with pytest.raises(OptionError, match=f"HOG.{name} is 0; it must be at least 1"):
        HOG(**{name: 0})
