"""What a masking policy and the ratio budget make of tokens, and what must hold of it."""

from collections.abc import Sequence
from fractions import Fraction
from math import ceil, floor
from typing import Literal, get_args

import torch
from torch import Tensor

from mmim.draw import Draw
from mmim.errors import MaskingError
from mmim.masking.budget import Groups, Ratio, groups_of
from mmim.modality import MaskingPolicy
from mmim.records import Split, Tokens
from mmim.testing.failure import require

Rounding = Literal["kept_down", "hidden_down", "hidden_up", "nearest"]
BUDGETS = tuple((share, rounding) for share in (Fraction(1, 2), Fraction(3, 4)) for rounding in get_args(Rounding))
ONLY = "sample"
"""What the only modality is called here."""


def ranks_of(policy: MaskingPolicy, tokens: Tokens, draw: Draw) -> Tensor:
    """The ranking, with a hint of noise for a policy that wants to be guided."""
    hint = None if policy.hint is None else draw.uniform("hint", tokens.count)
    return policy.rank(tokens, draw.named("check"), hint)


def require_whole_groups(policy: MaskingPolicy, tokens: Tokens, draw: Draw) -> None:
    """Groups divide the tokens, tokens of a group share a rank, and a ratio keeps exactly what its rounding says."""
    groups, valid = groups_of(policy, tokens), valid_of(tokens)
    lengths, per_group = valid.sum(dim=1), _per_group(groups, len(valid))
    require(tokens.count % groups.size == 0, f"a size that divides {tokens.count} tokens", groups.size, policy, "group")
    whole = bool((lengths % per_group == 0).all())
    require(whole, f"sizes that divide {lengths.tolist()} valid tokens", per_group.tolist(), policy, "group")
    ranks = ranks_of(policy, tokens, draw)
    for rank, there, size in zip(ranks, valid, per_group.tolist(), strict=True):
        sizes = rank[there].unique(return_counts=True)[1]
        alike = size == 1 or bool((sizes == size).all())
        require(alike, f"each rank shared by the {size} tokens of a group", sizes.tolist(), policy, "rank")
    for share, rounding in BUDGETS:
        split = split_by(ranks, tokens, groups, Ratio(float(share), rounding=rounding))
        if split is not None:
            counts = flags_of(split.ids_keep, split.keep_valid).sum(dim=1)
            kept = [
                _kept(n // s, share, rounding) * s for n, s in zip(lengths.tolist(), per_group.tolist(), strict=True)
            ]
            said = f"{kept} visible tokens with ratio {share} and rounding {rounding}"
            require(counts.tolist() == kept, said, counts.tolist(), policy, "group")


def require_partition(policy: MaskingPolicy, tokens: Tokens, draw: Draw) -> None:
    """Every valid token is visible or masked, none is both, and padding is neither."""
    valid, ranks, groups = valid_of(tokens), ranks_of(policy, tokens, draw), groups_of(policy, tokens)
    for share, rounding in BUDGETS:
        split = split_by(ranks, tokens, groups, Ratio(float(share), rounding=rounding))
        if split is not None:
            times = torch.zeros(valid.shape, dtype=torch.int64)
            times.scatter_add_(1, split.ids_keep, flags_of(split.ids_keep, split.keep_valid).long())
            times.scatter_add_(1, split.ids_masked, flags_of(split.ids_masked, split.masked_valid).long())
            once = torch.equal(times, valid.long())
            require(once, "each valid token once", f"counts of {times.tolist()}", policy, "rank")


def split_by(ranks: Tensor, tokens: Tokens, groups: Groups, budget: Ratio) -> Split | None:
    """A split of the tokens; None where the budget refuses, since nothing would be visible."""
    no_draw = Draw(torch.arange(len(ranks)))  # a ratio draws nothing
    try:
        return budget.cut({ONLY: ranks}, {ONLY: tokens}, no_draw, {ONLY: groups})[ONLY]
    except MaskingError:
        return None


def valid_of(tokens: Tokens) -> Tensor:
    """Which tokens are no padding, `[b n]`."""
    return torch.ones(tokens.values.shape[:2], dtype=torch.bool) if tokens.valid is None else tokens.valid


def flags_of(ids: Tensor, valid: Tensor | None) -> Tensor:
    """Which of the slots of a split are used, `[b k]`."""
    return torch.ones_like(ids, dtype=torch.bool) if valid is None else valid


def _per_group(groups: Groups, b: int) -> Tensor:
    """Valid tokens of a group, by sample."""
    return torch.full((b,), groups.size) if groups.valid is None else groups.valid.clamp(min=1)


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


def all_hidden(tokens: Tokens, split: Split, rows: Sequence[int] | None = None) -> Split:
    """The split with all of some samples hidden; None: of all samples."""
    kept = flags_of(split.ids_keep, split.keep_valid).clone()
    kept[slice(None) if rows is None else list(rows)] = False
    ids = torch.arange(tokens.count).expand(len(kept), -1)
    hidden = ~torch.zeros(ids.shape, dtype=torch.bool).scatter(1, split.ids_keep, kept)
    return Split(split.ids_keep, ids, kept, hidden if tokens.valid is None else hidden & tokens.valid)


def where(there: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """The first for the samples that are there, the second for the others."""
    return torch.where(there.reshape(-1, *[1] * (first.ndim - 1)), first, second)
