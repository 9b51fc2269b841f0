"""Checks of a masking policy, `check(policy)`, on every kind of tokens that it takes."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from mmim.draw import Draw
from mmim.errors import MaskingError, OptionError
from mmim.masking.budget import Ratio, groups_of
from mmim.modality import MaskingPolicy
from mmim.records import Tokens
from mmim.testing.cuts import flags_of, ranks_of, require_partition, require_whole_groups, split_by, valid_of
from mmim.testing.failure import require
from mmim.testing.running import Check
from mmim.testing.storing import require_pickling, require_plain_fields
from mmim.testing.toys import TOYS, some_tokens, toy_tokens

SAMPLES = 512
"""Draws of one sample: a place that is hidden in 2 % of all is missed in all of these with a chance of 3e-5."""
DRAW = Draw(torch.arange(4))


def it_takes_some_tokens(policy: MaskingPolicy) -> None:
    """Of maps, clips, series, padded ones, groups and ids it refuses some at most, with a MaskingError."""
    require(any(True for _ in _taken(policy)), f"ranks for one of {', '.join(TOYS)}", "none", policy, "rank")


def ranks_are_a_number_for_each_token(policy: MaskingPolicy) -> None:
    """Floats `[b n]`, finite wherever there is no padding."""
    for name, tokens in _taken(policy):
        ranks, shape = _ranks(policy, tokens), tuple(tokens.values.shape[:2])
        came = f"{ranks.dtype} {tuple(ranks.shape)} for {name}"
        require(ranks.is_floating_point() and tuple(ranks.shape) == shape, f"floats {shape}", came, policy, "rank")
        finite = bool(ranks[valid_of(tokens)].isfinite().all())
        require(finite, "finite ranks of all that is no padding", f"others for {name}", policy, "rank")


def the_same_draw_gives_the_same_ranks(policy: MaskingPolicy) -> None:
    """To the bit, whatever torch's own generator is at."""
    for name, tokens in _taken(policy):
        first = _ranks(policy, tokens)
        torch.rand(7)
        again = _ranks(policy, tokens)
        require(torch.equal(first, again), "the same ranks of the same draw", f"others for {name}", policy, "rank")


def another_draw_gives_other_ranks(policy: MaskingPolicy) -> None:
    """Of eight further draws some ranks otherwise."""
    for name, tokens in _taken(policy):
        first = _ranks(policy, tokens)
        others = [_ranks(policy, tokens, Draw(DRAW.keys + 100 * turn)) for turn in range(1, 9)]
        differ = any(not torch.equal(first, other) for other in others)
        require(differ, "other ranks of other draws", f"the same of 9 for {name}", policy, "rank")


def ranks_do_not_depend_on_the_batch(policy: MaskingPolicy) -> None:
    """A sample alone, and one in another order of the batch, has the ranks that it has among the others."""
    for name, tokens in _taken(policy):
        ranks, b = _ranks(policy, tokens), len(tokens.values)
        turned = _ranks(policy, some_tokens(tokens, range(b)[::-1]), Draw(DRAW.keys.flip(0))).flip(0)
        alone = [_ranks(policy, some_tokens(tokens, [row]), Draw(DRAW.keys[row : row + 1])) for row in range(b)]
        for other, where in ((turned, "in another order"), (torch.cat(alone), "alone")):
            same = torch.equal(ranks, other)
            require(same, f"the same ranks of a sample {where}", f"others for {name}", policy, "rank")


def whole_groups_and_the_promised_count_are_kept(policy: MaskingPolicy) -> None:
    """Groups divide the tokens, tokens of a group share a rank, and a ratio keeps exactly what its rounding says."""
    for _, tokens in _taken(policy):
        require_whole_groups(policy, tokens, DRAW)


def visible_and_masked_partition_the_tokens(policy: MaskingPolicy) -> None:
    """Every valid token is visible or masked, none is both, and padding is neither."""
    for _, tokens in _taken(policy):
        require_partition(policy, tokens, DRAW)


