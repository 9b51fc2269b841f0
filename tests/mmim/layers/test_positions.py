import math

import pytest
import torch
from safetensors import safe_open
from torch.testing import assert_close

from mmim.errors import OptionError
from mmim.layers.positions import FlatSinusoid, interleaved_sinusoid
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


def test_tokens_without_a_grid_are_refused():
    made = tokens()
    with pytest.raises(OptionError, match="needs tokens on a grid"):
        FlatSinusoid(8)(Tokens(made.values, made.coords))


def test_an_odd_width_is_refused():
    with pytest.raises(OptionError, match="even width, not 7"):
        FlatSinusoid(7)
