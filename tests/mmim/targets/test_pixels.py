import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from mmim.layers.patches import grid_coords, to_patches
from mmim.records import Tokens, gather_tokens
from mmim.targets.pixels import Pixels
from tests.toy import Toy
from tests.videomae import REFERENCE

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).double(), torch.tensor([0.229, 0.224, 0.225]).double()
VIDEOMAE = Pixels(normalise="channel", eps_inside=False, units="raw")
REFERENCES = [
    ("image", "mae_raw", Pixels()),
    ("image", "mae_norm", Pixels(normalise="token")),
    ("clip", "videomae_raw", Pixels(units="raw")),
    ("clip", "videomae_norm", VIDEOMAE),
    ("clip", "omnimae_clip", Pixels(normalise="channel", units="raw")),
]


class Colours(Toy):
    """Knows how ImageNet's normalisation is undone, for tokens `[b n 3 ...]`."""

    def raw(self, values):
        shape = (1, 1, 3, *[1] * (values.ndim - 3))
        return values * STD.reshape(shape) + MEAN.reshape(shape)


def tokens_of(data: torch.Tensor) -> Tokens:
    """Tokens of 8 x 8 pixels, and 2 frames where there are frames."""
    shape = (1, 3, *[1] * (data.ndim - 2))
    patch = (2, 8, 8)[4 - data.ndim + 1 :]
    grid = tuple(s // p for s, p in zip(data.shape[2:], patch, strict=True))
    return Tokens(
        to_patches((data.double() / 255 - MEAN.reshape(shape)) / STD.reshape(shape), patch), grid_coords(grid)
    )


@pytest.fixture(scope="module")
def reference() -> dict[str, torch.Tensor]:
    return load_file(REFERENCE / "targets.safetensors")


def everywhere(tokens: Tokens) -> torch.Tensor:
    return torch.arange(tokens.count).expand(tokens.values.shape[0], -1)


@pytest.mark.parametrize(("name", "out", "target"), REFERENCES, ids=[out for _, out, _ in REFERENCES])
def test_equals_the_published_target(reference, name, out, target):
    tokens = tokens_of(reference[f"input/{name}"])
    found, expected = target.values(tokens, everywhere(tokens), Colours()), reference[f"out/{out}"].double()
    assert ((found - expected).abs() / expected.abs().clamp(min=1)).max() < 2e-6


def test_takes_the_values_at_the_hidden_places(reference):
    tokens = tokens_of(reference["input/clip"])
    ids = torch.tensor([[5, 0, 71], [3, 2, 1]])
    whole = VIDEOMAE.values(tokens, everywhere(tokens), Colours())
    assert torch.equal(VIDEOMAE.values(tokens, ids, Colours()), gather_tokens(whole, ids))


@pytest.mark.parametrize("target", [target for _, _, target in REFERENCES], ids=[out for _, out, _ in REFERENCES])
def test_a_perfect_prediction_is_drawn_as_the_original(reference, target):
    tokens, ids = tokens_of(reference["input/clip"]), torch.tensor([[5, 0, 71], [3, 2, 1]])
    drawn = target.pieces(target.values(tokens, ids, Colours()), tokens, ids, Colours())
    assert_close(drawn, Colours().raw(gather_tokens(tokens.values, ids)), rtol=1e-6, atol=1e-6)


def test_a_flat_token_stays_finite():
    tokens = Tokens(torch.ones(1, 2, 3, 4, 4), grid_coords((2,)))
    for target in (VIDEOMAE, Pixels(normalise="token")):
        assert target.values(tokens, everywhere(tokens), Colours()).isfinite().all()


def test_the_loss_is_the_mean_square_of_each_token():
    pred, target = torch.tensor([[[1.0, 2.0], [0.0, 0.0]]]), torch.tensor([[[0.0, 4.0], [0.0, 0.0]]])
    assert Pixels().loss(pred, target).tolist() == [[2.5, 0.0]]


def test_the_loss_of_a_half_precision_prediction_is_in_full_precision():
    assert Pixels().loss(torch.ones(1, 1, 2, dtype=torch.bfloat16), torch.zeros(1, 1, 2)).dtype == torch.float32


def test_predicts_as_many_numbers_as_a_token_holds():
    assert Pixels().size(Toy(columns=5)) == 5
