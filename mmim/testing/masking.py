"""Checks of the default masking policy with the ratio budget, and of what the encoder may see."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from math import ceil, floor
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from mmim.corruption.corruption import Corruption
from mmim.corruption.drop import Drop
from mmim.corruption.mask_token import MaskToken
from mmim.draw import Draw
from mmim.errors import MaskingError
from mmim.masking.budget import Groups, Ratio, groups_of
from mmim.modality import Modality
from mmim.model import MaskedModel
from mmim.records import Batch, Split, Tokens
from mmim.testing.example import NAME, cut, example, raw_of, readable, toy_model
from mmim.testing.failure import require

Rounding = Literal["kept_down", "hidden_down", "hidden_up", "nearest"]
BUDGETS = tuple((share, rounding) for share in (Fraction(1, 2), Fraction(3, 4)) for rounding in get_args(Rounding))


def masks_keep_whole_groups_and_the_promised_count(modality: Modality, files: Sequence[Path]) -> None:
    """Groups divide the tokens, tokens of a group share a rank, and a ratio keeps exactly what its rounding says."""
    batch = example(modality, files)
    tokens, groups = modality.tokenize(raw_of(batch)), _groups(modality, batch)
    lengths, per_group = _valid(tokens).sum(dim=1), _per_group(groups, len(files))
    policy = modality.masking
    require(tokens.count % groups.size == 0, f"a size that divides {tokens.count} tokens", groups.size, policy, "group")
    whole = bool((lengths % per_group == 0).all())
    require(whole, f"sizes that divide {lengths.tolist()} valid tokens", per_group.tolist(), policy, "group")
    for rank, there, size in zip(_rank(modality, batch), _valid(tokens), per_group.tolist(), strict=True):
        sizes = rank[there].unique(return_counts=True)[1]
        alike = size == 1 or bool((sizes == size).all())
        require(alike, f"each rank shared by the {size} tokens of a group", sizes.tolist(), policy, "rank")
    for share, rounding in BUDGETS:
        split = _cut(modality, batch, Ratio(float(share), rounding=rounding))
        if split is not None:
            counts = _flags(split.ids_keep, split.keep_valid).sum(dim=1)
            kept = [
                _kept(n // s, share, rounding) * s for n, s in zip(lengths.tolist(), per_group.tolist(), strict=True)
            ]
            said = f"{kept} visible tokens with ratio {share} and rounding {rounding}"
            require(counts.tolist() == kept, said, counts.tolist(), policy, "group")


def visible_and_masked_partition_the_tokens(modality: Modality, files: Sequence[Path]) -> None:
    """Every valid token is visible or masked, none is both, and padding is neither."""
    batch = example(modality, files)
    tokens = modality.tokenize(raw_of(batch))
    for share, rounding in BUDGETS:
        split = _cut(modality, batch, Ratio(float(share), rounding=rounding))
        if split is not None:
            times = torch.zeros(len(files), tokens.count, dtype=torch.int64)
            times.scatter_add_(1, split.ids_keep, _flags(split.ids_keep, split.keep_valid).long())
            times.scatter_add_(1, split.ids_masked, _flags(split.ids_masked, split.masked_valid).long())
            once = torch.equal(times, _valid(tokens).long())
            require(once, "each valid token once", f"counts of {times.tolist()}", modality.masking, "rank")


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
    visible.scatter_(1, split.ids_keep, _flags(split.ids_keep, split.keep_valid))
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
    return modality.masking.rank(modality.tokenize(raw_of(batch)), Draw(batch.keys).named("check"))


def _groups(modality: Modality, batch: Batch) -> Groups:
    return groups_of(modality.masking, modality.tokenize(raw_of(batch)))


def _per_group(groups: Groups, b: int) -> Tensor:
    """Valid tokens of a group, by sample."""
    return torch.full((b,), groups.size) if groups.valid is None else groups.valid.clamp(min=1)


def _cut(modality: Modality, batch: Batch, budget: Ratio) -> Split | None:
    """A split of the batch; None where the budget refuses, since nothing would be visible."""
    ranks, tokens = {NAME: _rank(modality, batch)}, {NAME: modality.tokenize(raw_of(batch))}
    try:
        return budget.cut(ranks, tokens, Draw(batch.keys), {NAME: _groups(modality, batch)})[NAME]
    except MaskingError:
        return None


def _kept(places: int, share: Fraction, rounding: str) -> int:
    """How many of so many groups stay; of a short sample at least one."""
    return max(_rounded(places, share, rounding), min(places, 1))


def _rounded(places: int, share: Fraction, rounding: str) -> int:
    match rounding:
        case "kept_down":
            return floor(places * (1 - share))
        case "hidden_down":
            return places - floor(places * share)
        case "hidden_up":
            return places - ceil(places * share)
        case _:
            return places - round(places * share)


def _valid(tokens: Tokens) -> Tensor:
    return torch.ones(tokens.values.shape[:2], dtype=torch.bool) if tokens.valid is None else tokens.valid


def _flags(ids: Tensor, valid: Tensor | None) -> Tensor:
    return torch.ones_like(ids, dtype=torch.bool) if valid is None else valid
