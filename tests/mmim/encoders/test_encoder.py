from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from mmim.corruption.mask_token import MaskToken
from mmim.draw import Draw
from mmim.encoders.encoder import Trunk, Visible
from mmim.encoders.joint import JointEncoder
from mmim.modality import BatchEmbedder
from mmim.records import Split, gather_tokens
from tests.toy import Toy, branch, tokens
from tests.videomae import redraw

LAYOUT = (("a", 8), ("b", 8))
BOTH = {name: torch.tensor([True, True]) for name in "ab"}


@pytest.fixture
def trunk() -> Trunk:
    trunk = Trunk({"a": Toy(), "b": Toy()}, JointEncoder(width=8, depth=2, heads=2))
    redraw(trunk)
    return trunk.eval()


def visible(seed: int, k: int, valid: torch.Tensor | None = None) -> Visible:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.stack([torch.randperm(8, generator=generator)[:k] for _ in range(2)])
    values = torch.randn(2, k, 8, generator=generator)
    return Visible(values, torch.zeros_like(values), ids, tokens(), valid)


def test_embeds_and_places_only_what_is_visible(trunk):
    cut = Toy().tokenize(torch.randn(2, 8, 4))
    ids = torch.tensor([[6, 0], [3, 5]])
    found = branch(trunk, "a", cut, Split(ids, ids))
    whole = trunk.embedders["a"](cut.values) + trunk.positions["a"](cut)
    assert_close(found.values, torch.stack([whole[b, row] for b, row in enumerate(ids.tolist())]))


def test_with_a_mask_token_the_encoder_sees_all_places_and_no_hidden_content():
    trunk = Trunk({"a": Toy()}, JointEncoder(width=8, depth=1, heads=2), {"a": MaskToken()})
    redraw(trunk)
    numbers = torch.randn(2, 8, 4)
    cut, ids = Toy().tokenize(numbers), torch.tensor([[6, 0, 1, 2, 3, 4, 5, 7], [3, 5, 0, 1, 2, 4, 6, 7]])
    split = Split(ids[:, :3], ids[:, 3:])
    found = branch(trunk, "a", cut, split)
    assert torch.equal(found.ids, torch.arange(8).expand(2, 8))
    kept = trunk.embedders["a"](cut.values) + trunk.positions["a"](cut)
    masked = trunk.corruption["a"].mask_token + trunk.positions["a"](cut).expand(2, -1, -1)
    assert_close(gather_tokens(found.values, split.ids_keep), gather_tokens(kept, split.ids_keep))
    assert_close(gather_tokens(found.values, split.ids_masked), gather_tokens(masked, split.ids_masked))


def test_padding_is_not_hidden():
    trunk = Trunk({"a": Toy()}, JointEncoder(width=8, depth=1, heads=2), {"a": MaskToken()})
    cut = replace(Toy().tokenize(torch.randn(1, 8, 4)), valid=torch.arange(8)[None] < 5)
    ids = torch.arange(8)[None]
    found = branch(
        trunk, "a", cut, Split(ids[:, :2], ids, None, torch.tensor([[False] * 2 + [True] * 3 + [False] * 3]))
    )
    content = (found.values - trunk.positions["a"](cut))[0]
    same = (content - trunk.corruption["a"].mask_token[0]).abs().amax(dim=1) < 1e-6
    assert same.tolist() == [False] * 2 + [True] * 3 + [False] * 3


def test_modalities_are_packed_in_the_order_of_the_layout(trunk):
    parts = {"b": visible(1, 3), "a": visible(2, 2)}
    latents = trunk.encoder.joint(parts, LAYOUT, BOTH)
    assert torch.equal(latents.at, torch.cat([parts["a"].ids, parts["b"].ids + 8], dim=1))
    assert latents.valid is not None
    assert latents.valid.all()


def test_one_modality_alone_keeps_its_places_and_needs_no_mask(trunk):
    part = visible(1, 3)
    latents = trunk.encoder.joint({"b": part}, LAYOUT, {"a": ~BOTH["a"], "b": torch.tensor([True, False])})
    assert torch.equal(latents.at, part.ids + 8)
    assert latents.valid is None


