from dataclasses import replace

import pytest
import torch

from mmim.draw import Draw
from mmim.errors import MaskingError, OptionError
from mmim.masking.budget import Ratio, split_at
from tests.toy import tokens


@pytest.mark.parametrize(
    ("budget", "n", "group", "kept"),
    [
        (Ratio(0.75, "kept_down"), 196, 1, 49),  # MAE
        (Ratio(0.9, "hidden_down"), 1568, 8, 160),  # VideoMAE
        (Ratio(0.9, "hidden_down"), 2048, 8, 208),  # VideoMAE V2, encoder
        (Ratio(0.9, "kept_down"), 1568, 1, 156),  # OmniMAE, video ("about 157")
        (Ratio(0.6, "hidden_down"), 64, 1, 26),  # Point-MAE
        (Ratio(0.6, "hidden_up"), 48**2, 64, (36 - 22) * 64),  # SimMIM with Swin, 192 pixels: cells of 8 x 8
        (Ratio(0.6, "hidden_up"), 196, 4, (49 - 30) * 4),  # SimMIM with ViT, 224 pixels: cells of 2 x 2
        (Ratio(0.4, "nearest"), 196, 1, 196 - 78),  # MaskFeat with ViT
        (Ratio(0.4, "nearest"), 392, 1, 392 - 157),  # MaskFeat with MViT
        (Ratio(0.8, "kept_down"), 512, 1, 102),  # Audio-MAE
        (Ratio(0.75, "kept_down"), 512, 1, 128),  # CAV-MAE, audio
        (Ratio(0.8, "kept_down"), 196, 1, 39),  # data2vec 2
    ],
)
def test_keeps_as_many_tokens_as_the_published_system(budget, n, group, kept):
    assert budget.num_keep(n, group=group) == kept  # fact sheet 2.2


def test_mae_keeps_the_floating_error_of_its_formula():
    # 1 - 0.9 is just below 0.1, so int(20 * (1 - 0.9)) is 1 where arithmetic on paper says 2; MAE's code does the same.
    assert Ratio(0.9, "kept_down").num_keep(20) == 1
    assert Ratio(0.9, "hidden_down").num_keep(20) == 2


def test_visible_and_hidden_partition_the_tokens():
    split = Ratio(0.7).cut({"a": torch.rand(5, 24)}, {"a": tokens(5)}, Draw(torch.arange(5)))["a"]
    both = torch.cat([split.ids_keep, split.ids_masked], dim=1)
    assert torch.equal(both.sort(dim=1).values, torch.arange(24).expand(5, 24))


def padded_split(lengths: list[int], ratio: float):
    valid = torch.arange(24) < torch.tensor(lengths)[:, None]
    ranks = torch.rand(len(lengths), 24, generator=torch.Generator().manual_seed(0))
    draw = Draw(torch.arange(len(lengths)))
    return Ratio(ratio).cut({"a": ranks}, {"a": tokens(len(lengths), valid=valid)}, draw)["a"], ranks


def test_visible_and_hidden_partition_the_valid_tokens():
    lengths = [24, 11, 5, 0]
    split, _ = padded_split(lengths, 0.6)
    for row, length in enumerate(lengths):
        both = [*split.ids_keep[row][split.keep_valid[row]], *split.ids_masked[row][split.masked_valid[row]]]
        assert sorted(int(place) for place in both) == list(range(length))


def test_a_padded_sample_keeps_the_share_of_its_own_length():
    split, ranks = padded_split([24, 11, 5], 0.6)
    assert split.keep_valid.sum(dim=1).tolist() == [int(24 * (1 - 0.6)), int(11 * (1 - 0.6)), int(5 * (1 - 0.6))]
    lowest = ranks[1, :11].argsort()[:4]
    assert sorted(split.ids_keep[1][split.keep_valid[1]].tolist()) == sorted(lowest.tolist())


def test_the_lowest_ranks_stay_visible():
    rank = torch.tensor([[0.5, 0.1, 0.9, 0.3]])
    split = split_at(rank, 2)
    assert split.ids_keep.tolist() == [[1, 3]]
    assert split.ids_masked.tolist() == [[0, 2]]


def test_ties_go_in_token_order():
    n = 1568
    split = split_at(torch.zeros(1, n), 100)
    assert split.ids_keep.tolist() == [list(range(100))]


def test_full_tokens_need_no_validity():
    split = split_at(torch.rand(2, 24), 5)
    assert split.keep_valid is None
    assert split.masked_valid is None


def test_modalities_are_cut_each_by_its_own_count():
    made = {"a": tokens(grid=(4, 2, 3)), "b": tokens(grid=(2, 2, 2))}
    ranks = {name: torch.rand(2, part.count) for name, part in made.items()}
    splits = Ratio(0.75).cut(ranks, made, Draw(torch.arange(2)))
    assert {name: split.ids_keep.shape[1] for name, split in splits.items()} == {"a": 6, "b": 2}


@pytest.mark.parametrize(("ratio", "n", "grid", "most"), [(0.9, 4, (2, 2), 0.75), (1.0, 3, (3,), 0.6666)])
def test_hiding_everything_is_refused_with_the_largest_ratio_that_works(ratio, n, grid, most):
    message = rf"Ratio\(ratio={ratio}.*hides all {n} tokens of grid .*Use a ratio <= {most}, or smaller patches"
    with pytest.raises(MaskingError, match=message):
        Ratio(ratio).num_keep(n, grid)


@pytest.mark.parametrize("rounding", ["kept_down", "hidden_down", "hidden_up", "nearest"])
@pytest.mark.parametrize("n", [2, 3, 4, 7, 10, 49, 196])
def test_the_ratio_that_the_message_proposes_works(rounding, n):
    with pytest.raises(MaskingError) as refused:
        Ratio(1.0, rounding).num_keep(n)
    proposed = float(str(refused.value).split("<= ")[1].split(",")[0])
    assert Ratio(proposed, rounding).num_keep(n) >= 1


@pytest.mark.parametrize("ratio", [-0.1, 1.1, 90.0])
def test_a_ratio_is_a_share(ratio):
    with pytest.raises(OptionError, match=rf"masking ratio of {ratio} can't be.*\[0, 1\]"):
        Ratio(ratio)


def test_a_short_batch_of_padded_samples_keeps_a_token_of_each():
    valid = torch.arange(8) < torch.tensor([[8], [3]])
    made = replace(tokens(2, (8,)), valid=valid)
    split = Ratio(0.95).cut({"a": torch.rand(2, 8)}, {"a": made}, Draw(torch.arange(2)))["a"]
    assert split.keep_valid.sum(dim=1).tolist() == [1, 1]
    assert split.masked_valid.sum(dim=1).tolist() == [7, 2]


def test_a_ratio_of_one_hides_padded_samples_whole_and_is_refused():
    made = replace(tokens(2, (8,)), valid=torch.arange(8) < torch.tensor([[8], [3]]))
    with pytest.raises(MaskingError, match="hides all 8 tokens"):
        Ratio(1.0).cut({"a": torch.rand(2, 8)}, {"a": made}, Draw(torch.arange(2)))
