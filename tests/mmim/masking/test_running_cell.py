import math

import pytest
import torch
from safetensors.torch import load_file

from mmim.draw import Draw
from mmim.errors import MaskingError
from mmim.masking.budget import Ratio
from mmim.masking.running_cell import RunningCellMasking
from mmim.parts import lookup
from mmim.records import Tokens
from tests.videomae import REFERENCE

DRAW = Draw(torch.arange(100))


def on(grid, batch=100):
    n = math.prod(grid or (24,))
    return Tokens(torch.zeros(1, 1, 1).expand(batch, n, 1), torch.zeros(1, n, 3), grid=grid)


def idle(grid, ratio=0.5):
    """Which places are left out."""
    made = on(grid)
    split = Ratio(ratio, "hidden_down").cut({"a": RunningCellMasking().rank(made, DRAW)}, {"a": made}, DRAW)["a"]
    return torch.zeros(100, made.count, dtype=torch.bool).scatter(1, split.ids_masked, True).unflatten(1, grid)


def test_running_cell_is_found_by_its_name():
    assert lookup("masking", "running_cell") is RunningCellMasking


@pytest.mark.parametrize("grid", [(8, 14, 14), (8, 16, 16), (4, 4, 6), (1, 2, 2), (3, 2, 4)])
def test_half_of_every_frame_is_left_out(grid):
    assert (idle(grid).sum(dim=(2, 3)) == grid[1] * grid[2] // 2).all()


def test_every_place_is_left_out_in_half_of_the_frames():
    assert (idle((8, 14, 14)).sum(dim=1) == 4).all()


def test_the_cells_of_a_frame_are_alike():
    cells = idle((8, 6, 8)).unflatten(3, (4, 2)).unflatten(2, (3, 2))
    assert torch.equal(cells, cells[:, :, :1, :, :1].expand_as(cells))


def test_the_pattern_is_that_of_the_fact_sheet_from_each_start():
    frames = ["1001", "0011", "0110", "1100"]  # fact sheet 3.4: the top-left cell of successive frames, 1: not decoded
    corner = idle((8, 4, 4))[:, :, :2, :2].flatten(2).int().tolist()
    found = {tuple("".join(map(str, cell)) for cell in sample) for sample in corner}
    assert found == {tuple((frames[start:] + frames[:start]) * 2) for start in range(4)}


def test_the_official_masks_are_two_of_the_four():
    reference = load_file(REFERENCE / "videomaev2.safetensors")["mask/decode_mask"]
    ours = {tuple(row.flatten().tolist()) for row in idle((4, 4, 4))}
    assert len(ours) == 4
    assert {tuple(row.tolist()) for row in reference} <= ours


def test_every_start_is_as_likely():
    draw = Draw(torch.arange(4000))
    ranks = RunningCellMasking().rank(on((1, 2, 2), 4000), draw)
    assert (ranks[:, 0].long().bincount(minlength=4) / 4000 - 0.25).abs().max() < 0.03


@pytest.mark.parametrize("ratio", [0.25, 0.75])
def test_at_quarters_too_every_frame_gives_alike(ratio):
    places = idle((8, 4, 6), ratio)
    assert (places.sum(dim=(2, 3)) == 24 * ratio).all()
    assert (places.sum(dim=1) == 8 * ratio).all()


def test_the_rank_depends_on_the_draw_alone():
    some = RunningCellMasking().rank(on((4, 4, 4), 3), Draw(DRAW.keys[:3]))
    assert torch.equal(some, RunningCellMasking().rank(on((4, 4, 4), 5), Draw(DRAW.keys[:5]))[:3])


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (None, r"Running cells need a grid of time, rows and columns, and these tokens have None: use random masking"),
        ((4, 6), r"these tokens have \(4, 6\): use random masking"),
        ((2, 3, 4), r"Running cells of 2 x 2 tokens do not divide the grid \(2, 3, 4\)\. Use an even number of rows"),
        ((2, 4, 3), r"do not divide the grid \(2, 4, 3\)"),
    ],
)
def test_tokens_on_another_grid_are_refused(grid, message):
    with pytest.raises(MaskingError, match=message):
        RunningCellMasking().rank(on(grid), DRAW)