def test_an_absent_modality_does_not_change_the_others(trunk):
    present = {"a": torch.tensor([True, True]), "b": torch.tensor([True, False])}
    a, one, other = visible(1, 3), visible(2, 4), visible(3, 4)
    found, expected = (trunk.encoder.joint({"a": a, "b": b}, LAYOUT, present) for b in (one, other))
    assert_close(found.values[1, :3], expected.values[1, :3], rtol=0, atol=0)
    assert not torch.allclose(found.values[0, :3], expected.values[0, :3])


def test_validity_and_presence_are_both_needed(trunk):
    present = {"a": torch.tensor([True, False]), "b": torch.tensor([True, True])}
    valid = torch.tensor([[True, False], [True, False]])
    latents = trunk.encoder.joint({"a": visible(1, 2, valid), "b": visible(2, 1)}, LAYOUT, present)
    assert latents.valid is not None
    assert latents.valid.tolist() == [[True, False, True], [False, False, True]]


class Centred(BatchEmbedder):
    """Takes the mean of the counted tokens away."""

    def __init__(self, sees_hidden: bool) -> None:
        super().__init__()
        self.sees_hidden = sees_hidden

    def forward(self, values, counted):
        self.counted = counted
        weights = counted[..., None].to(values.dtype)
        mean = (values * weights).sum(dim=(0, 1)) / weights.sum()
        return nn.functional.pad(values - mean, (0, 4))


@pytest.mark.parametrize("sees_hidden", [True, False])
def test_an_embedder_with_statistics_is_told_who_counts(sees_hidden):
    trunk = Trunk({"a": Toy()}, JointEncoder(width=8, depth=1, heads=2))
    trunk.embedders["a"] = Centred(sees_hidden)
    values, valid = torch.randn(3, 8, 4), torch.ones(3, 8, dtype=torch.bool)
    valid[0, 6:] = False
    cut = replace(Toy().tokenize(values), valid=valid)
    ids = torch.arange(8).expand(3, 8)
    split = Split(ids[:, :5], ids[:, 5:])
    present = torch.tensor([True, False, True])
    found = trunk.branch("a", cut, split, present, Draw(torch.arange(3)))
    counted = valid & present[:, None] if sees_hidden else torch.ones(3, 5, dtype=torch.bool) & present[:, None]
    assert torch.equal(trunk.embedders["a"].counted, counted)
    seen = values if sees_hidden else values[:, :5]
    content = nn.functional.pad(values[:, :5] - seen[counted].mean(dim=0), (0, 4))
    assert_close(found.values, content + trunk.positions["a"](cut)[:, :5])


def test_positions_before_every_block_reach_the_blocks_of_branches_and_the_shared_ones():
    encoder = JointEncoder(width=8, depth=1, branch_depth=1, heads=2, positions="every_block", global_tokens=1)
    trunk = Trunk({"a": Toy(), "b": Toy()}, encoder)
    redraw(trunk)
    parts = {name: replace(visible(seed, 3), positions=torch.randn(2, 3, 8)) for seed, name in enumerate("ab")}
    joined = {name: trunk.encoder.branch(name, part) for name, part in parts.items()}
    block = trunk.encoder.branches["a"][0]
    assert_close(joined["a"].values, block(parts["a"].values + parts["a"].positions))
    latents = trunk.encoder.joint(joined, LAYOUT, BOTH)
    together = torch.cat([joined[name].values + parts[name].positions for name in "ab"], dim=1)
    together = torch.cat([together, trunk.encoder.global_tokens.expand(2, -1, -1)], dim=1)
    allowed = torch.ones(2, 1, 7, 7, dtype=torch.bool)
    assert_close(latents.values, trunk.encoder.norm(trunk.encoder.blocks[0](together, allowed))[:, :6])


@pytest.mark.parametrize("sees_hidden", [True, False])
def test_behind_mask_tokens_an_embedder_counts_hidden_content_only_if_it_says_so(sees_hidden):
    trunk = Trunk({"a": Toy()}, JointEncoder(width=8, depth=1, heads=2), {"a": MaskToken()})
    trunk.embedders["a"] = Centred(sees_hidden)
    ids = torch.arange(8).expand(3, 8)
    branch(trunk, "a", Toy().tokenize(torch.randn(3, 8, 4)), Split(ids[:, :5], ids[:, 5:]))
    assert torch.equal(trunk.embedders["a"].counted, (ids < 5) | sees_hidden)