def every_place_is_hidden_now_and_then(policy: MaskingPolicy) -> None:
    """Of many draws with a ratio of one half each place is hidden in some and visible in others, on average in half.

    The average is over all places, and it may miss the half by one group.
    """
    for name, tokens in _taken(policy):
        shares = _shares_hidden(policy, tokens)
        if shares is not None:
            never, always = (shares == 0).nonzero(), (shares == 1).nonzero()
            said = f"each place hidden in some of {SAMPLES} draws and visible in others"
            came = f"for {name} always visible {never.flatten().tolist()}, always hidden {always.flatten().tolist()}"
            require(not len(never) and not len(always), said, came, policy, "rank")
            half = abs(float(shares.mean()) - 0.5) <= groups_of(policy, tokens).size / tokens.count
            require(half, "half of the places hidden on average", f"{shares.mean():.3g} for {name}", policy, "group")


def ranking_leaves_the_tokens_alone(policy: MaskingPolicy) -> None:
    """They are the same after it as before."""
    for name, tokens in _taken(policy):
        before = [part.clone() for part in _parts(tokens)]
        _ranks(policy, tokens)
        same = all(torch.equal(one, other) for one, other in zip(before, _parts(tokens), strict=True))
        require(same, "tokens as they were", f"others for {name}: it writes into them", policy, "rank")


def it_survives_pickling(policy: MaskingPolicy) -> None:
    """An equal policy comes out of a pickle."""
    require_pickling(policy)


def its_fields_survive_a_recipe_file(policy: MaskingPolicy) -> None:
    """Equal fields come out of `recipe.yaml` and of a checkpoint's `config.json`."""
    require_plain_fields(policy)


MASKING_CHECKS: tuple[Check, ...] = (
    it_takes_some_tokens,
    ranks_are_a_number_for_each_token,
    the_same_draw_gives_the_same_ranks,
    another_draw_gives_other_ranks,
    ranks_do_not_depend_on_the_batch,
    whole_groups_and_the_promised_count_are_kept,
    visible_and_masked_partition_the_tokens,
    every_place_is_hidden_now_and_then,
    ranking_leaves_the_tokens_alone,
    it_survives_pickling,
    its_fields_survive_a_recipe_file,
)
"""Every property that any masking policy must have, `check(policy)`."""


def _taken(policy: MaskingPolicy) -> Iterator[tuple[str, Tokens]]:
    """The kinds of tokens that the policy does not refuse, fresh ones."""
    for name in TOYS:
        try:
            _ranks(policy, toy_tokens(name))
        except (MaskingError, OptionError):
            continue
        yield name, toy_tokens(name)


def _ranks(policy: MaskingPolicy, tokens: Tokens, draw: Draw = DRAW) -> Tensor:
    return ranks_of(policy, tokens, draw)


def _shares_hidden(policy: MaskingPolicy, tokens: Tokens) -> Tensor | None:
    """How often each place of the first sample, which is full, is hidden; None where nothing would stay visible."""
    first = some_tokens(tokens, [0])
    many = replace(
        first,
        values=first.values.expand(SAMPLES, *first.values.shape[1:]),
        coords=first.coords.expand(SAMPLES, -1, -1),
        valid=None if first.valid is None else first.valid.expand(SAMPLES, -1),
    )
    ranks = _ranks(policy, many, Draw(torch.arange(SAMPLES)))
    split = split_by(ranks, many, groups_of(policy, many), Ratio(0.5, rounding="hidden_down"))
    if split is None:
        return None
    hidden = torch.ones(SAMPLES, tokens.count).scatter(
        1, split.ids_keep, (~flags_of(split.ids_keep, split.keep_valid)).float()
    )
    return hidden.mean(dim=0)


def _parts(tokens: Tokens) -> list[Tensor]:
    return [part for part in (tokens.values, tokens.coords, tokens.valid, tokens.fixed) if part is not None]
