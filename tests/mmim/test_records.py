import pytest
import torch

from mmim.records import Batch, Latents, LossTerm, gather_tokens, map_raw


def test_gathers_rows_of_every_sample():
    x, ids = torch.randn(3, 7, 2, 4), torch.tensor([[6, 0], [1, 1], [3, 5]])
    expected = torch.stack([torch.stack([x[b, i] for i in row]) for b, row in enumerate(ids.tolist())])
    assert torch.equal(gather_tokens(x, ids), expected)


def test_a_batch_of_one_serves_all_samples():
    x, ids = torch.randn(1, 7, 4), torch.tensor([[6, 0], [1, 1], [3, 5]])
    assert torch.equal(gather_tokens(x, ids), gather_tokens(x.expand(3, -1, -1), ids))


def test_flags_are_gathered_too():
    assert gather_tokens(torch.tensor([[True, False]]), torch.tensor([[1, 0, 1]])).tolist() == [[False, True, False]]


def test_a_function_of_raw_data_goes_leaf_by_leaf():
    one, other = (
        {"samples": torch.ones(2), "number": torch.tensor(3)},
        {"samples": torch.zeros(2), "number": torch.tensor(4)},
    )
    stacked = map_raw(lambda *tensors: torch.stack(tensors), one, other)
    assert isinstance(stacked, dict)
    assert {name: tensor.tolist() for name, tensor in stacked.items()} == {
        "samples": [[1, 1], [0, 0]],
        "number": [3, 4],
    }


def test_every_tensor_of_a_batch_moves():
    flags, numbers = torch.ones(2, dtype=torch.bool), torch.arange(2)
    raw = {"named": {"a": torch.ones(2)}, "plain": torch.ones(2)}
    moved = Batch({"main": raw}, {"named": flags, "plain": flags}, numbers, numbers, torch.tensor(0)).to("meta")
    leaves = [moved.views["main"]["named"]["a"], moved.views["main"]["plain"], *moved.present.values()]
    assert all(leaf.is_meta for leaf in [*leaves, moved.ids, moved.keys, moved.step])


def test_slots_are_counted_in_the_order_of_the_layout():
    latents = Latents(torch.zeros(1, 2, 4), torch.zeros(1, 2, dtype=torch.int64), (("a", 5), ("b", 3)))
    assert latents.slots("a") == (0, 5)
    assert latents.slots("b") == (5, 8)
    with pytest.raises(KeyError, match="c"):
        latents.slots("c")


def test_a_weight_scales_the_sum_and_not_the_count():
    term = LossTerm(torch.tensor(3.0), torch.tensor(2.0)).scaled(0.5)
    assert (term.total, term.count) == (1.5, 2.0)
