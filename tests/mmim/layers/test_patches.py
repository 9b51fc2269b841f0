import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from mmim.errors import OptionError
from mmim.layers.patches import PatchEmbed, check_divides, from_patches, grid_coords, to_patches

SHAPES = [((12,), (3,)), ((6, 8), (3, 2)), ((4, 6, 10), (2, 3, 5))]


@pytest.mark.parametrize(("size", "patch"), SHAPES)
def test_the_cut_has_an_inverse(size, patch):
    data = torch.randn(2, 3, *size)
    grid = tuple(s // p for s, p in zip(size, patch, strict=True))
    assert torch.equal(from_patches(to_patches(data, patch), grid), data)


def test_patches_equal_unfold():
    data = torch.randn(2, 3, 6, 8)
    unfolded = F.unfold(data, kernel_size=(3, 2), stride=(3, 2)).transpose(1, 2)  # torch: (channel, row, column)
    assert torch.equal(to_patches(data, (3, 2)).flatten(2), unfolded)


@pytest.mark.parametrize(("size", "patch"), SHAPES)
def test_embedding_patches_equals_the_convolution(size, patch):
    data = torch.randn(2, 3, *size, dtype=torch.float64)
    embed = PatchEmbed((3, *patch), 7).double()
    assert_close(embed(to_patches(data, patch)), embed.proj(data).flatten(2).transpose(1, 2), rtol=1e-12, atol=1e-12)


def test_patches_stand_where_their_coordinates_say():
    row, column = torch.meshgrid(torch.arange(6.0), torch.arange(8.0), indexing="ij")
    corners = to_patches(torch.stack([row, column])[None], (3, 2))[0, :, :, 0, 0]
    assert torch.equal(grid_coords((2, 4))[0] * torch.tensor([3.0, 2.0]), corners)


def test_xavier_draws_the_flattened_matrix():
    torch.manual_seed(0)
    weight = PatchEmbed((3, 8, 8), 96, xavier=True).proj.weight.detach()
    assert weight.abs().max() == pytest.approx((6 / (96 + 192)) ** 0.5, rel=0.01)


@pytest.mark.parametrize(
    ("size", "patch", "below"), [((224, 230), (16, 16), "(224, 224)"), ((8, 224), (16, 16), "(16, 224)")]
)
def test_patches_that_do_not_divide_are_refused_with_a_size_that_works(size, patch, below):
    with pytest.raises(OptionError) as refused:
        check_divides("Toy", size, patch)
    assert str(refused.value).startswith(f"Toy: patches of {patch} do not divide {size}.")
    assert f"{below} for one" in str(refused.value)
    check_divides("Toy", eval(below), patch)


def test_an_empty_patch_is_refused():
    with pytest.raises(OptionError, match=r"patches of \(0,\) do not divide"):
        check_divides("Toy", (8,), (0,))
