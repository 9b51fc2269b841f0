"""Checks of the default masking policy with the ratio budget, and of what the encoder may see."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from mmim.corruption.corruption import Corruption
from mmim.corruption.drop import Drop
from mmim.corruption.mask_token import MaskToken
from mmim.draw import Draw
from mmim.modality import Modality
from mmim.model import MaskedModel
from mmim.records import Batch, Split, Tokens
from mmim.testing.cuts import flags_of, ranks_of, require_partition, require_whole_groups
from mmim.testing.example import NAME, cut, example, raw_of, readable, toy_model
from mmim.testing.failure import require


def masks_keep_whole_groups_and_the_promised_count(modality: Modality, files: Sequence[Path]) -> None:
    """Groups divide the tokens, tokens of a group share a rank, and a ratio keeps exactly what its rounding says."""
    batch = example(modality, files)
    require_whole_groups(modality.masking, modality.tokenize(raw_of(batch)), Draw(batch.keys))


def visible_and_masked_partition_the_tokens(modality: Modality, files: Sequence[Path]) -> None:
    """Every valid token is visible or masked, none is both, and padding is neither."""
    batch = example(modality, files)
    require_partition(modality.masking, modality.tokenize(raw_of(batch)), Draw(batch.keys))


def a_sample_gets_the_same_mask_in_any_batch(modality: Modality, files: Sequence[Path]) -> None:
    """Its key decides alone: not its neighbours, nor their number or order. Another key hides other tokens."""
    batch = example(modality, files)
    rank, policy = _rank(modality, batch), modality.masking
    require(torch.equal(rank, _rank(modality, batch)), "the same ranks of the same draw", "others", policy, "rank")
    turned = _rank(modality, readable(modality, files[::-1])).flip(0)
    require(torch.equal(rank, turned), "the same ranks in another order of the batch", "others", policy, "rank")
    for place, file in enumerate(files):
        alone = _rank(modality, readable(modality, [file]))[0]
        longer = rank[place, : len(alone)]  # beside longer samples it is padded
        require(torch.equal(longer, alone), "the same ranks of a sample alone", "others", policy, "rank")
    others = [_rank(modality, replace(batch, keys=batch.keys + turn)) for turn in range(1, 5)]
    differ = any(not torch.equal(rank, other) for other in others)
    require(differ, "other ranks with other keys", "the same with 5", policy, "rank")


def hidden_content_stays_hidden(modality: Modality, files: Sequence[Path]) -> None:
    """Other content in the hidden tokens leaves the latents as they are, to the bit. Hidden tokens are dropped."""
    _no_leak(modality, files, Drop())


def hidden_content_stays_hidden_behind_mask_tokens(modality: Modality, files: Sequence[Path]) -> None:
    """The same where a mask token stands for each of them, and all pass through the embedder."""
    _no_leak(modality, files, MaskToken())


def hidden_content_stays_hidden_in_training(modality: Modality, files: Sequence[Path]) -> None:
    """The first of these in training mode, where an embedder may have statistics over the batch."""
    _no_leak(modality, files, Drop(), training=True)


def _no_leak(modality: Modality, files: Sequence[Path], corruption: Corruption, *, training: bool = False) -> None:
    batch = example(modality, files)
    model = toy_model(modality, corruption=corruption).train(training)
    tokens, split = cut(model, batch)
    visible = torch.zeros(tokens.values.shape[:2], dtype=torch.bool)
    visible.scatter_(1, split.ids_keep, flags_of(split.ids_keep, split.keep_valid))
    shown = visible.reshape(*visible.shape, *[1] * (tokens.values.ndim - 2))
    before = _latents(model, batch, tokens, split)
    turned = tokens.values.flip(0, 1)
    for other in (torch.zeros_like(turned), turned * 3 + 1 if turned.is_floating_point() else turned):
        after = _latents(model, batch, replace(tokens, values=torch.where(shown, tokens.values, other)), split)
        mode = ", training mode" if training else ""
        said = f"latents that do not know what is hidden (corruption {type(corruption).__name__}{mode})"
        require(torch.equal(before, after), said, "others: hidden content leaks", modality, "embedder, position")


@torch.no_grad()
def _latents(model: MaskedModel, batch: Batch, tokens: Tokens, split: Split) -> Tensor:
    """The valid latents of one pass, zeros elsewhere; what drops out does not differ from pass to pass."""
    torch.manual_seed(0)
    branch = model.trunk.branch(NAME, tokens, split, batch.present[NAME], Draw(batch.keys))
    latents = model.trunk.encoder.joint({NAME: branch}, ((NAME, tokens.count),), batch.present)
    if latents.valid is None:
        return latents.values
    return latents.values.masked_fill(~latents.valid[..., None], 0)


def _rank(modality: Modality, batch: Batch) -> Tensor:
    return ranks_of(modality.masking, modality.tokenize(raw_of(batch)), Draw(batch.keys))
