import math
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from torch.testing import assert_close

from mmim.errors import OptionError
from mmim.layers.patches import grid_coords
from mmim.layers.positions import (
    CoordSinusoid,
    FlatSinusoid,
    LearnedTable,
    half_sinusoid,
    interleaved_sinusoid,
    map_positions,
)
from mmim.records import Tokens
from tests.toy import tokens
from tests.videomae import REFERENCE


def test_sinusoid_equals_its_formula():
    code = interleaved_sinusoid(torch.arange(9.0), 6)
    for place in range(9):
        for j in range(6):
            angle = place / 10000 ** (2 * (j // 2) / 6)
            assert code[place, j] == pytest.approx(math.cos(angle) if j % 2 else math.sin(angle), abs=1e-14)


@pytest.mark.parametrize(("name", "width"), [("fixed/encoder.pos_embed", 48), ("fixed/pos_embed", 32)])
def test_codes_equal_the_tables_of_videomae(name, width):
    with safe_open(REFERENCE / "videomae.safetensors", "pt") as file:
        table = file.get_tensor(name)
    assert_close(FlatSinusoid(width)(tokens(grid=(8, 4, 4))), table, rtol=0, atol=1e-7)


def test_more_frames_leave_the_codes_of_the_first_unchanged():
    code, longer = FlatSinusoid(8)(tokens(grid=(4, 2, 3))), FlatSinusoid(8)(tokens(grid=(9, 2, 3)))
    assert torch.equal(longer[:, : code.shape[1]], code)


def test_another_frame_size_changes_the_codes():
    code, wider = FlatSinusoid(8)(tokens(grid=(2, 2, 2))), FlatSinusoid(8)(tokens(grid=(2, 2, 3)))
    assert torch.equal(wider[:, :2], code[:, :2])
    assert not torch.equal(wider[:, 3], code[:, 2])


def test_no_two_places_share_a_code():
    code = FlatSinusoid(8)(tokens(grid=(8, 14, 14)))[0]
    assert len(torch.unique(code, dim=0)) == 8 * 14 * 14


def stored(file: str, name: str) -> torch.Tensor:
    with safe_open(REFERENCE / f"{file}.safetensors", "pt") as tensors:
        return tensors.get_tensor(f"state/{name}")


@pytest.mark.parametrize(
    ("file", "name", "kind", "grid"),
    [
        ("mae_norm_pix", "pos_embed", "sincos", (4, 4)),
        ("mae_norm_pix", "decoder_pos_embed", "sincos", (4, 4)),
        ("mae_raw_pixels", "pos_embed", "sincos", (3, 3)),
        ("audiomae_plain_decoder", "pos_embed", "sincos_transposed", (8, 4)),
        ("audiomae_plain_decoder", "decoder_pos_embed", "sincos_transposed", (8, 4)),
        ("audiomae_local_decoder", "pos_embed", "sincos_transposed", (64, 8)),
        ("ijepa", "encoder.pos_embed", "sincos", (8, 8)),
    ],
)
def test_codes_equal_the_tables_of_published_systems(file, name, kind, grid):
    table = stored(file, name)
    places = table[:, -grid[0] * grid[1] :]  # the class token's row is zero and stands first
    assert not table[:, : -places.shape[1]].any()
    assert_close(map_positions(kind, table.shape[-1], grid)(tokens(grid=grid)), places, rtol=0, atol=1e-6)


def test_row_first_codes_equal_the_table_of_multimae():
    with safe_open(REFERENCE / "multimae.safetensors", "pt") as file:
        name = next(name for name in file.keys() if name.endswith("rgb.pos_emb"))  # noqa: SIM118
        table = file.get_tensor(name)  # [1 d h w]
    code = map_positions("sincos_row_first", table.shape[1], table.shape[2:])(tokens(grid=tuple(table.shape[2:])))
    assert_close(code, table.flatten(2).transpose(1, 2), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["sincos", "sincos_row_first", "learned"])
def test_a_finer_grid_gets_the_codes_stretched(kind):
    position = map_positions(kind, 8, (6, 6))
    code = position(tokens(grid=(6, 6))).reshape(6, 6, 8)
    finer = position(tokens(grid=(12, 12))).reshape(12, 12, 8)
    middle = finer.reshape(6, 2, 6, 2, 8).mean(dim=(1, 3))[2:-2, 2:-2]  # four small places make up a large one
    assert (middle - code[2:-2, 2:-2]).abs().max() < (0.1 if kind != "learned" else 0.02)


@pytest.mark.parametrize("kind", ["sincos", "sincos_transposed"])
def test_a_longer_time_leaves_the_codes_of_the_beginning(kind):
    position = map_positions(kind, 8, (6, 4), extends=(True, False))
    code, longer, shorter = (position(tokens(grid=(time, 4))) for time in (6, 15, 3))
    assert torch.equal(longer[:, :24], code)
    assert torch.equal(shorter, code[:, :12])
    assert len(torch.unique(longer[0], dim=0)) == 60


def test_frames_of_another_size_get_the_codes_stretched():
    position = FlatSinusoid(8, (3, 4, 4))
    same, finer = position(tokens(grid=(3, 4, 4))), position(tokens(grid=(5, 8, 8)))
    assert torch.equal(same, FlatSinusoid(8)(tokens(grid=(3, 4, 4))))
    assert finer.shape == (1, 320, 8)
    corners = finer.reshape(5, 8, 8, 8)[:3, :2, :2].mean(dim=(1, 2)), same.reshape(3, 4, 4, 8)[:, 0, 0]
    assert (corners[0] - corners[1]).abs().max() < 0.5


def test_a_learned_table_gets_gradients_on_another_grid_too():
    position = LearnedTable(8, (4, 4))
    position(tokens(grid=(6, 5))).sum().backward()
    assert (position.table.grad != 0).all()


def test_a_learned_table_ends_where_time_was_learnt_to_end():
    position = map_positions("learned", 8, (6, 4), extends=(True, False))
    whole, shorter = position(tokens(grid=(6, 4))), position(tokens(grid=(2, 4)))
    assert torch.equal(shorter, whole[:, :8])
    assert position(tokens(grid=(6, 8))).shape == (1, 48, 8)
    with pytest.raises(OptionError, match=r"learned table of \(6, 4\) places can't go on to \(9, 4\)"):
        position(tokens(grid=(9, 4)))


def test_no_position_is_zero():
    code = map_positions("none", 8, (4, 4))(tokens(grid=(4, 4)))
    assert code.shape == (1, 16, 8)
    assert not code.any()


def test_a_width_that_four_does_not_divide_is_refused():
    with pytest.raises(OptionError, match="4 divides, not 6"):
        map_positions("sincos", 6, (4, 4))


def test_tokens_without_a_grid_are_refused():
    made = tokens()
    with pytest.raises(OptionError, match="needs tokens on a grid"):
        FlatSinusoid(8)(Tokens(made.values, made.coords))


def test_an_odd_width_is_refused():
    with pytest.raises(OptionError, match="even width, not 7"):
        FlatSinusoid(7)


def test_a_learned_table_of_a_sequence_has_its_beginning_in_the_precision_of_its_weights():
    position = LearnedTable(8, (6,), (True,)).double()
    ids = replace(tokens(grid=(4,)), values=torch.zeros(2, 4, dtype=torch.int64))
    assert torch.equal(position(ids), position.table[:, :4])
    assert FlatSinusoid(8)(ids).dtype == torch.float32
    assert FlatSinusoid(8)(replace(ids, values=torch.zeros(2, 4).double())).dtype == torch.float64


def test_flat_codes_of_a_map_are_stretched_along_both_axes_and_those_of_clips_go_on():
    flat, clip = map_positions("flat", 8, (4, 4)), FlatSinusoid(8, (4, 4))
    assert torch.equal(flat(tokens(grid=(4, 4))), clip(tokens(grid=(4, 4))))
    assert not torch.equal(flat(tokens(grid=(8, 4))), clip(tokens(grid=(8, 4))))
    assert torch.equal(clip(tokens(grid=(8, 4)))[:, :16], clip(tokens(grid=(4, 4))))


@pytest.mark.parametrize("kind", ["flat", "learned", "none"])
def test_some_codes_know_grids_of_three_axes(kind):
    assert map_positions(kind, 8, (1, 4, 4))(tokens(grid=(1, 4, 4))).shape == (1, 16, 8)


def test_sine_cosine_codes_of_three_axes_are_refused():
    with pytest.raises(
        OptionError, match=r"sincos codes lie on a grid of two axes, not on \(1, 4, 4\): use flat, learned"
    ):
        map_positions("sincos", 8, (1, 4, 4))


def test_a_sinusoid_of_coordinates_is_that_of_the_grid_where_they_lie_on_one():
    values = torch.zeros(2, 6, 1)
    on_grid = Tokens(values, grid_coords((6,)), grid=(6,))
    times = Tokens(values, torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 2.5])[None, :, None])
    codes = CoordSinusoid(8, unit=0.5)(times)
    assert_close(codes, half_sinusoid(on_grid.coords[..., 0], 8).float())
    assert_close(CoordSinusoid(8, unit=0.5, axes=2)(Tokens(values, times.coords.repeat(2, 1, 2)))[:, :, :4],
                 half_sinusoid(on_grid.coords[..., 0], 4).float().expand(2, -1, -1))  # fmt: skip


def test_a_width_that_the_axes_do_not_divide_is_refused():
    with pytest.raises(OptionError, match="a width that 6 divides, not 8"):
        CoordSinusoid(8, axes=3)
