import pytest
import torch
from safetensors import safe_open
from torch.testing import assert_close

from mmim.layers.relative import RelativeBias
from tests.videomae import REFERENCE


def drawn(native: tuple[int, int], heads: int = 2) -> RelativeBias:
    module = RelativeBias(native, heads)
    torch.nn.init.normal_(module.table, generator=torch.Generator().manual_seed(0))
    return module


@pytest.mark.parametrize("file", ["simmim_vit", "beit"])
def test_reads_the_table_by_the_official_index(file):
    with safe_open(REFERENCE / f"{file}.safetensors", "pt") as tensors:
        (name,) = [name for name in tensors.keys() if name.endswith("relative_position_index")]  # noqa: SIM118
        index = tensors.get_tensor(name)
        table = tensors.get_tensor(name.replace("index", "bias_table"))
    module = RelativeBias((4, 4), table.shape[1])
    module.table.data = table
    order = [*range(1, 17), 0]  # theirs has the class token first, ours behind the places
    assert_close(module((4, 4), 1)[0], table[index[order][:, order]].permute(2, 0, 1), rtol=0, atol=0)


def test_depends_on_the_offset_alone():
    bias = drawn((3, 5))((3, 5), 0)[0].reshape(2, 3, 5, 3, 5)
    assert torch.equal(bias[:, 0, 0, 1, 2], bias[:, 1, 2, 2, 4])
    assert not torch.equal(bias[:, 0, 0, 1, 2], bias[:, 1, 2, 0, 0])


def test_starts_at_zero():
    assert not RelativeBias((3, 3), 2)((3, 3), 1).any()


def test_a_finer_grid_gets_the_table_stretched():
    module = drawn((4, 4))
    down = torch.arange(-3.0, 4.0).repeat_interleave(7)
    module.table.data[:-3] = down[:, None]  # a bias that grows with the offset, downwards
    bias = module((8, 8), 0)[0].reshape(2, 8, 8, 8, 8)
    assert bias.shape == (2, 8, 8, 8, 8)
    assert_close(bias[:, 2, 3, 3, 3], torch.full((2,), -0.47), rtol=0, atol=0.05)  # half of an old step, upwards
    assert_close(bias[:, 5, 3, 3, 3], torch.full((2,), 0.93), rtol=0, atol=0.05)


def test_global_tokens_have_numbers_of_their_own_on_any_grid():
    module = drawn((4, 4))
    for grid in ((4, 4), (6, 5)):
        bias, n = module(grid, 2)[0], grid[0] * grid[1]
        assert torch.equal(bias[:, n:, :n], module.table[-3][:, None, None].expand(2, 2, n))
        assert torch.equal(bias[:, :n, n:], module.table[-2][:, None, None].expand(2, n, 2))
        assert torch.equal(bias[:, n:, n:], module.table[-1][:, None, None].expand(2, 2, 2))
